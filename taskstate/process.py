"""What a process has to do for its writers: exits, forks, and the two public functions.

Writers are watched from their first push on, so that a process that tracks nothing carries
nothing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import operator
import os
import sys
from multiprocessing.util import Finalize
from typing import Any
from weakref import WeakSet

from .flusher import Stats
from .stores import Store
from .threads import Deadline
from .writer import Writer

logger = logging.getLogger(__name__)

#: How long a fork waits for a running flush, in seconds: most are far shorter, and one that is
#: stuck must not hold it up.
FORK_WAIT_SECONDS = 2.0


class _State:
    """What this module keeps; nobody else changes it."""

    def __init__(self) -> None:
        self.writers: WeakSet[Writer] = WeakSet()
        self.fork_hook_installed = False
        self.exit_hook_pid: int | None = None
        #: Stores of parent processes.  Were they collected, the parents' connections would end.
        self.inherited: list[Store | None] = []


_state = _State()


def flush(timeout: float | None = None) -> bool:
    """Wait until everything that this process tracked before the call is committed.

    Safe from any thread, from a receiver of ``task_changed``, and after a fork.

    Parameters:
      timeout(float): Seconds to wait; None waits as long as it takes, through an outage too.

    Returns:
      bool: False if it wasn't committed in time; it stays pending then.
    """
    deadline = Deadline(timeout)
    flushed = True
    for writer in list(_state.writers):
        flushed = writer.flush(deadline.left()) and flushed
    return flushed


def stats() -> Stats:
    """Return what the tracking of this process has done since the process began."""
    return functools.reduce(
        operator.add, (writer.stats() for writer in list(_state.writers)), Stats()
    )


def watch(writer: Writer) -> None:
    """Let ``writer`` be stopped at exit and told of forks.  Cheap, and idempotent."""
    _state.writers.add(writer)
    if not _state.fork_hook_installed:
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=_before_fork,
                after_in_parent=_after_fork_in_parent,
                after_in_child=_after_fork_in_child,
            )
        _watch_uwsgi()
        _state.fork_hook_installed = True
    if _state.exit_hook_pid != os.getpid():
        # Runs at the exit of multiprocessing's children too, where atexit's handlers don't
        # before Python 3.13; a child has to register its own.
        Finalize(None, _stop_writers, exitpriority=0)
        _state.exit_hook_pid = os.getpid()


def _watch_uwsgi() -> None:
    """Let uWSGI tell of its forks: it forks its workers in C, by default without Python's hooks."""
    uwsgi: Any = sys.modules.get("uwsgi")  # It is there in uWSGI's own processes only.
    if uwsgi is None:
        return
    if not getattr(uwsgi, "has_threads", True):
        logger.warning(
            "uWSGI runs no threads of Python's here, so task states are written only while it "
            "serves requests, and when it stops. The cure is its option enable-threads."
        )
    if uwsgi.masterpid() == os.getpid() and "py-call-uwsgi-fork-hooks" not in uwsgi.opt:
        logger.warning(
            "This process tracks messages before uWSGI forks its workers from it, and now runs a "
            "thread: a worker may hang at birth then. The cure is one of uWSGI's options "
            "py-call-uwsgi-fork-hooks and lazy-apps."
        )
    others = [getattr(uwsgi, "post_fork_hook", None)]
    with contextlib.suppress(Exception):  # It raises where there is no master process.
        # Its hook takes the place of whatever is there: later, it would take that of ours.
        importlib.import_module("uwsgidecorators")
    others.append(getattr(uwsgi, "post_fork_hook", None))

    def post_fork_hook() -> None:
        _after_fork_in_child()
        for other in dict.fromkeys(others):
            if other is not None:
                other()

    uwsgi.post_fork_hook = post_fork_hook


def _before_fork() -> None:
    for writer in list(_state.writers):
        writer.hold_still(FORK_WAIT_SECONDS)


def _after_fork_in_parent() -> None:
    for writer in list(_state.writers):
        writer.let_go()


def _after_fork_in_child() -> None:
    for writer in list(_state.writers):
        _state.inherited.append(writer.after_fork())


def _stop_writers() -> None:
    for writer in list(_state.writers):
        try:
            writer.stop()
        except Exception:
            logger.exception("The last flush of this process failed.")
