"""The benchmarks: their arithmetic, their options, and a smoke run of the whole thing."""

import dataclasses
import importlib
import itertools
import json
import subprocess
import sys
from datetime import datetime
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as bench
from benchmarks import suites
from benchmarks.contenders import commits, contender
from benchmarks.contenders.contender import Contender
from benchmarks.contenders.registry import CONTENDERS, find
from benchmarks.errors import BenchmarkError
from benchmarks.paths import ROOT
from benchmarks.runner import figures, machine, options, plots, report, rounds, servers
from benchmarks.runner import session as session_module
from benchmarks.runner.figures import Figure, Spread
from benchmarks.runner.session import Session
from benchmarks.runner.workload import Workload
from benchmarks.suites import latency, whole
from taskstate.transitions.rank import join_rank, pack_rank
from taskstate.transitions.status import Status
from tests.support.limits import LIMIT_SECONDS
from tests.support.needs import need

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


def git(*arguments, folder=ROOT):
    if folder == ROOT and not (ROOT / ".git").exists():
        pytest.skip("this is not a clone of the repository")
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=True,
    )
    return done.stdout.strip()


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


def test_new_code_is_compared_with_an_earlier_commit():
    samples = {"a": SAMPLES["a"], "upsert": SAMPLES["b"], "upsert@12ab": SAMPLES["a"]}
    rows = {row.key: row for row in figures.rows(FIGURES, samples)}

    assert rows["speed / upsert@12ab"].spreads["upsert"] == Spread(0.5, 0.25, 1)
    assert rows["cpu - upsert@12ab"].spreads["upsert"] == Spread(5, 1, 10)


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


@pytest.mark.parametrize(
    ("name", "suite"), [("untracked@HEAD", "whole"), ("upsert@HEAD", "flush"), ("orm@12", "hooks")]
)
def test_only_this_package_has_commits(name, suite):
    """And only where a contender runs the package of its own."""
    given = options.parse(["--contenders", name], ["whole"])
    with pytest.raises(BenchmarkError, match=f"no contender {name} in {suite}; choose from"):
        options.check_contenders(given, {suite: suites.load(suite)})


def test_a_commit_is_named_by_its_id():
    """In all that comes of the arguments: the command and the tables."""
    head = git("rev-parse", "--short", "HEAD")

    assert commits.pin("untracked,upsert@HEAD,orm") == f"untracked,upsert@{head},orm"
    assert commits.pin("--contenders=upsert@HEAD") == f"--contenders=upsert@{head}"
    for other in ("--output=me@HEAD", "me@HEAD", "--tiny", "upsert"):
        assert commits.pin(other) == other


def test_the_error_of_an_unknown_commit_names_it(capsys):
    assert bench.main(["whole", "--contenders", "upsert@no-such-commit"]) == 1
    assert "no-such-commit" in capsys.readouterr().out


def test_a_contender_of_a_commit_runs_its_package(tmp_path, monkeypatch):
    """And not that of the working tree."""
    name = f"upsert@{git('rev-parse', '--short', 'HEAD')}"
    monkeypatch.setattr(contender, "PEERS", tmp_path)
    with Session() as session:
        session.prepare(name, "sqlite")
        share, done = Workload("stub", "sqlite", 0, 2, 3).run(session, find(name), warm_up=0)
        assert (share, done["missing"]) == (3, 0)

        tmp_path.joinpath(find(name).commit, "taskstate", "middleware.py").write_text("1 / 0")
        with pytest.raises(BenchmarkError, match="ZeroDivisionError"):
            session.run(name, "empty_tables", database="sqlite")


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


def test_results_name_the_commit_and_whether_files_differ_from_it(tmp_path, monkeypatch):
    """Other results may differ: one run changes them before the next."""
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert "(" not in machine.versions([])["dramatiq-taskstate"]
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    for file in (tmp_path / "file", results / "whole.txt"):
        file.write_text("1")
    git("init", "--quiet", folder=tmp_path)
    git("add", ".", folder=tmp_path)
    user = ("-c", "user.name=me", "-c", "user.email=me@example.com")
    git(*user, "commit", "--quiet", "--message=first", folder=tmp_path)
    head = git("rev-parse", "--short", "HEAD", folder=tmp_path)

    assert machine.versions([])["dramatiq-taskstate"].endswith(f" ({head})")
    results.joinpath("whole.txt").write_text("2")
    assert machine.versions([])["dramatiq-taskstate"].endswith(f" ({head})")
    tmp_path.joinpath("file").write_text("2")
    assert machine.versions([])["dramatiq-taskstate"].endswith(f" ({head}-dirty)")


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
    slugs = {one.slug for one in (*CONTENDERS.values(), find("upsert@12ab"), find("upsert@34cd"))}
    assert len(slugs) == len(CONTENDERS) + 2
    assert all(slug.isidentifier() or slug[0].isdigit() for slug in slugs)


def test_two_runs_at_a_time_have_databases_of_their_own():
    """So that the end of one does not drop what the other measures."""
    with Session() as one, Session() as other:
        assert one.database_name("upsert") != other.database_name("upsert")


def test_a_whole_run_takes_each_database_with_each_broker():
    """A smoke run takes each of them once."""
    databases, brokers = ("sqlite", "postgres"), ("stub", "redis", "rabbitmq")
    full = options.Options(databases=databases, brokers=brokers)
    tiny = options.Options(databases=databases, brokers=brokers, tiny=True)

    assert whole.pairs(full) == list(itertools.product(databases, brokers))
    assert whole.pairs(tiny) == [("sqlite", "stub"), ("postgres", "redis"), ("sqlite", "rabbitmq")]


def test_a_whole_run_takes_each_delay_of_the_database():
    """And names it, unless there is none."""
    chosen = options.Options(("postgres",), ("stub",), ("upsert",), (10,), (0,))
    chosen = dataclasses.replace(chosen, database_delays=(0, 1.5))
    near, far = (one.conditions for one in whole.comparisons(chosen, None))

    assert far == {**near, "database delay": "1.5 ms"}


def test_only_a_server_can_be_far_away(capsys):
    assert bench.main(["whole", "--database", "sqlite", "--database-delay", "1"]) == 1
    assert "Choose one with --database postgres,mariadb." in capsys.readouterr().out


def test_a_far_database_is_reached_through_one_proxy_per_delay(monkeypatch):
    """And a near one without any."""

    class Proxy:
        def __init__(self, url, milliseconds):
            self.milliseconds = milliseconds
            made.append(milliseconds)

        def through(self, url):
            return f"{self.milliseconds} ms to {url}"

        def stop(self):
            made.remove(self.milliseconds)

    def url(delay):
        environment = session._environment("upsert", "sqlite", "stub", delay, samples=False)
        return json.loads(environment["BENCHMARK"])["database"]

    made = []
    monkeypatch.setattr(session_module, "DelayProxy", Proxy)
    with Session() as session:
        session._databases["upsert", "sqlite"] = "here"
        assert [url(delay) for delay in (0, 2, 5, 2)] == [
            "here",
            "2 ms to here",
            "5 ms to here",
            "2 ms to here",
        ]
        assert made == [2, 5]
    assert made == []


def test_slow_contenders_take_fewer_messages():
    assert CONTENDERS["upsert"].share(1000) == 1000
    assert CONTENDERS["admin"].share(1000) == 100
    assert CONTENDERS["admin"].share(5) == 1


def rows_of(session, name):
    """Return the rows of a contender's table, as dictionaries without what is NULL."""
    with servers.cursor(session._databases[name, "postgres"]) as cursor:
        cursor.execute("SELECT * FROM taskstate_task ORDER BY description")
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row)) for row in cursor.fetchall()]
    return [{name: row[name] for name in names if row[name] is not None} for row in rows]


def milliseconds(moment):
    return round(moment.timestamp() * 1000)


def assert_same_rows(rows, other, status):
    """In the same columns, with the same values, except for ids, processes and times."""
    differ = {"message_id", "queue_name", "worker", "written_at", "stamp", "rank"}
    assert len(rows) == len(other) > 0
    for row, twin in zip(rows, other):
        assert row.keys() == twin.keys()
        same = {key for key in row if key not in differ and not isinstance(row[key], datetime)}
        assert {key: row[key] for key in same} == {key: twin[key] for key in same}
        assert row["status"] == status
        assert row.get("worker", "").split(":")[0] == twin.get("worker", "").split(":")[0]
        for one in (row, twin):
            rank = pack_rank(Status(status), one["stamp"], milliseconds(one["updated_at"]))
            assert join_rank(one["stamp"], one["rank"]) == rank
            # Microseconds and milliseconds.
            assert len(str(one["written_at"])) == len(str(one["stamp"])) + 3
            if status == "done":
                assert one["enqueued_at"] <= one["started_at"] <= one["finished_at"]
                assert one["updated_at"] == one["finished_at"]


@pytest.mark.once  # Its COPY needs psycopg 3.
def test_the_limit_writes_the_same_rows(django_db_blocker):
    """Also where messages are only sent."""
    need("postgres")
    work = Workload("stub", "postgres", 0, 2, 5)
    processed, sent = {}, {}
    with django_db_blocker.unblock(), Session() as session:
        for name in ("limit", "upsert"):
            session.prepare(name, "postgres")
            work.run(session, CONTENDERS[name], warm_up=1)
            processed[name] = rows_of(session, name)
            work.run(session, CONTENDERS[name], warm_up=1, send_alone=True)
            sent[name] = rows_of(session, name)

    assert_same_rows(processed["limit"], processed["upsert"], "done")
    assert_same_rows(sent["limit"], sent["upsert"], "enqueued")


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
    for one in itertools.chain(*measured.samples.values()):
        assert one.keys() == {figure.key for figure in whole.FIGURES}
        assert one["missing"] == 0
        assert min(one["both"], one["process"], one["cpu"], one["switches"]) > 0
        # The clock of a thread is coarse on some systems.
        assert min(one["send"], one["send_cpu"]) > 0
        assert one["send_thread"] <= one["send_cpu"]
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
