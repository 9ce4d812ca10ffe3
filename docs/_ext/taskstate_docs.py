"""Directives of this documentation: tables that are made from the code, so that they stay true."""

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from taskstate import conf


class SettingsTable(Directive):
    """The table of all settings: their keys, defaults and ranges."""

    def run(self):
        rows = ["| key | default | values |", "| --- | --- | --- |"]
        for key, default in conf.DEFAULTS.items():
            shown = f"{default:,}" if type(default) is int else repr(default)
            rows.append(f"| [`{key}`](#{key.lower().replace('_', '-')}) | `{shown}` | {values(key)} |")
        container = nodes.container()
        self.state.nested_parse(StringList(rows, source="conf"), 0, container)
        return container.children


def values(key):
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
    app.add_directive("settings-table", SettingsTable)
    return {"parallel_read_safe": True}
