"""Writes the table of all settings into ``operations/settings.md``, as the code has them now.

Run it after a change in ``taskstate/conf.py``; ``tests/test_docs.py`` fails until then::

    python docs/settings_table.py
"""

import inspect
import re
from pathlib import Path

from taskstate import conf

PAGE = Path(__file__).parent / "operations" / "settings.md"
#: From the head of the table to its last row.
TABLE = re.compile(r"^\| key \|.*\n(?:\|.*\n)*", re.MULTILINE)
#: The comment on a field of ``Config``, and the name of the field.
FIELD = re.compile(r"((?:^ +#: .*\n)+) +(\w+):", re.MULTILINE)


def with_current_table(page):
    """Return the text of the page, with the table that the code has now."""
    return TABLE.sub(lambda _: make_table(), page, count=1)


def make_table():
    """Return the table as Markdown.

    Each key links to its section of the page, whose heading is the key in words: "Flush interval"
    for ``FLUSH_INTERVAL``.
    """
    rows = ["| key | what it does | default | values |", "| --- | --- | --- | --- |"]
    purposes = find_purposes()
    for key, default in conf.DEFAULTS.items():
        anchor = key.lower().replace("_", "-")
        cells = (purposes[key], describe_default(key, default), describe_values(key))
        rows.append(f"| [`{key}`](#{anchor}) | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def find_purposes():
    """Return what each setting does, by its key: the first clause of the comment on its field."""
    purposes = {}
    for comment, name in FIELD.findall(inspect.getsource(conf.Config)):
        text = " ".join(line.strip()[3:] for line in comment.splitlines())
        purposes[name.upper()] = re.split(r"[.:](?: |$)", text)[0].replace("``", "`")
    return purposes


def describe_default(key, default):
    """Return the default of a setting, with its exception."""
    text = f"`{show(default)}`"
    return f"{text} (in-memory SQLite: `True`)" if key == "SYNCHRONOUS" else text


def show(default):
    """Return a default as a project would write it."""
    if isinstance(default, tuple):
        return repr(list(default))
    return f"{default:_}" if type(default) is int and default >= 10_000 else repr(default)


def describe_values(key):
    """Return the valid values of a setting, in words."""
    if key in conf._RANGES:
        smallest, greatest, unit = conf._RANGES[key]
        return f"{smallest:,} to {greatest:,} {unit}"
    if key in conf._FUNCTIONS:
        return "a function, or its dotted path"
    if key == "STORE":
        return ", ".join(f"`{name!r}`" for name in conf.STORES)
    if key == "TRUSTED_ENCODERS":
        return "a list of dotted paths"
    return "`True`, `False`"


if __name__ == "__main__":
    PAGE.write_text(with_current_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
