"""The characters that an output can show, and that can do no harm there.

Descriptions, errors and names come from anywhere.  A terminal obeys escape sequences, a newline
breaks a table, and a mark of writing direction reverses the rest of a line.
"""

from __future__ import annotations

import unicodedata

from taskstate.utils.log_text import REPLACEMENT
from taskstate.utils.percentages import format_percent

#: The width of a progress bar.
BAR_CELLS = 10


class Charset:
    """The characters of an encoding, for one line of text.

    Parameters:
      encoding(str): The encoding of the output.  None stands for UTF-8.
    """

    def __init__(self, encoding: str | None) -> None:
        self.encoding = encoding or "utf-8"
        #: Whether an ellipsis and the characters of a bar can be shown.
        self.has_symbols = self.encodable("█░…") == "█░…"
        self._full, self._empty = "█░" if self.has_symbols else "#."

    def encodable(self, text: str) -> str:
        """Return ``text`` with a question mark for each character that the encoding lacks."""
        return text.encode(self.encoding, "replace").decode(self.encoding)

    def clean(self, text: str) -> str:
        """Return ``text`` as one line of visible characters that the encoding has."""
        if not (text.isascii() and text.isprintable()):
            text = "".join(_visible(character) for character in text)
        return self.encodable(text)

    def bar(self, percent: float) -> str:
        """Return a bar and the percentage: ``"████░░░░░░  42 %"``.  Only at 100 % is it full."""
        full = int(percent * BAR_CELLS / 100)
        bar = self._full * full + self._empty * (BAR_CELLS - full)
        return f"{bar} {format_percent(percent):>5}"


def _visible(character: str) -> str:
    if character in "\t\n\v\f\r\x85\u2028\u2029":
        return " "
    category = unicodedata.category(character)
    if category == "Cf":  # It has no width, and it may be a mark of writing direction.
        return ""
    return REPLACEMENT if category in {"Cc", "Cs"} else character
