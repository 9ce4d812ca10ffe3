"""From what is at hand in a hook to what the columns take.

A hook runs between the pieces of somebody's work, where the processor's caches hold other things:
whatever it does there costs about twice what it costs in a tight loop, as the writer's is.  So it
only collects values, just as they came; they are made fit for the columns by the writer.

Nothing that the caller could change, or that could be large, is kept that long: such values are
made fit at once, in the hook.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, Callable, Tuple

from django.apps import apps
from dramatiq.common import q_name

from . import conf, values
from .conf import Config
from .transitions import (
    MessageFields,
    Pushed,
    Transition,
    UserPk,
    fields_from,
    transition_from,
)
from .warned import ActorWarnings

logger = logging.getLogger(__name__)

#: Up to this length of all its texts a message may wait to be made fit.
_SMALL = 1_000

#: Of the actor, the queue, the model and the app.
Names = Tuple[str, str, str, str]


class Fitter:
    """Collects the fields of messages, and makes them fit for the columns.

    What can't be tracked is warned of once per actor.

    Parameters:
      config(Callable): Returns the settings in force.
    """

    def __init__(self, config: Callable[[], Config] = Config) -> None:
        self._config = config
        self._changes = conf.changes
        self._seen_changes: int | None = None
        self._stores_messages = False
        self._warnings = ActorWarnings(logger)
        self._find_user_key: Callable[[], values.UserKey] | None = None

    def collect(self, message: Any, for_state: dict[str, Any]) -> MessageFields | None:
        """Return the fields of a message, to be made fit later, or None if it can't be tracked.
        Called in the hooks."""
        get = for_state.get
        metadata = get("metadata")
        if metadata is not None:
            metadata = self._clean_metadata(metadata, message.actor_name)
        if self._seen_changes != self._changes.count:  # To ask each time would cost 0.2 us.
            changes = self._changes.count
            self._stores_messages = self._config().store_message
            self._seen_changes = changes
        raw = fields_from(
            (
                message.message_id,
                message.message_timestamp,
                get("user_pk"),
                message.actor_name,
                message.queue_name,
                get("description", ""),
                get("model_name", ""),
                get("app_name", ""),
                metadata,
                self._encode(message) if self._stores_messages else None,
            )
        )
        # Not the cache of names: what comes here may not be hashable.
        return raw if _may_wait(*raw) else self._fitted(raw, _names)

    def fit(self, pushed: Pushed) -> Transition | None:
        """Return a transition whose fields fit: the one that was pushed, or what a run has to
        report.  None if there is nothing to write, or the message can't be tracked: that is logged.
        Called in the writer's thread."""
        transition = pushed if isinstance(pushed, Transition) else pushed.report()
        if transition is None:
            return None
        fields = self._fitted(transition.fields, _known_names)
        if fields is None:
            return None
        return transition_from((*transition[:-2], fields, transition.extras))

    def _fitted(self, raw: MessageFields, names_of: Callable[..., Names]) -> MessageFields | None:
        try:
            return self._fit(raw, names_of)
        except Exception as error:  # noqa: BLE001 - whatever a value raises when it is asked
            return self._without_state(raw, names_of, error)

    def _without_state(
        self, raw: MessageFields, names_of: Callable[..., Names], error: Exception
    ) -> MessageFields | None:
        """Track the task at least, if all that is wrong is its for_state."""
        stateless = raw._replace(
            user_pk=None, description="", model_name="", app_name="", metadata=None
        )
        try:
            fitted = self._fit(stateless, names_of)
        except Exception:
            logger.exception(
                "Message %s of actor %s could not be tracked; it is processed as ever.",
                raw.message_id,
                raw.actor_name,
            )
            return None
        if fitted is not None:
            self._warnings.warn(
                fitted.actor_name,
                "A task of actor %s is tracked without its for_state: message %s holds a value in "
                "it that can't be made text (%s). Send texts and numbers. Later ones of this actor "
                "are not logged.",
                raw.message_id,
                type(error).__name__,
            )
        return fitted

    def _fit(self, raw: MessageFields, names_of: Callable[..., Names]) -> MessageFields | None:
        message_id, timestamp, user_pk, actor_name, queue_name, description, model, app = raw[:8]
        try:
            message_id = values.clean_message_id(message_id)
        except ValueError:
            self._warnings.warn(
                actor_name,
                "A message of actor %s is not tracked: its id %.100r is no UUID. Leave it to "
                "Dramatiq to make the ids, or use uuid.uuid4(). Later ones of this actor are not "
                "logged.",
                message_id,
            )
            return None
        if user_pk is not None:
            user_pk = self._clean_user_pk(user_pk, actor_name)
        names = names_of(actor_name, queue_name, model, app)
        return fields_from(
            (
                message_id,
                values.clean_time(timestamp),
                user_pk,
                names[0],
                names[1],
                values.clean_text(description, values.DESCRIPTION_LENGTH),
                names[2],
                names[3],
                raw.metadata,
                raw.stored_message,
            )
        )

    def _clean_user_pk(self, value: object, actor_name: str) -> UserPk:
        try:
            return self._user_key().clean(value)
        except ValueError as error:
            self._warnings.warn(
                actor_name,
                "A task of actor %s is tracked without its user: for_state['user_pk'] is of type "
                "%s, and %s. Later ones of this actor are not logged.",
                type(value).__name__,
                error,
            )
            return None

    def _clean_metadata(self, value: object, actor_name: str) -> str | None:
        try:
            return values.clean_json(value, values.METADATA_LENGTH)
        except ValueError as error:
            self._warnings.warn(
                actor_name,
                "A task of actor %s is tracked without its metadata: for_state['metadata'] is "
                "refused, since %s. Send a small piece of JSON. Later ones of this actor are not "
                "logged.",
                error,
            )
            return None

    def _encode(self, message: Any) -> str | None:
        try:
            text: str = message.encode().decode("utf-8")
        except UnicodeDecodeError:
            reason = "the broker's encoder doesn't make text"
        except Exception as error:  # noqa: BLE001 - a worker's middleware may add what it can't encode
            reason = f"it can't be encoded ({type(error).__name__})"
        else:
            if len(text) <= values.STORED_MESSAGE_LENGTH and "\0" not in text:
                return text
            reason = f"it takes more than {values.STORED_MESSAGE_LENGTH:,} characters"
        self._warnings.warn(
            message.actor_name,
            "A message of actor %s is not stored (TASKSTATE['STORE_MESSAGE']): %s. Its task is "
            "tracked as ever, but can't be sent again. Later ones of this actor are not logged.",
            reason,
        )
        return None

    def _user_key(self) -> values.UserKey:
        if self._find_user_key is None:  # An import statement costs 0.4 us, each time.
            if not apps.models_ready:
                raise ValueError("the apps aren't loaded yet")
            # Here, because the middleware is made before models can be imported.
            from .models import user_key

            self._find_user_key = user_key
        return self._find_user_key()


def _names(actor_name: object, queue_name: Any, model_name: object, app_name: object) -> Names:
    return (
        values.clean_text(actor_name, values.ACTOR_NAME_LENGTH),
        values.clean_text(q_name(queue_name), values.QUEUE_NAME_LENGTH),
        values.clean_text(model_name, values.MODEL_NAME_LENGTH),
        values.clean_text(app_name, values.APP_NAME_LENGTH),
    )


#: A site has few of them, and tasks that wait share them.
_known_names = functools.lru_cache(maxsize=512)(_names)


def _may_wait(  # noqa: PLR0917 - the fields, as they are
    message_id: Any,
    enqueued_at: Any,
    user_pk: Any,
    actor_name: Any,
    queue_name: Any,
    description: Any,
    model_name: Any,
    app_name: Any,
    _metadata: str | None,
    _stored_message: str | None,
) -> bool:
    """Return whether raw fields are small, and can't change meanwhile; the last two are text."""
    texts = (actor_name, queue_name, description, model_name, app_name)
    try:
        size = len(message_id) + len("".join(texts))  # Nothing but text can be joined.
    except TypeError:
        return False
    is_number = user_pk is None or type(user_pk) is int
    return size <= _SMALL and is_number and type(enqueued_at) is int and type(message_id) is str
