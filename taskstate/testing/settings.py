"""A context in which the setting ``SYNCHRONOUS`` has another value."""

from __future__ import annotations

from typing import Any, ContextManager

from django.test.utils import override_settings

from taskstate import conf


def synchronous(*, value: bool) -> ContextManager[Any]:
    """Return a context that gives ``SYNCHRONOUS`` a value and keeps all other settings."""
    context: ContextManager[Any] = override_settings(
        TASKSTATE={**conf.given_settings(), "SYNCHRONOUS": value}
    )
    return context
