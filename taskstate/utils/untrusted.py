"""Calls of code that belongs to a value from outside, such as its ``__str__``."""

from __future__ import annotations

import threading
from typing import Any, Callable, TypeVar

from dramatiq.middleware import Interrupt

T = TypeVar("T")


def call_untrusted(function: Callable[[Any], T], value: object) -> T:
    """Return ``function(value)``, where the call may run the value's own code.

    If that code raises an exception that would end the calling thread, such as ``SystemExit``, a
    ``ValueError`` is raised instead: Dramatiq's worker threads survive an actor that does so, and
    must survive here too.  Exceptions that are meant for the thread itself pass through:
    Dramatiq's ``TimeLimitExceeded`` and ``Shutdown``, and in the main thread whatever a signal
    handler raises.

    Raises:
      ValueError: In place of an exception that is not an ``Exception``.
    """
    try:
        return function(value)
    except (Exception, Interrupt):
        raise
    except BaseException as error:
        if threading.current_thread() is threading.main_thread():
            raise
        raise ValueError(f"it raises {type(error).__name__}") from error
