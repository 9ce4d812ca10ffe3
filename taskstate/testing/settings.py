"""The setting ``SYNCHRONOUS``, for a while."""

from __future__ import annotations

from typing import Any, ContextManager

from django.test.utils import override_settings

from taskstate import conf


def synchronous(*, value: bool) -> ContextManager[Any]:
    """Return a context in which ``SYNCHRONOUS`` has this value, and all else is as before."""
    raw = conf.raw_settings()
    others = raw if isinstance(raw, dict) else {}
    context: ContextManager[Any] = override_settings(TASKSTATE={**others, "SYNCHRONOUS": value})
    return context
