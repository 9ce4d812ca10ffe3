"""The fields of a message: collected in a hook, normalized in the writer.

A hook runs in the middle of other work, when the processor's caches hold other data.  The same code
takes about twice as long there as in the writer's tight loop.  So the hook only collects the values
as they are.  The writer normalizes them for the columns, and only those that it is about to write.

A value that the caller could still change, or that could be large, does not wait for the writer.
Fields with such a value are normalized in the hook.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, Sequence, Tuple

from django.apps import apps
from dramatiq.common import q_name

from taskstate import conf, tenants
from taskstate.conf import Options
from taskstate.tenants import OPTION as TENANT_OPTION
from taskstate.tracking import encodable
from taskstate.transitions import sanitize
from taskstate.transitions.transition import (
    FIELDS,
    MessageFields,
    RawFields,
    RawTransition,
    Transition,
    UserPk,
    message_fields_from,
    transition_from,
)
from taskstate.utils.log_text import for_log
from taskstate.utils.warn_once import ActorWarnings

logger = logging.getLogger(__name__)

#: The length of a message id in its usual form.
_ID_LENGTH = 36
#: A description waits for the writer if it has at most this many characters.  Names are remembered
#: if all of a message together have at most this many.
_SMALL = 1_000
#: How many combinations of names are remembered.
_MAX_KNOWN_NAMES = 512

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
        #: The normalized names of an actor, a queue, a model and an app, by these names as they
        #: come.  A site has few different names, so pending tasks share the strings.
        self._known_names: dict[tuple[Any, ...], Names] = {}
        self._find_user_key: Callable[[], sanitize.UserKey] | None = None

    def collect(self, message: Any, for_state: dict[str, Any]) -> RawFields | MessageFields | None:
        """Return the fields of a message, or None if it can't be tracked.  Called in the hooks."""
        get = for_state.get
        message_id, enqueued_at = message.message_id, message.message_timestamp
        user_pk, description = get("user_pk"), get("description", "")
        names = (
            message.actor_name,
            message.queue_name,
            get("model_name", ""),
            get("app_name", ""),
        )
        try:
            known = self._known_names.get(names)
        except Exception:  # noqa: BLE001 - one of them can't be hashed, or whatever that raises
            known = None
        if known is None:
            known = self._normalize_names(*names)
        actor_name, queue_name, model_name, app_name = known
        metadata = get("metadata")
        if metadata is not None:
            metadata = self._clean_metadata(metadata, actor_name)
        stored_message = self._encode(message) if self._options.keep_message else None
        tenant = message.options.get(TENANT_OPTION)
        if tenant is None:
            tenant = "" if conf.TENANT.function is None else tenants.UNKNOWN
        raw = (
            message_id,
            enqueued_at,
            user_pk,
            actor_name,
            queue_name,
            description,
            model_name,
            app_name,
            metadata,
            stored_message,
            tenant,
        )
        # The writer normalizes values that are small and can't change.
        if (
            type(message_id) is str
            and len(message_id) == _ID_LENGTH
            and type(enqueued_at) is int
            and (user_pk is None or type(user_pk) is int)
            and type(description) is str
            and len(description) <= _SMALL
            and type(tenant) is str
            and (not tenant or sanitize.is_tenant(tenant))
        ):
            return raw
        return self._normalize_values(_encodable_fields(message_fields_from(raw)))

    def normalize(self, transitions: Sequence[RawTransition]) -> list[Transition | None]:
        """Return transitions with normalized fields, in the same order.  In place of one whose
        message can't be tracked, which is logged, return None.  Called in the writer."""
        ranks, attempts, started, happened, fields, details = zip(*transitions)
        # In almost all batches there is nothing to change.  To see that column by column takes a
        # fifth of the time.
        normalize = message_fields_from if self._are_normal(fields) else self._normalize_fields
        normalized = list(map(normalize, fields))
        rows = zip(ranks, attempts, started, happened, normalized, details)
        if None not in normalized:
            return list(map(transition_from, rows))
        return [None if row[FIELDS] is None else transition_from(row) for row in rows]

    def _are_normal(self, batch: Sequence[RawFields]) -> bool:
        """Return whether ``_normalize_fields`` would change nothing in any of these fields."""
        ids, enqueued, user_pks, _, _, descriptions, _, _, _, _, tenant_names = zip(*batch)
        return (
            all(map(sanitize.is_canonical_uuid, ids))
            and sanitize.are_times(enqueued)
            and sanitize.are_clean_texts(descriptions, sanitize.DESCRIPTION_LENGTH)
            and all(map(sanitize.is_tenant, {*tenant_names}))
            and self._are_user_keys(user_pks)
        )

    def _are_user_keys(self, values: Sequence[Any]) -> bool:
        """Return whether these are None, or whole numbers that the user model has as keys."""
        types = {*map(type, values)}
        if types == {type(None)}:
            return True
        if not types <= {int, type(None)} or conf.is_installed() is False:
            return False
        try:
            return self._user_key().are_valid_numbers({*values} - {None})
        except Exception:  # noqa: BLE001 - normalizing row by row logs it, whatever it is
            return False

    def _normalize_fields(self, raw: RawFields | MessageFields) -> MessageFields | None:
        if isinstance(raw, MessageFields):
            return raw
        return self._normalize_values(message_fields_from(raw))

    def _normalize_values(self, fields: MessageFields) -> MessageFields | None:
        try:
            message_id = sanitize.clean_message_id(fields.message_id)
        except ValueError:
            self._warn_of_id(fields)
            return None
        try:
            user_pk = fields.user_pk
            if user_pk is not None:
                user_pk = self._clean_user_pk(user_pk, fields.actor_name)
            return fields._replace(
                message_id=message_id,
                enqueued_at=sanitize.clean_time(fields.enqueued_at),
                user_pk=user_pk,
                description=_text(fields.description, sanitize.DESCRIPTION_LENGTH),
                tenant="" if fields.tenant == "" else tenants.clean_name(fields.tenant),
            )
        except Exception:
            logger.exception(
                "Message %s of actor %s could not be tracked; it is processed as usual.",
                for_log(fields.message_id),
                for_log(fields.actor_name),
            )
            return None

    def _normalize_names(
        self, actor_name: Any, queue_name: Any, model_name: Any, app_name: Any
    ) -> Names:
        """Return normalized names, and remember them."""
        names = (actor_name, queue_name, model_name, app_name)
        normalized = (
            _text(actor_name, sanitize.ACTOR_NAME_LENGTH),
            _text(q_name(queue_name), sanitize.QUEUE_NAME_LENGTH),
            _text(encodable.to_encodable("model_name", model_name), sanitize.MODEL_NAME_LENGTH),
            _text(encodable.to_encodable("app_name", app_name), sanitize.APP_NAME_LENGTH),
        )
        if {*map(type, names)} == {str} and sum(map(len, names)) <= _SMALL:
            if len(self._known_names) >= _MAX_KNOWN_NAMES:
                self._known_names.clear()
            self._known_names[names] = normalized
        return normalized

    def _warn_of_id(self, fields: MessageFields) -> None:
        self._warnings.warn(
            fields.actor_name,
            "A message of actor %s is not tracked: its id %.100r is not a valid UUID. Let "
            "Dramatiq create the ids, or use uuid.uuid4(). Later ids of this actor are not "
            "logged.",
            fields.message_id,
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


def _encodable_fields(fields: MessageFields) -> MessageFields:
    """Replace the values that were not replaced when the message was encoded: those of a
    ``for_state`` that an actor was declared with, and those that the project's encoder takes as
    they are."""
    return fields._replace(
        user_pk=encodable.to_encodable("user_pk", fields.user_pk),
        description=encodable.to_encodable("description", fields.description),
    )


def _text(value: object, length: int) -> str:
    """Return ``value`` as ``clean_text`` does.  A value that can't be converted to text is replaced
    by ``<unprintable X object>``, as in a traceback."""
    try:
        return sanitize.clean_text(value, length)
    except Exception:  # noqa: BLE001 - whatever the value's own code raises
        return f"<unprintable {type(value).__name__} object>"[:length]
