"""Support for uWSGI, which by default forks its workers in C, without Python's fork hooks."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from typing import Any, Callable

logger = logging.getLogger(__name__)


def install_fork_hook(after_fork_in_child: Callable[[], None]) -> None:
    """Let uWSGI call a function in each worker that it forks.  Without uWSGI, do nothing.

    Options of uWSGI that keep the writer from working are logged.

    Parameters:
      after_fork_in_child(Callable): The function.
    """
    uwsgi: Any = sys.modules.get("uwsgi")  # Only uWSGI's own processes have this module.
    if uwsgi is None:
        return
    _check_options(uwsgi)
    others = [getattr(uwsgi, "post_fork_hook", None)]
    with contextlib.suppress(Exception):  # It raises if there is no master process.
        # This module replaces the hook.  If it were imported later, it would replace ours.
        importlib.import_module("uwsgidecorators")
    others.append(getattr(uwsgi, "post_fork_hook", None))

    def post_fork_hook() -> None:
        after_fork_in_child()
        for other in dict.fromkeys(others):
            if other is not None:
                other()

    uwsgi.post_fork_hook = post_fork_hook


def _check_options(uwsgi: Any) -> None:
    if not getattr(uwsgi, "has_threads", True):
        logger.warning(
            "uWSGI does not run Python threads in this process, so task states are written only "
            "while it serves requests, and when it stops. Set uWSGI's option enable-threads."
        )
    if uwsgi.masterpid() == os.getpid() and "py-call-uwsgi-fork-hooks" not in uwsgi.opt:
        logger.warning(
            "This process tracked messages before uWSGI has forked its workers, so it runs a "
            "thread now, and a worker may hang when it is forked. Set one of uWSGI's options "
            "py-call-uwsgi-fork-hooks and lazy-apps."
        )
