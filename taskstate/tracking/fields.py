"""The fields of a message: collected in a hook, normalized in the writer.

A hook runs in the middle of other work, when the processor's caches hold other data.  The same code
takes about twice as long there as in the writer's tight loop.  So the hook only collects the values
as they are.  The writer normalizes them for the columns, and only those that it is about to write.

A value that the caller could still change, or that could be large, does not wait for the writer.
Fields with such a value are normalized in the hook.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, Callable, Tuple

from django.apps import apps
from dramatiq.common import q_name

from taskstate import conf, tenants
from taskstate.conf import Options
from taskstate.tenants import OPTION as TENANT_OPTION
from taskstate.tracking import encodable
from taskstate.transitions import sanitize
from taskstate.transitions.transition import (
    MessageFields,
    RawFields,
    Transition,
    UserPk,
    message_fields_from,
    raw_fields_from,
    transition_from,
)
from taskstate.utils.log_text import for_log
from taskstate.utils.warn_once import ActorWarnings

logger = logging.getLogger(__name__)

#: Raw fields may wait for the writer if all their texts together are at most this long.
_SMALL = 1_000

#: The names of an actor, a queue, a model and an app.
Names = Tuple[str, str, str, str]


class FieldCollector:
    """Collects the fields of messages, and normalizes them.

    A message or a value that can't be tracked is logged once per actor.

    Parameters:
      options(Options): The settings in force.
    """

    def __init__(self, options: Options | None = None) -> None:
        self._options = Options() if options is None else options
        self._warnings = ActorWarnings(logger)
        self._find_user_key: Callable[[], sanitize.UserKey] | None = None

    def collect(self, message: Any, for_state: dict[str, Any]) -> RawFields | MessageFields | None:
        """Return the fields of a message, or None if it can't be tracked.  Called in the hooks."""
        get = for_state.get
        message_id, enqueued_at = message.message_id, message.message_timestamp
        actor_name, queue_name = message.actor_name, message.queue_name
        user_pk, description = get("user_pk"), get("description", "")
        model_name, app_name = get("model_name", ""), get("app_name", "")
        metadata = get("metadata")
        if metadata is not None:
            metadata = self._clean_metadata(metadata, actor_name)
        tenant = message.options.get(TENANT_OPTION)
        if tenant is None:
            tenant = "" if conf.TENANT.function is None else tenants.UNKNOWN
        # In the order of RawFields: keywords would take a third of the time of this call.
        raw = raw_fields_from(
            (
                message_id,
                enqueued_at,
                user_pk,
                actor_name,
                queue_name,
                description,
                model_name,
                app_name,
                metadata,
                self._encode(message) if self._options.keep_message else None,
                tenant,
            )
        )
        texts = (actor_name, queue_name, description, model_name, app_name, tenant)
        if _can_defer(message_id, enqueued_at, user_pk, texts):
            return raw
        # Without the cache of names: these values may not be hashable.
        return self._normalize_fields(_encodable_fields(raw), _names)

    def normalize(self, transition: Transition) -> Transition | None:
        """Return a transition whose fields are normalized.  Return None if the message can't be
        tracked, which is logged.  Called in the writer."""
        fields = transition.fields
        if isinstance(fields, MessageFields):
            return transition
        normalized = self._normalize_fields(fields, _known_names)
        if normalized is None:
            return None
        # In the order of Transition.
        return transition_from(
            (
                transition.rank,
                transition.attempt,
                transition.started_at,
                transition.happened_at,
                normalized,
                transition.details,
            )
        )

    def _normalize_fields(
        self, raw: RawFields, names_of: Callable[..., Names]
    ) -> MessageFields | None:
        try:
            message_id = sanitize.clean_message_id(raw.message_id)
        except ValueError:
            self._warn_of_id(raw)
            return None
        try:
            user_pk = raw.user_pk
            if user_pk is not None:
                user_pk = self._clean_user_pk(user_pk, raw.actor_name)
            actor_name, queue_name, model_name, app_name = names_of(
                raw.actor_name, raw.queue_name, raw.model_name, raw.app_name
            )
            # In the order of MessageFields.
            return message_fields_from(
                (
                    message_id,
                    sanitize.clean_time(raw.enqueued_at),
                    user_pk,
                    actor_name,
                    queue_name,
                    _text(raw.description, sanitize.DESCRIPTION_LENGTH),
                    model_name,
                    app_name,
                    raw.metadata,
                    raw.stored_message,
                    "" if raw.tenant == "" else tenants.clean_name(raw.tenant),
                )
            )
        except Exception:
            logger.exception(
                "Message %s of actor %s could not be tracked; it is processed as usual.",
                for_log(raw.message_id),
                for_log(raw.actor_name),
            )
            return None

    def _warn_of_id(self, raw: RawFields) -> None:
        self._warnings.warn(
            raw.actor_name,
            "A message of actor %s is not tracked: its id %.100r is not a valid UUID. Let "
            "Dramatiq create the ids, or use uuid.uuid4(). Later ids of this actor are not "
            "logged.",
            raw.message_id,
        )

    def _clean_user_pk(self, value: object, actor_name: str) -> UserPk:
        if conf.is_installed() is False:  # Nothing is written, and the models can't be imported.
            return None
        try:
            return self._user_key().clean(value)
        except ValueError as error:
            self._warnings.warn(
                actor_name,
                "A task of actor %s is tracked without its user: for_state['user_pk'] is of type "
                "%s, and %s. Later tasks of this actor are not logged.",
                type(value).__name__,
                error,
            )
            return None

    def _clean_metadata(self, value: object, actor_name: str) -> str | None:
        try:
            try:
                return sanitize.clean_json(value, sanitize.METADATA_LENGTH)
            except ValueError:
                value = encodable.to_encodable("metadata", value)
                return sanitize.clean_json(value, sanitize.METADATA_LENGTH)
        except ValueError as error:
            self._warnings.warn(
                actor_name,
                "A task of actor %s is tracked without its metadata: for_state['metadata'] can't "
                "be stored, because %s. Send a small value that JSON can hold. Later tasks of this "
                "actor are not logged.",
                error,
            )
            return None

    def _encode(self, message: Any) -> str | None:
        try:
            text: str = message.encode().decode("utf-8")
        except UnicodeDecodeError:
            reason = "the encoder does not produce text"
        except Exception as error:  # noqa: BLE001 - middleware may add options that can't be encoded
            reason = f"it can't be encoded ({type(error).__name__})"
        else:
            if len(text) <= sanitize.STORED_MESSAGE_LENGTH and "\0" not in text:
                return text
            reason = (
                f"it has more than {sanitize.STORED_MESSAGE_LENGTH:,} characters, or contains NUL"
            )
        self._warnings.warn(
            message.actor_name,
            "A message of actor %s is not kept (TASKSTATE['KEEP_MESSAGE']): %s. Its task is "
            "tracked as usual, but can't be sent again. Later messages of this actor are not "
            "logged.",
            reason,
        )
        return None

    def _user_key(self) -> sanitize.UserKey:
        if self._find_user_key is None:  # An import statement takes 0.4 us each time.
            if not apps.models_ready:
                raise ValueError("the apps aren't loaded yet")
            # Here, because the middleware is created before models can be imported.
            from taskstate.models import user_key

            self._find_user_key = user_key
        return self._find_user_key()


def _can_defer(message_id: Any, enqueued_at: Any, user_pk: Any, texts: tuple[Any, ...]) -> bool:
    """Return whether fields can be normalized later, because they are small and can't change."""
    if type(message_id) is not str or type(enqueued_at) is not int:
        return False
    try:
        size = len("".join(texts))  # It raises a TypeError unless all of them are strings.
    except TypeError:
        return False
    return size + len(message_id) <= _SMALL and (user_pk is None or type(user_pk) is int)


def _encodable_fields(raw: RawFields) -> RawFields:
    """Replace the values that were not replaced when the message was encoded: those of a
    ``for_state`` that an actor was declared with, and those that the project's encoder takes as
    they are."""
    return raw._replace(
        user_pk=encodable.to_encodable("user_pk", raw.user_pk),
        description=encodable.to_encodable("description", raw.description),
        model_name=encodable.to_encodable("model_name", raw.model_name),
        app_name=encodable.to_encodable("app_name", raw.app_name),
    )


def _names(actor_name: object, queue_name: Any, model_name: object, app_name: object) -> Names:
    return (
        _text(actor_name, sanitize.ACTOR_NAME_LENGTH),
        _text(q_name(queue_name), sanitize.QUEUE_NAME_LENGTH),
        _text(model_name, sanitize.MODEL_NAME_LENGTH),
        _text(app_name, sanitize.APP_NAME_LENGTH),
    )


#: A site has few different names, so pending tasks share the strings.
_known_names = functools.lru_cache(maxsize=512)(_names)


def _text(value: object, length: int) -> str:
    """Return ``value`` as ``clean_text`` does.  A value that can't be converted to text is replaced
    by ``<unprintable X object>``, as in a traceback."""
    try:
        return sanitize.clean_text(value, length)
    except Exception:  # noqa: BLE001 - whatever the value's own code raises
        return f"<unprintable {type(value).__name__} object>"[:length]
