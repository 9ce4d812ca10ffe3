"""Makes the values of a message safe for the columns of every database.

Values come from other services, older releases and people.  Each is sanitized before it reaches a
batch, so that an odd value in one message can't make the others fail.
"""

from __future__ import annotations

import json
import math
import re
import traceback
from typing import Any, Callable, Collection, Iterator, NamedTuple, Sequence
from uuid import UUID

from taskstate.transitions.transition import NO_DETAILS, Transition, UserPk
from taskstate.utils.clock import MAX_TIME
from taskstate.utils.untrusted import call_untrusted

ACTOR_NAME_LENGTH = 300
QUEUE_NAME_LENGTH = 100
DESCRIPTION_LENGTH = 255
MODEL_NAME_LENGTH = 100
APP_NAME_LENGTH = 100
ERROR_LENGTH = 255
WORKER_LENGTH = 100
TENANT_LENGTH = 100
PROGRESS_TEXT_LENGTH = 255
TRACEBACK_LENGTH = 8_000
#: The lengths of encoded JSON, in characters.
METADATA_LENGTH = 4_000
RESULT_LENGTH = 64_000
STORED_MESSAGE_LENGTH = 64_000

#: The number of frames of each exception in a traceback: the innermost ones.
TRACEBACK_FRAMES = 30
#: How deep JSON may be nested.  MariaDB's functions read 32 levels.
JSON_DEPTH = 30

#: The length of all texts of a task together.
TEXT_LENGTH = (
    ACTOR_NAME_LENGTH
    + QUEUE_NAME_LENGTH
    + DESCRIPTION_LENGTH
    + MODEL_NAME_LENGTH
    + APP_NAME_LENGTH
    + TENANT_LENGTH
)

#: The largest ``attempt`` that fits its column, an integer of 32 bits.
MAX_ATTEMPT = 2**31 - 1

#: The texts that only people read.  The names of the actor, the queue, the model and the app are
#: not among them, since tasks are searched by these.
FREE_TEXTS = (
    "description",
    "error",
    "user_error",
    "traceback",
    "progress_text",
    "result",
    "metadata",
    "stored_message",
)

ELLIPSIS = "…"

#: A longer text can't be a primary key, and is not parsed.
_LONGEST_KEY = 255

_NO_ZERO = "0 is not a valid key in this kind of database"
#: How ``str`` writes a whole number.
_is_number = re.compile(r"0|-?[1-9][0-9]*").fullmatch
#: How ``str`` writes a UUID.
is_canonical_uuid = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
#: With hyphens or without, in either case.
_is_uuid = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}", re.ASCII | re.IGNORECASE
).fullmatch


def clean_text(value: object, length: int) -> str:
    """Return ``value`` as text of at most ``length`` characters that every database accepts.

    A longer text is shortened, and ends with an ellipsis.  NUL characters and lone surrogates,
    which PostgreSQL rejects, are removed.  None becomes the empty string.

    Raises:
      Exception: Whatever the value raises when it is converted to text.
    """
    if value is None:
        return ""
    if type(value) is str and len(value) <= length and value.isascii() and "\0" not in value:
        return value  # Almost all texts are like this.
    # A member of a text enumeration becomes its value, as it does in JSON.
    text = str.__str__(value if isinstance(value, str) else call_untrusted(str, value))
    if not text.isascii():
        text = text.encode("utf-8", "ignore").decode("utf-8")
    if "\0" in text:
        text = text.replace("\0", "")
    if len(text) > length:
        text = text[: length - 1] + ELLIPSIS
    return text


def are_clean_texts(values: Sequence[Any], length: int) -> bool:
    """Return whether all values are texts that ``clean_text`` would not change."""
    if {*map(type, values)} != {str} or max(map(len, values)) > length:
        return False
    joined = "".join(values)
    if "\0" in joined:
        return False
    try:
        joined.encode()
    except UnicodeEncodeError:  # It contains half of a surrogate pair.
        return False
    return True


def is_tenant(value: object) -> bool:
    """Return whether ``value`` is a valid name of a tenant: a text that every database stores
    unchanged, and distinguishes from all others.  Some databases ignore spaces at the end."""
    return (
        isinstance(value, str)
        and len(value) <= TENANT_LENGTH
        and value.isprintable()
        and value.strip() == value
    )


def clean_line(value: object, length: int) -> str:
    """Return ``value`` as ``clean_text`` does, in one line."""
    return clean_text(" ".join(clean_text(value, 4 * length).split()), length)


def clean_json(value: object, length: int) -> str:
    """Return ``value`` encoded as JSON that every database accepts.

    Raises:
      ValueError: If JSON can't hold it, if it is nested too deeply, if it contains characters that
        PostgreSQL rejects, or if its JSON has more than ``length`` characters.  The message says
        which of these.
    """
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"it can't be encoded as JSON ({type(error).__name__}: {error})"
        ) from error
    if len(text) > length:
        raise ValueError(f"it has {len(text):,} characters as JSON, and {length:,} are allowed")
    if not nests_at_most(value, JSON_DEPTH):
        raise ValueError(f"it is nested more than {JSON_DEPTH} levels deep")
    if _is_rejected(text):
        raise ValueError("it contains a NUL character or half of a surrogate pair")
    return text


def _is_rejected(text: str) -> bool:
    r"""Return whether PostgreSQL rejects JSON because of ``\u0000`` or a lone surrogate."""
    if "\\u0000" not in text and "\\ud" not in text:
        return False
    found = json.dumps(json.loads(text), ensure_ascii=False)
    return "\\u0000" in found.replace("\\\\", "") or clean_text(found, len(found)) != found


def nests_at_most(value: object, levels: int) -> bool:
    """Return whether lists and dictionaries are nested at most this many levels deep."""
    if not isinstance(value, (dict, list, tuple)):
        return True
    items = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(nests_at_most(item, levels - 1) for item in items)


def describe_exception(exception: BaseException) -> str:
    """Return the type and the message of an exception, in one line."""
    name = type(exception).__name__
    try:
        text = clean_line(exception, ERROR_LENGTH)
    except Exception:  # noqa: BLE001 - whatever its own methods raise
        text = "(its message can't be read)"
    return clean_line(f"{name}: {text}" if text else name, ERROR_LENGTH)


def format_traceback(exception: BaseException) -> str:
    """Return the traceback of an exception.  Only the innermost end of a long one is kept."""
    try:
        lines = call_untrusted(_traceback_lines, exception)
    except Exception as error:  # noqa: BLE001 - whatever its own methods raise
        lines = [f"The traceback can't be read: {type(error).__name__}"]
    text = "".join(lines)
    text = clean_text(text[-2 * TRACEBACK_LENGTH :], 2 * TRACEBACK_LENGTH).strip()
    if len(text) > TRACEBACK_LENGTH:
        text = ELLIPSIS + text[1 - TRACEBACK_LENGTH :]
    return text


def _traceback_lines(exception: BaseException) -> list[str]:
    return traceback.format_exception(
        type(exception), exception, exception.__traceback__, limit=-TRACEBACK_FRAMES
    )


def without_texts(transition: Transition) -> Iterator[tuple[Transition, list[str]]]:
    """Yield copies of a rejected transition that the database may accept, each with the names of
    the free texts that are left out: first the texts that are not ASCII, then all of them."""
    fields, details = transition.fields, transition.details
    texts = {**fields._asdict(), **(details or NO_DETAILS)._asdict()}
    present = [name for name in FREE_TEXTS if texts[name]]
    not_ascii = [name for name in present if not texts[name].isascii()]
    for names in (not_ascii, present) if not_ascii != present else (present,):
        empty: dict[str, Any] = {name: "" if name == "description" else None for name in names}
        of_fields = {name: empty[name] for name in names if name in fields._fields}
        of_details = {name: empty[name] for name in names if name not in fields._fields}
        if names:
            yield (
                transition._replace(
                    fields=fields._replace(**of_fields),
                    details=details and details._replace(**of_details),
                ),
                names,
            )


def clean_message_id(value: object) -> str:
    """Return a message id as the canonical text of its UUID.

    Raises:
      ValueError: If it is not the text of a UUID.
    """
    if type(value) is str and is_canonical_uuid(value):
        return value
    return str(UUID(call_untrusted(str, value)))


def to_uuid(task: object) -> UUID:
    """Return the id of a task as a UUID.

    Parameters:
      task: A task, its message, or its id as a UUID or as text.

    Raises:
      ValueError: If it is none of these.
    """
    key = getattr(task, "message_id", task)
    try:
        return key if isinstance(key, UUID) else UUID(str(key))
    except ValueError:
        raise ValueError(
            f"{task!r:.100} is not a message, a task, or the id of one. Pass what send() returned, "
            "a Task, or a UUID."
        ) from None


def clean_count(value: object, limit: int) -> int:
    """Return a whole number from 0 to ``limit``.  A number outside this range becomes the nearer
    end, and any other value becomes 0."""
    if type(value) is not int:
        return 0
    return value if 0 <= value <= limit else min(max(value, 0), limit)


def clean_time(value: object) -> int:
    """Return a time in milliseconds since 1970, within the range of a rank.  A value that is not a
    number becomes 0."""
    if type(value) is float and math.isfinite(value):
        value = int(value)
    return clean_count(value, MAX_TIME)


def are_times(values: Sequence[Any]) -> bool:
    """Return whether all values are times that ``clean_time`` would not change."""
    return {*map(type, values)} == {int} and min(values) >= 0 and max(values) <= MAX_TIME


class UserKey(NamedTuple):
    """The values that the primary key of the user model accepts.  ``taskstate.models`` makes
    one."""

    to_python: Callable[[Any], Any]
    smallest: int
    greatest: int
    max_length: int | None
    #: Whether it is a whole number, for which ``to_python`` has no effect.
    is_integer: bool = False
    is_uuid: bool = False
    #: Whether 0 is a valid key.  For MariaDB and MySQL it means "the next number".
    takes_zero: bool = True

    def clean(self, value: object) -> UserPk:
        """Return ``value`` as a primary key of the user model.

        A string must be the key's usual notation, so that no two strings mean the same user.
        Python and Django would also read ``" 1_1 "`` as 11, and a UUID as a whole number.

        Raises:
          ValueError: If it is not a valid key.  The message says why.
        """
        if value is None:
            return None
        if self.is_integer and type(value) is int and self.smallest <= value <= self.greatest:
            if value or self.takes_zero:
                return value
            raise ValueError(_NO_ZERO)
        if isinstance(value, bool) or not isinstance(value, (int, str, UUID)):
            raise ValueError(f"a {type(value).__name__} can't be a primary key")  # noqa: TRY004
        if isinstance(value, str) and len(value) > _LONGEST_KEY:
            raise ValueError("the text is longer than any primary key")
        if self.is_integer:
            _check_number(value)
        if self.is_uuid:
            _check_uuid(value)
        try:
            key = call_untrusted(self.to_python, value)
        except Exception as error:
            raise ValueError("the primary key of the user model does not accept it") from error
        return self._checked(key)

    def are_valid_numbers(self, values: Collection[int]) -> bool:
        """Return whether ``clean`` would accept all of these numbers, and change none."""
        if not self.is_integer or not values:
            return not values
        is_in_range = self.smallest <= min(values) and max(values) <= self.greatest
        return is_in_range and (self.takes_zero or 0 not in values)

    def _checked(self, key: object) -> UserPk:
        if isinstance(key, int) and not self.smallest <= key <= self.greatest:
            raise ValueError(f"it is not between {self.smallest} and {self.greatest}")
        if key == 0 and not self.takes_zero:
            raise ValueError(_NO_ZERO)
        if isinstance(key, str):
            if clean_text(key, len(key)) != key:
                raise ValueError("it contains a NUL character or half of a surrogate pair")
            if self.max_length is not None and len(key) > self.max_length:
                raise ValueError(f"it is longer than {self.max_length} characters")
        if key is None or isinstance(key, (int, str, UUID)):
            return key
        raise ValueError(f"a primary key of type {type(key).__name__} can't be tracked")


def _check_number(value: int | str | UUID) -> None:
    is_number = _is_number(value) if isinstance(value, str) else isinstance(value, int)
    if not is_number:
        raise ValueError(
            "a primary key is a whole number here; as a string, it is written in plain digits"
        )


def _check_uuid(value: int | str | UUID) -> None:
    is_uuid = _is_uuid(value) if isinstance(value, str) else isinstance(value, UUID)
    if not is_uuid:
        raise ValueError("a primary key is a UUID here; as a string, it is written like str(uuid)")
