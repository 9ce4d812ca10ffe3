"""The tenants of tasks.  Users of different tenants may have the same key.

The function ``TASKSTATE["TENANT"]`` returns the name of the current tenant, or "" if there is none.
It is called when a message is first enqueued, and the message carries the name.  It is called
again whenever tasks are read for a user.

If the tenant of a task can't be determined, ``UNKNOWN`` is stored, and no user of any tenant sees
the task.
"""

from __future__ import annotations

import logging
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from taskstate import conf
from taskstate.transitions import sanitize
from taskstate.utils.log_text import for_log
from taskstate.utils.pipelines import followers
from taskstate.utils.warn_once import ActorWarnings, ErrorsOnce

logger = logging.getLogger(__name__)

#: The message option that carries the tenant.
OPTION = "taskstate_tenant"
#: Stored in place of a tenant's name that can't be determined.
UNKNOWN = "?"

_warnings = ActorWarnings(logger)
_errors = ErrorsOnce(logger)


def current_tenant() -> str:
    """Return the name of the current tenant.

    Returns:
      str: "" if there is no current tenant or ``TENANT`` is not set; ``UNKNOWN`` if the function
        fails, which is logged once for each reason.
    """
    function = conf.TENANT.function
    if function is None:
        return ""
    try:
        name = function()
    except Exception as error:  # noqa: BLE001 - whatever the site's function raises
        _log_failure(error)
        return UNKNOWN
    if not sanitize.is_tenant(name):
        _log_invalid_name(name)
        return UNKNOWN
    return str.__str__(name)


def _log_failure(error: Exception) -> None:
    """Log that ``TENANT`` has raised an error.  Call it while the error is handled."""
    is_ours = isinstance(error, ImproperlyConfigured)  # Its text says what to do.
    _errors.log(
        type(error).__name__,
        "TASKSTATE['TENANT'] raised %s. While it fails, users see no tasks, and messages that are "
        "sent now get tasks that no user sees. Let it return the name of the current tenant, or "
        "'' if there is none. Later errors of this type are not logged.",
        str(error) if is_ours else sanitize.describe_exception(error),
        exc_info=True,
    )


def _log_invalid_name(name: object) -> None:
    _errors.log(
        "name",
        "TASKSTATE['TENANT'] returned %.120r, which is not a valid name. While it does, users see "
        "no tasks, and messages that are sent now get tasks that no user sees. Let it return a "
        "string of at most %d printable characters without spaces at its ends, or '' if there is "
        "no tenant. Later invalid names are not logged.",
        name,
        sanitize.TENANT_LENGTH,
    )


def clean_name(value: object) -> str:
    """Return the tenant's name that a message carries, or ``UNKNOWN`` if it is not valid."""
    return str.__str__(value) if isinstance(value, str) and sanitize.is_tenant(value) else UNKNOWN


def write_tenant(options: dict[str, Any], run_tenant: str | None) -> None:
    """Write the current tenant into the options of a message that is being enqueued, and of the
    messages that follow it, unless they have a tenant already.

    Parameters:
      options(dict): The options of the message.
      run_tenant(str): The tenant of the run that sends the message; None outside of a run.  It is
        used if there is no current tenant, as is usual in a worker.
    """
    tenant = options.get(OPTION)
    if tenant is None:
        tenant = options[OPTION] = current_tenant() or run_tenant or ""
    _write_to_followers(options, tenant)


def write_tenant_of_followers(options: dict[str, Any], run_tenant: str | None) -> None:
    """Write the current tenant into the options of the messages that follow an untracked message,
    unless they have a tenant already.  The parameters are those of ``write_tenant``."""
    if any(followers(options)):
        _write_to_followers(options, current_tenant() or run_tenant or "")


def _write_to_followers(options: dict[str, Any], tenant: str) -> None:
    for follower in followers(options):
        own = follower["options"]
        _write_to_followers(own, own.setdefault(OPTION, tenant))


def write_missing_tenant(message: Any) -> None:
    """Write the current tenant into the options of a message that was received without a tenant.

    Such a message was sent before ``TENANT`` was set, or by a broker that encodes a message before
    its options are complete.  If the worker has no current tenant either, the tenant is
    ``UNKNOWN``.
    """
    if OPTION in message.options:
        return
    tenant = message.options[OPTION] = current_tenant() or UNKNOWN
    if tenant == UNKNOWN:
        _warnings.warn(
            message.actor_name,
            "A message of actor %s came without a tenant (TASKSTATE['TENANT']), so no user sees "
            "its task: message %s. Either it was sent before TENANT was set, or its broker encodes "
            "messages before their options are complete. In the second case, set the tenant in the "
            "worker, with a middleware that is listed before StateMiddleware. Later messages of "
            "this actor are not logged.",
            for_log(message.message_id),
        )
