"""Directives of this documentation: tables that are made from the code, so that they match the
code."""

import re

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.pycode import ModuleAnalyzer

from taskstate import conf


class SettingsTable(Directive):
    """The table of all settings: their keys, what they do, their defaults and valid values.

    Each key links to its section of the page, whose heading is the key in words: "Flush interval"
    for ``FLUSH_INTERVAL``.
    """

    def run(self):
        """Return the table, as nodes of the page."""
        rows = ["| key | what it does | default | values |", "| --- | --- | --- | --- |"]
        purposes = find_purposes()
        for key, default in conf.DEFAULTS.items():
            anchor = key.lower().replace("_", "-")
            cells = (purposes[key], describe_default(key, default), describe_values(key))
            rows.append(f"| [`{key}`](#{anchor}) | {' | '.join(cells)} |")
        container = nodes.container()
        self.state.nested_parse(StringList(rows, source="conf"), 0, container)
        return container.children


def find_purposes():
    """Return what each setting does, by its key: the first clause of the comment on its field."""
    comments = ModuleAnalyzer.for_module("taskstate.conf").find_attr_docs()
    purposes = {}
    for (owner, name), lines in comments.items():
        if owner == "Config":
            purposes[name.upper()] = re.split(r"[.:](?: |$)", " ".join(lines))[0]
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


def setup(app):
    """Add the directives to Sphinx."""
    app.add_directive("settings-table", SettingsTable)
    return {"parallel_read_safe": True}
