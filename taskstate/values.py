"""What comes with a message, made fit for the columns of a task.

Values arrive from anywhere: other services, older releases, people's input.  Each is made
fit here, before it reaches a batch, so that one message's oddity can't fail the others.
"""

from __future__ import annotations

import math
import re
from typing import Any, Callable, NamedTuple
from uuid import UUID

from .transitions import MAX_TIME, UserPk

ACTOR_NAME_LENGTH = 300
QUEUE_NAME_LENGTH = 100
DESCRIPTION_LENGTH = 255
MODEL_NAME_LENGTH = 100
APP_NAME_LENGTH = 100
ERROR_LENGTH = 255

#: All texts of a task together.
TEXT_LENGTH = (
    ACTOR_NAME_LENGTH + QUEUE_NAME_LENGTH + DESCRIPTION_LENGTH + MODEL_NAME_LENGTH + APP_NAME_LENGTH
)

#: The largest ``attempt`` that fits its column, an integer of 32 bits.
MAX_ATTEMPT = 2**31 - 1

ELLIPSIS = "…"

#: A longer text is no primary key of anything, and not worth parsing.
_LONGEST_KEY = 255

_is_canonical = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


def clean_text(value: object, length: int) -> str:
    """Return ``value`` as text of at most ``length`` characters that every database takes.

    Too long a text ends in an ellipsis.  NUL characters and lone surrogates, which PostgreSQL
    refuses, are removed.  None is the empty text.
    """
    if value is None:
        return ""
    if type(value) is str and len(value) <= length and value.isascii() and "\0" not in value:
        return value  # As almost all are.
    # An enumeration's member is its value: the worker gets that, by JSON.
    text = str.__str__(value) if isinstance(value, str) else str(value)
    if not text.isascii():
        text = text.encode("utf-8", "ignore").decode("utf-8")
    if "\0" in text:
        text = text.replace("\0", "")
    if len(text) > length:
        text = text[: length - 1] + ELLIPSIS
    return text


def clean_message_id(value: object) -> str:
    """Return a message id as the canonical text of a UUID.

    Raises:
      ValueError: If it isn't the text of a UUID.
    """
    if type(value) is str and _is_canonical(value):
        return value
    return str(UUID(str(value)))


def clean_count(value: object, limit: int) -> int:
    """Return ``value`` if it is a whole number from 0 to ``limit``, the nearer end if it lies
    outside, and 0 if it is no whole number at all."""
    if type(value) is not int:
        return 0
    return value if 0 <= value <= limit else min(max(value, 0), limit)


def clean_time(value: object) -> int:
    """Return a time in milliseconds since 1970, held within what a rank can hold; 0 for what
    is no time at all."""
    if type(value) is float and math.isfinite(value):
        value = int(value)
    return clean_count(value, MAX_TIME)


class UserKey(NamedTuple):
    """What the primary key of the user model can take.  ``taskstate.models`` makes one."""

    to_python: Callable[[Any], Any]
    smallest: int
    greatest: int
    max_length: int | None
    #: Whether it is a whole number, which is its own ``to_python``.
    is_integer: bool = False

    def clean(self, value: object) -> UserPk:  # noqa: C901
        """Return ``value`` as a primary key of the user model.

        Raises:
          ValueError: If the key can't take it; the message says why.
        """
        if value is None:
            return None
        if self.is_integer and type(value) is int and self.smallest <= value <= self.greatest:
            return value
        if isinstance(value, bool) or not isinstance(value, (int, str, UUID)):
            raise ValueError(f"a {type(value).__name__} is no primary key")  # noqa: TRY004
        if isinstance(value, str) and len(value) > _LONGEST_KEY:
            raise ValueError("the text is longer than any primary key")
        try:
            key = self.to_python(value)
        except Exception as error:
            raise ValueError("the primary key of the user model can't take it") from error
        if isinstance(key, int) and not self.smallest <= key <= self.greatest:
            raise ValueError(f"it lies outside {self.smallest} to {self.greatest}")
        if isinstance(key, str):
            if clean_text(key, len(key)) != key:
                raise ValueError("it holds characters that no database takes")
            if self.max_length is not None and len(key) > self.max_length:
                raise ValueError(f"it is longer than {self.max_length} characters")
        if key is None or isinstance(key, (int, str, UUID)):
            return key
        raise ValueError(f"a primary key of type {type(key).__name__} can't be tracked")
