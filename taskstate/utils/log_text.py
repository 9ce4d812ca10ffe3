"""Text that is safe to log, whatever it comes from."""

from __future__ import annotations

from taskstate.utils.untrusted import call_untrusted

#: A longer id or name is cut: as long as the longest name of an actor that is stored.
MAX_LENGTH = 300

#: Takes the place of a character that is not printable.
REPLACEMENT = "\ufffd"


def printable(text: str) -> str:
    """Return ``text`` with U+FFFD in place of each character that is not printable.

    The result can neither break a line of a log nor send a command to the terminal that shows it.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else REPLACEMENT for character in text)


def for_log(value: object) -> str:
    """Return an id or a name from outside as text that is safe to log.  Never raises."""
    try:
        # A member of a text enumeration is logged as its value.
        is_text = isinstance(value, str)
        text = str.__str__(value if is_text else call_untrusted(str, value))
    except Exception:  # noqa: BLE001 - whatever the value raises when it becomes text
        return f"({type(value).__name__})"
    return printable(text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}…")
