"""What all hooks of tracked messages share: how they find a ``for_state``, and what they need.

A hook runs in the middle of other work, when the processor's caches hold other code and other data.
There each function that it calls costs two to three times as much as in a loop.  So the hooks that
every tracked message passes are written out, with few calls, and rare cases are functions of their
own.
"""

from __future__ import annotations

import logging
from typing import Any
from weakref import WeakSet

import dramatiq
from dramatiq.broker import MessageProxy

from taskstate.conf import Options
from taskstate.tracking.encodable import ForStateError
from taskstate.tracking.fields import FieldCollector
from taskstate.tracking.for_state import FOR_STATE, DeclaredActors, merge_for_state
from taskstate.tracking.options import STAMP_OPTION
from taskstate.tracking.run import ThisThread
from taskstate.tracking.sink import NotCommittedError, TransitionSink
from taskstate.utils.log_text import for_log

logger = logging.getLogger(__name__)

#: The errors that a hook raises, for Dramatiq or for the code that sends the message.
RAISED = (NotCommittedError, ForStateError)


class TrackingHooks(dramatiq.Middleware):
    """The base of the hooks.

    Dramatiq passes a message to its hooks as a proxy while it is processed, and usually as itself
    while it is enqueued.  The proxy holds the run.  Each attribute of a proxy costs a call in
    Python, so the hooks read the message itself.
    """

    def __init__(self, options: Options, collector: FieldCollector, sink: TransitionSink) -> None:
        self._options = options
        self._collector = collector
        self._sink = sink
        # An attribute, so that it is not bound again for each run.
        self._push_deferred = sink.push_deferred
        self._actors = DeclaredActors()
        self._this_thread = ThisThread()
        #: Whether a message has arrived without its stamp.
        self._loses_stamps = False
        self._lost_stamps = LostStampLog()

    @property
    def actor_options(self) -> set[str]:
        """The options that an actor may be declared with."""
        return {FOR_STATE}

    def after_declare_actor(self, broker: dramatiq.Broker, actor: Any) -> None:
        """Record what the declaration of an actor says about ``for_state``."""
        self._actors.declare(broker, actor)

    def _find_state(
        self, broker: dramatiq.Broker, message: Any, for_state: object
    ) -> dict[str, Any] | None:
        """Return the ``for_state`` of a message; None if it is not tracked.

        A hook need not call this if no actor is declared with a ``for_state``, and the message
        carries a dictionary by keyword: that is its ``for_state``.

        Parameters:
          for_state(object): What the message carries by keyword.
        """
        if for_state is None:
            for_state = message.options.get(FOR_STATE)
        actors = self._actors
        if actors.by_name and (for_state is None or actors.have_states):
            declared = actors.by_name.get(message.actor_name)
            if declared is not None:
                for_state = merge_for_state(declared.get(id(broker)), message, for_state)
        if for_state is None or isinstance(for_state, dict):
            return for_state
        logger.debug(
            "Message %s is not tracked: its %s is a %s, not a dict.",
            for_log(message.message_id),
            FOR_STATE,
            type(for_state).__name__,
        )
        return None

    def _state_of(self, broker: dramatiq.Broker, message: Any) -> dict[str, Any] | None:
        """Return the ``for_state`` of a message; None if it is not tracked."""
        return self._find_state(broker, message, message.kwargs.get(FOR_STATE))

    def _record_lost_stamp(self, broker: dramatiq.Broker) -> None:
        self._loses_stamps = True
        self._lost_stamps.warn(broker)


def unwrap(message: Any) -> Any:
    """Return the message of a proxy; any other message is returned as it is."""
    return message._message if isinstance(message, MessageProxy) else message


def log_failure(hook: str, message: Any) -> None:
    """Log that a hook failed.  Call it while the exception is handled."""
    logger.exception(  # noqa: LOG004
        "%s could not track message %s of actor %s. The message is processed as usual.",
        hook,
        for_log(message.message_id),
        for_log(message.actor_name),
    )


class LostStampLog:
    """Warns once of each broker that loses stamps."""

    def __init__(self) -> None:
        self._warned_brokers: WeakSet[dramatiq.Broker] = WeakSet()

    def warn(self, broker: dramatiq.Broker) -> None:
        """Warn that messages arrive without their stamps, unless this broker was logged before."""
        if broker in self._warned_brokers:
            return
        self._warned_brokers.add(broker)
        logger.warning(
            "Tracked messages arrive from %s without the option %r. Either the broker encodes "
            "messages before it calls the hook before_enqueue, or their senders do not use "
            "StateMiddleware. States are still tracked. Their order across retries relies on the "
            "clocks of your hosts, so keep these in sync. This is logged once per broker.",
            type(broker).__name__,
            STAMP_OPTION,
        )
