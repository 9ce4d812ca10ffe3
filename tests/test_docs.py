"""The documentation names what the code has, and its links lead somewhere."""

import re
import runpy
from pathlib import Path

import pytest

import taskstate
from taskstate import conf, testing

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        *ROOT.glob("docs/**/*.md"),
        *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG")),
    )
)

FENCE = re.compile(r"^ *(`{3,}).*?^ *\1`* *$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`+)(?!`)(?:(?!\n\n).)*?(?<!`)\1(?!`)", re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
#: A link or a picture, or the target of a link that is defined elsewhere on the page.
LINK = re.compile(r"\]\(<?([^)>\s]+)|^\[[^\]]+\]: +(\S+)", re.MULTILINE)
LINKED_TEXT = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
#: A page of the documentation, and mostly a heading of it, in the code of the package.
PAGE = re.compile(r"\bdocs/[\w/]+\.md(?:#[\w-]+)?")
#: The levels of the records that these methods of a logger make, besides INFO.
LEVELS = {"exception": "ERROR", "error": "ERROR", "warning": "WARNING", "debug": "DEBUG"}
#: Other sites, and addresses below the root of a site.
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|/")


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def headings(text):
    return HEADING.findall(FENCE.sub("", text))


def anchors(text):
    """Return the anchors that GitHub gives to the headings of a page."""
    found = []
    for heading in headings(text):
        plain = LINKED_TEXT.sub(r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        # The second heading with the same text gets "-1".
        count = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", each) is not None for each in found)
        found.append(f"{slug}-{count}" if count else slug)
    return found


def links(text):
    """Return the relative links of a page."""
    prose = CODE.sub("", FENCE.sub("", text))
    found = [one or other for one, other in LINK.findall(prose)]
    return [link for link in found if not ELSEWHERE.match(link)]


def fault(page, link):
    """Return what is wrong with a link of a page, or None."""
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    if not target.exists():
        return "no such file"
    if anchor and target.suffix == ".md" and anchor not in anchors(target.read_text("utf-8")):
        return "no such heading"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """To a file that exists, and a heading that it has."""
    found = {link: fault(page, link) for link in links(read(page))}

    assert {link: text for link, text in found.items() if text} == {}


def test_the_package_names_headings_that_exist():
    """In the hints of checks, and in the console of the browser."""
    files = [path for name in ("py", "js", "html") for path in ROOT.glob(f"taskstate/**/*.{name}")]
    named = {link for path in files for link in PAGE.findall(path.read_text("utf-8"))}
    found = {link: fault("README.md", link) for link in named}

    assert {link: text for link, text in found.items() if text} == {}
    assert len(found) > 5
    assert fault("README.md", "docs/troubleshooting.md#nowhere") == "no such heading"


def test_a_broken_link_is_found():
    """This test would see one; code is no link."""
    text = "[`a`](b.md#c) ![d\ne](f.png) [g](https://h) `[i](j)` [k][l]\n\n[l]: m.md\n"
    text += "```\n[n](o)\n```\n"

    assert links(text) == ["b.md#c", "f.png", "m.md"]
    assert fault("docs/index.md", "nowhere.md") == "no such file"
    assert fault("docs/index.md", "index.md#nowhere") == "no such heading"
    assert fault("docs/index.md", "#dramatiq-taskstate") is None


def test_anchors():
    """Like GitHub's."""
    text = "# The `set_x()` of [A](b.md)\n## Why, A?\n```\n# no heading\n```\n## Why, A?\n"

    assert anchors(text) == ["the-set_x-of-a", "why-a", "why-a-1"]


def test_each_check_is_described():
    """By its id, in a table and under a heading; and no page names one that is not there."""
    code = "".join(path.read_text("utf-8") for path in ROOT.glob("taskstate/*.py"))
    ids = set(re.findall(r"""(?:taskstate\.|")([EW]\d{3})\"""", code))
    page = read("docs/reference/checks.md")

    assert len(ids) > 10
    assert set(re.findall(r"^\| \[taskstate\.(\w+)\]", page, re.MULTILINE)) == ids
    assert {id_ for text in headings(page) for id_ in re.findall(r"\b[EW]\d{3}\b", text)} == ids
    named = {id_ for each in PAGES for id_ in re.findall(r"taskstate\.([EW]\d+)", read(each))}
    assert named <= ids


def test_each_logger_is_described():
    """With the levels of its records, as far as the code of its module shows them."""
    page = read("docs/operations/metrics.md")
    rows = re.findall(r"^\| `(taskstate[\w.]*)` \|(.*)\|(.*)\|(.*)\|$", page, re.MULTILINE)
    described = {
        name: {level for level, cell in zip(("ERROR", "WARNING", "DEBUG"), cells) if cell.strip()}
        for name, *cells in rows
    }
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text("utf-8")
        for path in ROOT.glob("taskstate/**/*.py")
    }
    modules = {name: code for name, code in modules.items() if "getLogger(__name__)" in code}

    assert described.keys() == modules.keys()
    for name, code in modules.items():
        levels = {LEVELS.get(call) for call in re.findall(r"\blogger\.(\w+)\(", code)}
        assert levels - {None} <= described[name], name
        # The code passes its logger on, or calculates a level.
        is_partial = re.search(r"\blogger\b(?! =|\.\w+\()", code) or None in levels
        assert is_partial or described[name] == levels, name


def test_each_setting_is_described():
    """Under a heading of its own: "Flush interval" for FLUSH_INTERVAL."""
    found = headings(read("docs/operations/settings.md"))

    assert set(conf.DEFAULTS) - {text.upper().replace(" ", "_") for text in found} == set()


def test_the_table_of_settings_is_current():
    """As docs/settings_table.py makes it from the code."""
    page = read("docs/operations/settings.md")
    script = runpy.run_path(str(ROOT / "docs" / "settings_table.py"))

    assert script["make_table"]() in page, "Run: python docs/settings_table.py"
    assert script["with_current_table"](page) == page


@pytest.mark.parametrize("module", [taskstate, testing])
def test_each_public_name_is_described(module):
    """By a directive of Sphinx."""
    page = read("docs/reference/api.md")
    found = set(re.findall(r"^\.\. (?:auto|py:)\w+:: (?:[\w.]+\.)?(\w+)", page, re.MULTILINE))

    assert set(module.__all__) - found == set()
