"""What comes with a message, made fit for the columns of a task.

Values arrive from anywhere: other services, older releases, people's input.  Each is made
fit here, before it reaches a batch, so that one message's oddity can't fail the others.
"""

from __future__ import annotations

import json
import math
import re
import traceback
from typing import Any, Callable, NamedTuple
from uuid import UUID

from .transitions import MAX_TIME, UserPk

ACTOR_NAME_LENGTH = 300
QUEUE_NAME_LENGTH = 100
DESCRIPTION_LENGTH = 255
MODEL_NAME_LENGTH = 100
APP_NAME_LENGTH = 100
ERROR_LENGTH = 255
WORKER_LENGTH = 100
PROGRESS_TEXT_LENGTH = 255
TRACEBACK_LENGTH = 8_000
#: Of the text of JSON, in characters.
METADATA_LENGTH = 4_000
RESULT_LENGTH = 64_000
STORED_MESSAGE_LENGTH = 64_000

#: Frames of each exception in a traceback, at its innermost end.
TRACEBACK_FRAMES = 30
#: How deep JSON may be nested: MariaDB's functions read 32 levels.
JSON_DEPTH = 30

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


def clean_line(value: object, length: int) -> str:
    """Return ``value`` like ``clean_text``, in one line."""
    return clean_text(" ".join(clean_text(value, 4 * length).split()), length)


def clean_json(value: object, length: int) -> str:
    """Return ``value`` as text of JSON that every database takes.

    Raises:
      ValueError: If it isn't JSON, is nested too deeply, holds characters that no database takes,
        or takes more than ``length`` characters; the message says which.
    """
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"it can't be made JSON ({type(error).__name__}: {error})") from error
    if len(text) > length:
        raise ValueError(f"it takes {len(text):,} characters of JSON, and {length:,} are allowed")
    if not _nests_at_most(value, JSON_DEPTH):
        raise ValueError(f"it is nested more than {JSON_DEPTH} levels deep")
    if _is_refused(text):
        raise ValueError("it holds a NUL character or half of a surrogate pair")
    return text


def _is_refused(text: str) -> bool:
    r"""Return whether PostgreSQL refuses a text of JSON for a ``\u0000`` or a lone surrogate."""
    if "\\u0000" not in text and "\\ud" not in text:
        return False
    found = json.dumps(json.loads(text), ensure_ascii=False)
    return "\\u0000" in found.replace("\\\\", "") or clean_text(found, len(found)) != found


def _nests_at_most(value: object, levels: int) -> bool:
    if not isinstance(value, (dict, list, tuple)):
        return True
    items = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_nests_at_most(item, levels - 1) for item in items)


def describe_exception(exception: BaseException) -> str:
    """Return the type and the message of an exception, in one line."""
    name = type(exception).__name__
    try:
        text = clean_line(exception, ERROR_LENGTH)
    except Exception:  # noqa: BLE001 - whatever its own methods raise
        text = "(its message can't be read)"
    return clean_line(f"{name}: {text}" if text else name, ERROR_LENGTH)


def format_traceback(exception: BaseException) -> str:
    """Return the traceback of an exception; of a long one, the innermost end."""
    try:
        lines = traceback.format_exception(
            type(exception), exception, exception.__traceback__, limit=-TRACEBACK_FRAMES
        )
    except Exception as error:  # noqa: BLE001 - whatever its own methods raise
        lines = [f"The traceback can't be read: {type(error).__name__}"]
    text = "".join(lines)
    text = clean_text(text[-2 * TRACEBACK_LENGTH :], 2 * TRACEBACK_LENGTH).strip()
    if len(text) > TRACEBACK_LENGTH:
        text = ELLIPSIS + text[1 - TRACEBACK_LENGTH :]
    return text


def clean_message_id(value: object) -> str:
    """Return a message id as the canonical text of a UUID.

    Raises:
      ValueError: If it isn't the text of a UUID.
    """
    if type(value) is str and _is_canonical(value):
        return value
    return str(UUID(str(value)))


def id_of(task: object) -> UUID:
    """Return the id that a task, its message, or the id itself, as a UUID or as text, stands for.

    Raises:
      ValueError: If it is none of these; the text says what would be.
    """
    key = getattr(task, "message_id", task)
    try:
        return key if isinstance(key, UUID) else UUID(str(key))
    except ValueError:
        raise ValueError(
            f"{task!r:.100} is no message, task, or id of one. Give what send() returned, a Task, "
            "or a UUID."
        ) from None


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
