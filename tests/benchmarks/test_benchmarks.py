"""The benchmarks: their arithmetic, their options, and a smoke run of the whole thing."""

import importlib
import itertools
import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as bench
from benchmarks import suites
from benchmarks.contenders.contender import Contender
from benchmarks.contenders.registry import CONTENDERS
from benchmarks.errors import BenchmarkError
from benchmarks.paths import ROOT
from benchmarks.runner import figures, machine, options, plots, report, rounds, servers
from benchmarks.runner.figures import Figure, Spread
from benchmarks.runner.session import Session
from benchmarks.suites import latency, whole
from tests.support.limits import LIMIT_SECONDS

SUITE = SimpleNamespace(
    CHOICES={
        "contenders": ("untracked", "orm", "admin"),
        "databases": ("sqlite", "postgres"),
        "brokers": ("stub",),
    },
    DEFAULTS={
        "contenders": ("untracked", "orm"),
        "databases": ("sqlite",),
        "brokers": ("stub",),
        "messages": (1000,),
    },
    TINY={"messages": (10,), "contenders": ("untracked",)},
)

FIGURES = (
    Figure("speed", "speed", "messages/s", ratios=("a",)),
    Figure("cpu", "processor time", "µs", added_to="a"),
)
SAMPLES = {
    "a": [{"speed": 100, "cpu": 10}, {"speed": 200, "cpu": 30}, {"speed": 400, "cpu": 20}],
    "b": [{"speed": 50, "cpu": 15}, {"speed": 50, "cpu": 40}, {"speed": 400, "cpu": 21}],
}


def for_suite(*argv):
    return options.for_suite(options.parse(argv, ["whole"]), "whole", SUITE)


def make_report(samples=SAMPLES, **conditions):
    return report.Report(
        suite="made",
        title="Made up",
        command="python -m benchmarks made",
        date="2026-01-01",
        machine={"cpu": "x", "cores": 2, "memory": "1 GiB", "system": "Linux"},
        versions={"Python": "3"},
        figures=list(FIGURES),
        comparisons=[rounds.Measured(conditions or {"messages": 10}, samples)],
    )


def test_contenders_take_turns():
    assert list(rounds.turns(["a", "b", "c"], 2)) == [
        (1, "a"),
        (1, "b"),
        (1, "c"),
        (2, "a"),
        (2, "b"),
        (2, "c"),
    ]


def test_each_contender_is_measured_in_each_round():
    """In turn, and announced before."""
    seen = []
    numbers = itertools.count()

    def measured(name):
        seen.append(name)
        return {"speed": next(numbers)}

    comparison = rounds.Comparison(
        {"messages": 1}, {"a": lambda: measured("a"), "b": lambda: measured("b")}
    )
    result = rounds.measure(comparison, 2, lambda number, name: seen.append((number, name)))

    assert seen == [(1, "a"), "a", (1, "b"), "b", (2, "a"), "a", (2, "b"), "b"]
    assert result.samples == {
        "a": [{"speed": 0}, {"speed": 2}],
        "b": [{"speed": 1}, {"speed": 3}],
    }


def test_a_spread_is_the_median_and_both_ends():
    assert Spread.of([5, 1, 3]) == Spread(3, 1, 5)
    assert Spread.of([1, 2]) == Spread(1.5, 1, 2)


def test_ratios_are_taken_round_by_round():
    """Not from the medians, which here are 50 and 200."""
    rows = {row.key: row for row in figures.rows(FIGURES, SAMPLES)}

    assert rows["speed"].spreads["a"] == Spread(200, 100, 400)
    assert rows["speed / a"].spreads == {"b": Spread(0.5, 0.25, 1)}


def test_differences_are_taken_round_by_round():
    rows = {row.key: row for row in figures.rows(FIGURES, SAMPLES)}

    assert rows["cpu - a"].spreads == {"b": Spread(5, 1, 10)}


def test_what_was_not_measured_has_no_row():
    """A figure that a comparison lacks, one that could not be had, and a missing baseline."""
    samples = {"b": [{"speed": 1, "cpu": None}, {"speed": 2}]}

    assert [row.key for row in figures.rows(FIGURES, samples)] == ["speed"]


def test_a_ratio_to_nothing_is_left_out():
    samples = {"a": [{"speed": 0}, {"speed": 2}], "b": [{"speed": 1}, {"speed": 1}]}
    rows = {row.key: row for row in figures.rows(FIGURES, samples)}

    assert rows["speed / a"].spreads == {"b": Spread(0.5, 0.5, 0.5)}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12345.6, "12,346"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.0012345, "0.00123"),
        (-5.678, "-5.68"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert figures.format_number(value) == text


def test_percentiles():
    assert latency.percentile(list(range(1, 101)), 99) == 99
    assert latency.percentile([3, 1, 2], 99) == 3
    assert latency.percentile([7], 99) == 7


def test_the_json_brings_the_report_back():
    made = make_report()
    assert report.Report.from_json(made.as_json()) == made


def test_a_table_shows_medians_spreads_and_ratios(tmp_path):
    made = make_report()
    _, text = made.save(tmp_path)
    content = text.read_text(encoding="utf-8")

    for part in ("Made up: messages 10", "3 rounds", "100 to 400", "divided by a", "0.25 to 1.00"):
        assert part in content
    assert "$ python -m benchmarks made" in content


@pytest.mark.once
@pytest.mark.parametrize(
    "plot",
    [
        plots.Bars("bars", "Bars", ("speed",)),
        plots.Bars("log", "Bars", ("speed",), log=True),
        plots.Lines("lines", "Lines", "speed", x="messages"),
        plots.Lines("rate", "Lines", "cpu", x="speed", within="messages", log=True),
    ],
)
def test_plots_are_drawn(plot, tmp_path):
    if not plots.can_draw():
        pytest.skip("matplotlib is not installed")
    (path,) = plots.draw(make_report(), [plot], tmp_path)
    assert path.name == f"made-{plot.name}.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_what_was_not_measured_is_not_drawn(tmp_path):
    missing = [
        plots.Bars("bars", "Bars", ("memory",)),
        plots.Lines("lines", "Lines", "speed", x="processes"),
    ]
    assert plots.draw(make_report(), missing, tmp_path) == []


def test_options_default_to_the_suites_own():
    chosen = for_suite()
    assert chosen.contenders == ("untracked", "orm")
    assert chosen.messages == (1000,)
    assert chosen.durations == (0,)
    assert (chosen.rounds, chosen.threads) == (5, 8)


def test_a_smoke_run_is_small():
    chosen = for_suite("--tiny")
    assert chosen.contenders == ("untracked",)
    assert chosen.messages == (10,)
    assert chosen.rounds == 2


def test_what_is_given_wins_in_a_smoke_run_as_well():
    chosen = for_suite("--tiny", "--messages", "20", "--rounds", "3", "--contenders", "orm")
    assert chosen.contenders == ("orm",)
    assert (chosen.messages, chosen.rounds) == ((20,), 3)


def test_lists_have_commas_and_repetitions():
    chosen = for_suite("--messages", "10,20", "--messages", "20,30", "--duration", "0,1.5,10")
    assert chosen.messages == (10, 20, 30)
    assert chosen.durations == (0, 1.5, 10)


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["all"], "all: no such suite. There are whole."),
        (["--messages", "0"], "'0' is not a whole number of at least 1"),
        (["--messages", "many"], "'many' is not a whole number of at least 1"),
        (["--duration", "-1"], "'-1' is not a number of milliseconds up to 60,000"),
        (["--broker", "stub,kafka"], "there is no kafka; choose from stub, redis, rabbitmq"),
        (["--database", "oracle"], "there is no oracle; choose from sqlite, postgres, mariadb"),
    ],
)
def test_the_error_of_a_wrong_option_names_it_and_what_to_do(argv, complaint, capsys):
    with pytest.raises(SystemExit) as caught:
        options.parse(argv, ["whole"])
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_suite_rejects_what_it_can_not_do():
    with pytest.raises(options.UnsupportedError, match="whole runs on sqlite and postgres alone"):
        for_suite("--database", "mariadb")


def test_an_unknown_contender_is_an_error():
    given = options.parse(["--contenders", "orm,celery"], ["whole"])
    with pytest.raises(BenchmarkError, match="no contender celery in whole; choose from untracked"):
        options.check_contenders(given, {"whole": SUITE})


def test_the_error_of_a_missing_server_states_what_to_do(monkeypatch):
    """Which does not show the password."""
    monkeypatch.setenv("TASKSTATE_POSTGRES_URL", "postgres://me:secret@127.0.0.1:1/x")
    with pytest.raises(BenchmarkError) as caught:
        for_suite("--database", "postgres")
    assert str(caught.value) == (
        "postgres does not answer at postgres://127.0.0.1:1/x. Start it, name another address in "
        "TASKSTATE_POSTGRES_URL, or choose another one with --database."
    )


def test_a_smoke_run_takes_the_servers_that_answer(monkeypatch):
    monkeypatch.setenv("TASKSTATE_POSTGRES_URL", "postgres://127.0.0.1:1/x")
    assert not servers.answers("postgres")
    assert for_suite("--tiny").databases == ("sqlite",)


def test_an_error_ends_the_run(monkeypatch, capsys):
    monkeypatch.setenv("TASKSTATE_POSTGRES_URL", "postgres://127.0.0.1:1/x")
    assert bench.main(["whole", "--database", "postgres"]) == 1
    assert "Error: postgres does not answer" in capsys.readouterr().out


def test_the_recorded_command_contains_no_path():
    command = machine.command(["whole", "--output", "/somewhere", "--tiny", "--output=/else"])
    assert command == "python -m benchmarks whole --tiny"


@pytest.mark.parametrize("name", suites.NAMES)
def test_suites_hold_what_suites_hold(name):
    suite = importlib.import_module(f"benchmarks.suites.{name}")
    keys = {figure.key for figure in suite.FIGURES}
    for plot in suite.PLOTS:
        assert keys.issuperset(plot.figures if isinstance(plot, plots.Bars) else [plot.figure])
    assert set(suite.DEFAULTS["contenders"]) <= set(suite.CHOICES["contenders"])
    for key in ("databases", "brokers", "contenders"):
        assert set(suite.TINY.get(key, ())) <= set(suite.CHOICES.get(key, ()))


def test_contenders_have_databases_of_their_own():
    slugs = {contender.slug for contender in CONTENDERS.values()}
    assert len(slugs) == len(CONTENDERS)
    assert all(slug.isidentifier() or slug[0].isdigit() for slug in slugs)


def test_a_whole_run_takes_each_database_with_each_broker():
    """A smoke run takes each of them once."""
    databases, brokers = ("sqlite", "postgres"), ("stub", "redis", "rabbitmq")
    full = options.Options(databases=databases, brokers=brokers)
    tiny = options.Options(databases=databases, brokers=brokers, tiny=True)

    assert whole.pairs(full) == list(itertools.product(databases, brokers))
    assert whole.pairs(tiny) == [("sqlite", "stub"), ("postgres", "redis"), ("sqlite", "rabbitmq")]


def test_slow_contenders_take_fewer_messages():
    assert CONTENDERS["upsert"].share(1000) == 1000
    assert CONTENDERS["admin"].share(1000) == 100
    assert CONTENDERS["admin"].share(5) == 1


def test_the_wrong_package_is_not_measured(monkeypatch, tmp_path):
    """A contender whose folder lacks ``taskstate`` would get another one's."""
    monkeypatch.setattr(Contender, "folder", tmp_path)
    wrong = pytest.raises(BenchmarkError, match="was to be measured, and Python")
    with Session() as session, wrong:
        session.prepare("orm", "sqlite")


def test_a_wrong_setting_is_not_measured(monkeypatch):
    """As the default, which a process that runs no checks takes."""
    monkeypatch.setitem(CONTENDERS["orm"].taskstate, "STORE", "fast")
    with Session() as session, pytest.raises(BenchmarkError, match="STORE is 'fast'"):
        session.prepare("orm", "sqlite")


@pytest.mark.once
def test_a_smoke_run_comes_to_tables_json_and_plots(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "--tiny", "--database", "sqlite"),
            *("--broker", "stub", "--contenders", "untracked,orm", "--output", str(tmp_path)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS * 8,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Left out: database runs on postgres alone." in done.stdout
    assert "round 2 of 2, orm" in done.stdout
    made = report.Report.from_json((tmp_path / "whole.json").read_text(encoding="utf-8"))
    (measured,) = made.comparisons
    assert measured.conditions["database"] == "sqlite"
    assert {name: len(samples) for name, samples in measured.samples.items()} == {
        "untracked": 2,
        "orm": 2,
    }
    assert all(one["both"] > 0 for samples in measured.samples.values() for one in samples)
    table = (tmp_path / "whole.txt").read_text(encoding="utf-8")
    assert "divided by untracked" in table
    assert "divided by untracked" in done.stdout
    assert str(ROOT) not in table
    if plots.can_draw():
        assert (tmp_path / "whole-speed.png").read_bytes().startswith(b"\x89PNG")
    else:
        assert "There are no plots" in done.stdout


def test_a_contender_that_the_database_is_not_for_is_an_error(capsys):
    """Rather than an empty table."""
    assert bench.main(["whole", "--database", "sqlite", "--contenders", "0.3.4"]) == 1
    assert "whole: 0.3.4 does not run on sqlite." in capsys.readouterr().out
