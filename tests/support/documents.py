"""The blocks of the documents that are run.  A comment before a block says what becomes of it:

- ``<!-- file: NAME -->``: it is a file of the reader's project, or a part of one;
- ``<!-- shell -->``: the reader runs it, in Django's shell or in that of the database;
- ``<!-- not run: REASON -->``.

It needs nothing but Python: ``.ci/quickstart`` imports it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

#: A block, with its comment; those in a list are indented.
BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<kind>file|shell|not run)(?:: (?P<name>.+?))? -->\n *)?"
    r"```(?P<language>[\w+]+)\n(?P<code>.*?)\n *```$",
    re.DOTALL | re.MULTILINE,
)


#: The files that a new project has, and that are added to.
ADDED_TO = {
    "settings.py": "mysite/settings.py",
    "urls.py": "mysite/urls.py",
    "shop/apps.py": "shop/apps.py",
}


class Block(NamedTuple):
    """A block of a document."""

    kind: str | None
    name: str | None
    language: str
    code: str


def blocks(text):
    """Return all blocks of a document, without the indentation that they have in a list."""
    return [
        Block(
            found["kind"],
            found["name"],
            found["language"],
            re.sub(f"^{found['indent']}", "", found["code"], flags=re.MULTILINE),
        )
        for found in BLOCK.finditer(text)
    ]


def files(text):
    """Return the files of a document by their names, each with all of its parts."""
    found = {}
    for block in blocks(text):
        if block.kind == "file":
            found.setdefault(block.name, []).append(block.code)
    return {name: "\n\n\n".join(parts) for name, parts in found.items()}


def sections(text):
    """Return the sections of a document, by their headings of the second level."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def write(folder, name, code):
    """Write a file into a project, or add to it."""
    path = folder / ADDED_TO.get(name, name)
    if name in ADDED_TO:
        code = f"{path.read_text()}\n{code}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{code}\n")
