"""A table of text for a terminal: it fits the width, and nothing in it can command the terminal.

Descriptions, errors and names come from anywhere.  A terminal obeys escape sequences, a newline
tears a table apart, and a mark of writing direction turns the rest of a line around.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple, Sequence

#: Between two columns.
GAP = "  "


class Column(NamedTuple):
    """A column of the table.

    Parameters:
      title(str): Its heading.
      least(int): How wide it is at least; it doesn't get narrower than that to fit.
      shrinks(bool): Whether its texts may be shortened to fit.
    """

    title: str
    least: int
    shrinks: bool = False


class Alphabet:
    """What the terminal, or the file, can show.

    Parameters:
      encoding(str): Of the output; None for one that takes all there is.
    """

    def __init__(self, encoding: str | None) -> None:
        self._encoding = encoding or "utf-8"
        rich = self._as_encoded("█░…") == "█░…"
        self.full, self.empty, self.ellipsis = "█░…" if rich else "#.~"

    def clean(self, text: str) -> str:
        """Return a text in one line, of nothing but what is visible and can be encoded."""
        if not (text.isascii() and text.isprintable()):
            text = "".join(_visible(character) for character in text)
        return self._as_encoded(text)

    def bar(self, percent: float, cells: int = 10) -> str:
        """Return a bar for a percentage from 0 to 100, and the figure; it is full at 100 only."""
        full = int(percent * cells / 100)
        return f"{self.full * full}{self.empty * (cells - full)} {int(percent):3}%"

    def cut(self, text: str, width: int) -> str:
        """Return a text that takes ``width`` columns at most; an ellipsis shows what is missing."""
        if width_of(text) <= width:
            return text
        kept, room = [], width - 1
        for character in text:
            room -= width_of(character)
            if room < 0:
                break
            kept.append(character)
        return ("".join(kept) + self.ellipsis) if width > 0 else ""

    def _as_encoded(self, text: str) -> str:
        return text.encode(self._encoding, "replace").decode(self._encoding)


def _visible(character: str) -> str:
    if character in "\t\n\v\f\r\x85\u2028\u2029":
        return " "
    category = unicodedata.category(character)
    if category == "Cf":  # Of no width, if not one that turns the line around.
        return ""
    return "\ufffd" if category in {"Cc", "Cs"} else character


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes that is clean."""
    if text.isascii():
        return len(text)
    return sum(_width_of_character(character) for character in text)


def _width_of_character(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me"}:
        return 0  # It is drawn over the one before.
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def lay_out(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    alphabet: Alphabet,
    width: int | None,
) -> list[list[str]]:
    """Return the heading and the rows, each cell as wide as its column.

    Parameters:
      columns(Sequence): The columns.
      rows(Sequence): The cells of each row; they are clean.
      alphabet(Alphabet): Cuts what is too long.
      width(int): How wide a line may be; None sets no limit.  What doesn't fit after all texts
        were shortened is cut off on the right.
    """
    lines = [[column.title for column in columns], *rows]
    widths = [
        max(column.least, *(width_of(line[number]) for line in lines))
        for number, column in enumerate(columns)
    ]
    if width is not None:
        _shrink(widths, columns, width)
        _cut_off(widths, width)
    return [_line(cells, widths, alphabet) for cells in lines]


def _shrink(widths: list[int], columns: Sequence[Column], width: int) -> None:
    """Take from the widest texts until all fit, or none can give any more."""
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    for _ in range(excess):
        givers = [n for n, c in enumerate(columns) if c.shrinks and widths[n] > c.least]
        if not givers:
            return
        widths[max(givers, key=widths.__getitem__)] -= 1


def _cut_off(widths: list[int], width: int) -> None:
    room = width
    for number, wanted in enumerate(widths):
        widths[number] = max(0, min(wanted, room))
        room -= widths[number] + len(GAP)
    while len(widths) > 1 and widths[-1] == 0:
        widths.pop()


def _line(cells: Sequence[str], widths: Sequence[int], alphabet: Alphabet) -> list[str]:
    """Return as many cells as there are widths, filled up; the last one is left as it is."""
    line = [alphabet.cut(cell, width) for cell, width in zip(cells, widths)]
    for number, cell in enumerate(line[:-1]):
        line[number] = cell + " " * (widths[number] - width_of(cell))
    return line
