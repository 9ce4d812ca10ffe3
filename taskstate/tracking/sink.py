"""Where transitions go: to the writer's queue, or in synchronous mode directly to the database."""

from __future__ import annotations

import functools
import math
import time

from dramatiq.middleware import MiddlewareError

from taskstate import conf
from taskstate.conf import Options
from taskstate.transitions.rank import status_of
from taskstate.transitions.transition import (
    FIELDS,
    MESSAGE_ID,
    RANK,
    DeferredTransition,
    RawTransition,
)
from taskstate.writer.synchronous import SynchronousWriter
from taskstate.writer.writer import Writer


class NotCommittedError(MiddlewareError):
    """Raised before an acknowledgment, so that Dramatiq does not acknowledge the message.

    It is a ``MiddlewareError`` because Dramatiq logs and ignores any other exception of a hook.
    """


class TransitionSink:
    """Passes transitions to one of two writers, according to the options.

    Parameters:
      options(Options): The settings in force.
      writer(Writer): Writes in its own thread.
      synchronous_writer(SynchronousWriter): Writes in the calling thread.
    """

    def __init__(
        self, options: Options, writer: Writer, synchronous_writer: SynchronousWriter
    ) -> None:
        self._options = options
        self._writer = writer
        self._synchronous_writer = synchronous_writer
        #: When the worker began to shut down, by the monotonic clock.
        self.stopping_since: float | None = None

    def push(self, transition: RawTransition, *, waits: bool = False) -> None:
        """Push a transition.

        Parameters:
          waits(bool): Whether to wait until it is committed.

        Raises:
          NotCommittedError: If the worker shuts down before the transition is committed.
        """
        writer, options = self._writer, self._options
        if writer.thread.is_idle:
            conf.check_database()  # Only then: it takes 0.5 us, and a busy writer calls it itself.
        if options.app_is_missing:
            conf.log_missing_app()
        elif options.synchronous:
            self._synchronous_writer.push(transition)
        elif waits:
            self._push_and_wait(transition)
        else:
            # This is writer.push without the call.
            writer.queue.push(transition)
            if writer.thread.is_idle:
                writer.thread.wake()

    def push_deferred(self, deferred: DeferredTransition) -> None:
        """Push an object that makes a transition when the writer asks for it, if it still
        exists."""
        conf.check_database()
        if self._options.app_is_missing:
            conf.log_missing_app()
        elif self._options.synchronous:
            self._synchronous_writer.push_deferred(deferred)
        else:
            self._writer.push_deferred(deferred)

    def _push_and_wait(self, transition: RawTransition) -> None:
        """Push, and wait until it is committed.  Once the worker shuts down, wait no longer than
        ``SHUTDOWN_TIMEOUT``."""
        time_left = functools.partial(self._time_left, time.monotonic())
        if not self._writer.push_and_wait(transition, time_left):
            raise NotCommittedError(
                f"This worker shuts down, and the state {status_of(transition[RANK]).value!r} of "
                f"message {transition[FIELDS][MESSAGE_ID]} could not be written within "
                f"{self._options.shutdown_timeout} seconds. The message is not acknowledged, so "
                "the broker delivers it again (TASKSTATE['FLUSH_BEFORE_ACK'])."
            )

    def _time_left(self, since: float) -> float:
        if self.stopping_since is None:
            return math.inf
        end = max(since, self.stopping_since) + self._options.shutdown_timeout
        return max(0.0, end - time.monotonic())
