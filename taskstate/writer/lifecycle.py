"""The writers of a process: its exit and forks, and the public functions ``flush`` and ``stats``.

A writer is registered at its first push, so a process that tracks nothing installs no hooks.
"""

from __future__ import annotations

import functools
import logging
import operator
import os
from multiprocessing.util import Finalize
from typing import Protocol
from weakref import WeakSet

from taskstate.stores import Store
from taskstate.utils.sync import Deadline
from taskstate.writer import uwsgi
from taskstate.writer.stats import Stats

logger = logging.getLogger(__name__)

#: How long a fork waits for what a writer is writing, in seconds; see
#: ``BackgroundThread.before_fork``.  On a busy machine, the first flush of a process may take some
#: seconds.
FORK_WAIT_SECONDS = 10.0


class AnyWriter(Protocol):
    """The methods of a writer that this module calls."""

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything that was pushed before is committed, or was rejected as bad data.
        Return whether it was in time."""

    def stop(self, timeout: float | None = None) -> bool:
        """Flush, and end the thread.  Return whether everything was committed or rejected in
        time."""

    def stats(self) -> Stats:
        """Return what the writer has done so far."""

    def before_fork(self, seconds: float) -> bool:
        """Prepare for a fork; see ``BackgroundThread.before_fork``."""

    def after_fork_in_parent(self) -> None:
        """Continue after a fork."""

    def after_fork_in_child(self) -> Store | None:
        """Start again without pending tasks.  Return the parent's store, which must be kept."""


class _State:
    """The state of this module.  No other module changes it."""

    def __init__(self) -> None:
        self.writers: WeakSet[AnyWriter] = WeakSet()
        self.fork_hook_installed = False
        self.exit_hook_pid: int | None = None
        #: The stores of parent processes.  If they were deleted, the parents' connections would be
        #: closed.
        self.inherited: list[Store | None] = []


_state = _State()


def flush(timeout: float | None = None) -> bool:
    """Wait until everything that this process tracked before the call is committed, or was rejected
    as bad data (see ``stats().rejected``).

    It may be called in any thread, in a receiver of ``task_changed``, and after a fork.

    Parameters:
      timeout(float): How many seconds to wait.  None waits as long as it takes, even during an
        outage, unless waiting can't help: if the table is missing, or a test forbids access to the
        database, it returns after one try.

    Returns:
      bool: False if not everything was committed or rejected in time.  The rest stays pending.
    """
    deadline = Deadline(timeout)
    flushed = True
    for writer in list(_state.writers):
        flushed = writer.flush(deadline.left()) and flushed
    return flushed


def stats() -> Stats:
    """Return what the writers of this process have done since it started."""
    return functools.reduce(
        operator.add, (writer.stats() for writer in list(_state.writers)), Stats()
    )


def register(writer: AnyWriter) -> None:
    """Stop ``writer`` when the process exits, and prepare it for forks.  To register it again has
    no effect."""
    _state.writers.add(writer)
    if not _state.fork_hook_installed:
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=_before_fork,
                after_in_parent=_after_fork_in_parent,
                after_in_child=_after_fork_in_child,
            )
        uwsgi.install_fork_hook(_after_fork_in_child)
        _state.fork_hook_installed = True
    if _state.exit_hook_pid != os.getpid():
        # It also runs when a child of multiprocessing exits, where the handlers of atexit run only
        # since Python 3.13.  Each child has to install its own.
        Finalize(None, _stop_writers, exitpriority=0)
        _state.exit_hook_pid = os.getpid()


def _before_fork() -> None:
    for writer in list(_state.writers):
        if not writer.before_fork(FORK_WAIT_SECONDS):
            logger.warning(
                "This process forks while its task states are being written, since that takes "
                "longer than %.0f seconds. The child may hang when it uses the same database, "
                "because it inherits the locks of the database driver. Check that the database "
                "answers, or fork before messages are sent.",
                FORK_WAIT_SECONDS,
            )


def _after_fork_in_parent() -> None:
    for writer in list(_state.writers):
        writer.after_fork_in_parent()


def _after_fork_in_child() -> None:
    for writer in list(_state.writers):
        _state.inherited.append(writer.after_fork_in_child())


def _stop_writers() -> None:
    for writer in list(_state.writers):
        try:
            writer.stop()
        except Exception:
            logger.exception("The last flush of this process failed.")
