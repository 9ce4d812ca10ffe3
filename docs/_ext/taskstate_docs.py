"""Directives of this documentation: tables that are made from the code, so that they match the
code."""

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from taskstate import conf


class SettingsTable(Directive):
    """The table of all settings: their keys, defaults and valid values.

    Each key links to its section of the page, whose heading is the key in words: "Flush interval"
    for ``FLUSH_INTERVAL``.
    """

    def run(self):
        """Return the table, as nodes of the page."""
        rows = ["| key | default | values |", "| --- | --- | --- |"]
        for key, default in conf.DEFAULTS.items():
            anchor = key.lower().replace("_", "-")
            rows.append(f"| [`{key}`](#{anchor}) | `{show(default)}` | {describe_values(key)} |")
        container = nodes.container()
        self.state.nested_parse(StringList(rows, source="conf"), 0, container)
        return container.children


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
