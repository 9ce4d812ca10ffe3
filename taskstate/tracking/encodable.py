"""Makes the ``for_state`` of a message encodable.

Dramatiq's default encoder takes only what JSON can hold.  A ``for_state`` may hold more than that:
a translated string, a UUID, or a user in place of its primary key.  Such values are replaced in the
message, before it is encoded.  If a value can't be replaced, the code that sends the message gets a
``ForStateError``, and nothing is sent.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from typing import Any

import dramatiq
from django.db.models import Model
from django.utils.functional import LazyObject, Promise, empty
from dramatiq.middleware import MiddlewareError

from taskstate.tracking.for_state import FOR_STATE, KEYS, DeclaredActors, suggestion
from taskstate.utils.pipelines import CALLBACKS_OPTION, TARGET_OPTION, followers

#: Every encoder takes values of these types, and most values of a ``for_state`` are of them.
PLAIN_TYPES = frozenset({str, int, type(None), bool, float})

_STR_ONLY = frozenset({str})

_USER_PK = "user_pk"

_USER_HINT = "Send the user, or the user's primary key."
#: What to send instead of a value of a type, under any other key.
_HINTS = (
    (Model, "Send its primary key."),
    ((set, frozenset), "Send a list."),
    ((bytes, bytearray, memoryview), "Send a string."),
    (object, "Send a string, a number, or lists and dictionaries of these."),
)
#: The types of keys that JSON's encoder takes.
_KEY_TYPES = (str, int, float, type(None))


class ForStateError(TypeError, MiddlewareError):
    """A ``for_state`` holds a value that can't be encoded.

    It is a ``MiddlewareError`` because Dramatiq logs and ignores any other exception of a hook.
    """


class _NotEncodableError(Exception):
    """A value can't be replaced by one that can be encoded."""

    def __init__(
        self, value: object, hint: str | None = None, reason: str = "which can't be encoded"
    ) -> None:
        super().__init__(value)
        self.value = value
        self.hint = hint
        self.reason = reason
        #: The indexes that lead to the value, such as ``['reports'][1]``.
        self.path = ""


def is_plain(state: dict[Any, Any]) -> bool:
    """Return whether a ``for_state`` has known keys only, and only values that every encoder
    takes."""
    return KEYS.issuperset(state) and PLAIN_TYPES.issuperset(map(type, state.values()))


def prepare_for_encoding(message: Any, state: dict[Any, Any], actors: DeclaredActors) -> None:
    """Prepare a message for the encoder.

    Its ``for_state`` and those of the messages that follow it are made encodable.  Its own is
    written into its options, unless the message carries it already.

    Parameters:
      message(Message): The message, which is about to be encoded.
      state(dict): Its ``for_state``, merged with its actor's.
      actors(DeclaredActors): What the actors were declared with.

    Raises:
      ForStateError: If a value can be neither replaced nor encoded.
    """
    if not is_plain(state):
        _check_state(message, state, actors)
    options = message.options
    if message.kwargs.get(FOR_STATE) is None and options.get(FOR_STATE) is None:
        _carry_in_options(message, state)
    if TARGET_OPTION in options or CALLBACKS_OPTION in options:
        _make_followers_encodable(options)


def to_encodable(key: str, value: Any) -> Any:
    """Return what a value of a ``for_state`` is replaced by.  Return the value itself if it can't
    be replaced."""
    try:
        return _to_encodable(key, value)
    except _NotEncodableError:
        return value


def _check_state(message: Any, state: dict[Any, Any], actors: DeclaredActors) -> None:
    """Warn of unknown keys in a ``for_state``, and make its message encodable.

    It is called only if the ``for_state`` has unknown keys, or values other than strings and
    numbers.

    Parameters:
      message(Message): The message, which is about to be encoded.
      state(dict): Its ``for_state``, merged with its actor's.
      actors(DeclaredActors): What the actors were declared with.

    Raises:
      ForStateError: If a value can be neither replaced nor encoded.
    """
    is_known = KEYS.issuperset(state)
    if not is_known:
        actors.warn_of_unknown_keys(message.actor_name, state)
    if not is_known or not all(map(_is_plain, state.values())):
        _make_encodable(message, actors.position_of(message))


def _make_encodable(message: Any, position: int | None) -> None:
    """Replace the values in the ``for_state`` of a message that can't be encoded.

    The message gets new dictionaries, and those of the caller stay as they are.  There is one
    exception: before Dramatiq 1.14 a message is a tuple, and the dictionary of its keyword
    arguments can only be changed in place.  It is the caller's if the caller passed it to
    ``send_with_options``.
    """
    for container in (message.kwargs, message.options):
        state = container.get(FOR_STATE)
        if state is not None:
            break
    else:
        container, state = message.args, None if position is None else message.args[position]
    if not isinstance(state, dict):
        return
    encodable = _encodable_state(message, state)
    if encodable is state:
        return
    if container is message.options:
        message.options[FOR_STATE] = encodable
    elif container is message.kwargs:
        try:
            object.__setattr__(message, "kwargs", {**container, FOR_STATE: encodable})
        except AttributeError:  # The message is a tuple.
            container[FOR_STATE] = encodable
    else:
        _replace_argument(message, state, encodable)


def _replace_argument(message: Any, state: object, encodable: object) -> None:
    """Replace a ``for_state`` that was passed by position."""
    args = tuple(encodable if arg is state else arg for arg in message.args)
    try:
        object.__setattr__(message, "args", args)
    except AttributeError as error:
        raise ForStateError(
            f"The for_state of actor {message.actor_name!r} holds a value that can't be encoded, "
            "and was passed by position. Pass it by keyword, for_state={...}. Nothing was sent."
        ) from error


def _make_followers_encodable(options: dict[str, Any]) -> None:
    """Make the messages in the options of a message encodable: they are encoded with it."""
    for follower in followers(options):
        try:
            message: Any = dramatiq.Message(**follower)
        except TypeError:  # Not a message.  Dramatiq raises an error when it is due.
            continue
        _make_encodable(message, None)
        follower["kwargs"] = message.kwargs
        _make_followers_encodable(message.options)


def _carry_in_options(message: Any, state: dict[Any, Any]) -> None:
    """Write a ``for_state`` that the actor declares, or that the message has by position, into the
    options of the message.  A worker that does not know the actor finds it nowhere else; without
    it, the task would stay enqueued."""
    try:
        message.options[FOR_STATE] = _encodable_state(message, state)
    except ForStateError:
        # The declared ``for_state`` can't be encoded.  Workers that know the actor find it there.
        pass


def _encodable_state(message: Any, state: dict[Any, Any]) -> dict[Any, Any]:
    """Return a ``for_state`` that can be encoded: the same object if nothing has to be replaced."""
    changes: dict[Any, Any] = {}
    for key, value in state.items():
        try:
            _check_key(key)
            # A value under an unknown key is for the actor: it stays if the encoder takes it.
            if not _is_plain(value) and (key in KEYS or not _can_encode(message, {key: value})):
                changes[key] = _to_encodable(key, value)
        except _NotEncodableError as error:
            if not _can_encode(message, {key: value}):
                raise _for_state_error(message, key, error) from error.__cause__
    return {**state, **changes} if changes else state


def _is_plain(value: Any) -> bool:
    """Return whether every encoder takes a value as it is."""
    if type(value) in PLAIN_TYPES:
        return True
    try:
        return _is_plain_json(value)
    except RecursionError:  # The encoder raises an error of its own.
        return True


def _is_plain_json(value: Any) -> bool:
    kind = type(value)
    if kind is dict:
        return _STR_ONLY.issuperset(map(type, value)) and all(map(_is_plain_json, value.values()))
    if kind is list:
        return all(map(_is_plain_json, value))
    return kind in PLAIN_TYPES


def _can_encode(message: Any, state: dict[Any, Any]) -> bool:
    """Return whether the project's encoder takes a ``for_state`` as it is."""
    data = {**message.asdict(), "args": (), "kwargs": {FOR_STATE: state}, "options": {}}
    try:
        dramatiq.get_encoder().encode(data)
    except Exception:  # noqa: BLE001 - whatever an encoder raises
        return False
    return True


def _for_state_error(message: Any, key: object, error: _NotEncodableError) -> ForStateError:
    hint = error.hint
    if hint is None and key == _USER_PK:
        hint = _USER_HINT
    if hint is None:
        hint = next(hint for kind, hint in _HINTS if isinstance(error.value, kind))
    question = "" if key in KEYS else suggestion(key)
    return ForStateError(
        f"{FOR_STATE}[{key!r}]{error.path} of actor {message.actor_name!r} is of type "
        f"{type(error.value).__name__}, {error.reason}.{question} {hint} Nothing was sent."
    )


def _to_encodable(key: object, value: object) -> Any:
    """Return what the value of a key is replaced by.

    Raises:
      _NotEncodableError: If it can't be replaced.
    """
    try:
        return _to_user_key(value) if key == _USER_PK else _to_json_value(value)
    except _NotEncodableError:
        raise
    except Exception as error:  # Whatever a lazy value raises when it is evaluated.
        reason = f"which raises {type(error).__name__} when it is evaluated"
        raise _NotEncodableError(value, reason=reason) from error


def _to_user_key(value: object) -> Any:
    value = _evaluate_lazy(value)
    if isinstance(value, Model):
        # Here, because this import is slow.
        from django.contrib.auth import get_user_model

        if not isinstance(value, get_user_model()):
            raise _NotEncodableError(value, reason="which is not the user model")
        if value.pk is None:
            raise _NotEncodableError(value, "Save it first.", "and has no primary key yet")
        value = value.pk
    elif getattr(value, "is_anonymous", None) is True:  # Django's AnonymousUser is not a model.
        return None
    return _to_json_value(value)


def _to_json_value(value: Any, parents: tuple[int, ...] = ()) -> Any:  # noqa: PLR0911 - one per type
    """Return a value as one that JSON can hold.  ``parents`` are the ids of the lists and
    dictionaries that contain it."""
    value = _evaluate_lazy(value)
    if isinstance(value, enum.Enum):
        return _to_json_value(value.value, parents)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (Promise, uuid.UUID, decimal.Decimal)):
        return str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if id(value) in parents:  # A circle: the encoder raises an error of its own.
        return value
    parents = (*parents, id(value))
    if isinstance(value, dict):
        return {_to_json_key(key): _to_json_item(key, item, parents) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json_item(index, item, parents) for index, item in enumerate(value)]
    raise _NotEncodableError(value)


def _to_json_item(index: object, value: object, parents: tuple[int, ...]) -> Any:
    try:
        return _to_json_value(value, parents)
    except _NotEncodableError as error:
        error.path = f"[{index!r:.100}]{error.path}"
        raise


def _to_json_key(key: object) -> Any:
    key = key if isinstance(key, (dict, list, tuple)) else _to_json_value(key)
    _check_key(key)
    return key


def _check_key(key: object) -> None:
    if not isinstance(key, _KEY_TYPES):
        raise _NotEncodableError(key, "Use strings as keys.", "which can't be a key in JSON")


def _evaluate_lazy(value: Any) -> Any:
    """Return the object that a ``SimpleLazyObject`` wraps, such as the user of ``request.user``."""
    while isinstance(value, LazyObject):
        if value._wrapped is empty:
            value._setup()
        value = value._wrapped
    return value
