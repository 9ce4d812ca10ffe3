"""The texts of exceptions that users may read: those that were written for them.

The message of any other exception may contain confidential data: a value of another user's row, a
URL with a token, or a path.  It is stored, and only staff see it.
"""

from __future__ import annotations

import logging

from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import Promise

from taskstate import conf
from taskstate.transitions import sanitize
from taskstate.utils.untrusted import call_untrusted
from taskstate.utils.warn_once import ErrorsOnce

__all__ = ["UserFacingError", "find_user_error"]

logger = logging.getLogger(__name__)

_errors = ErrorsOnce(logger)


class UserFacingError(Exception):
    """An exception whose message the task's user may read.

    Raise it, or a subclass, in an actor.  With ``from``, the exception that it replaces is kept in
    the traceback, which only staff see::

        raise UserFacingError("The card has expired.") from error
    """


def find_user_error(exception: BaseException) -> str | None:
    """Return what users may read about an exception, in one line of at most 255 characters.

    Returns:
      str: The message of a ``UserFacingError``.  For any other exception, what the function
        ``TASKSTATE["USER_ERROR"]`` returns.  None if there is no text.
    """
    text = exception if isinstance(exception, UserFacingError) else _call_user_error(exception)
    if text is None:
        return None
    try:
        return sanitize.clean_line(text, sanitize.ERROR_LENGTH) or None
    except Exception:  # noqa: BLE001 - whatever its own methods raise
        return None


def _call_user_error(exception: BaseException) -> str | Promise | None:
    """Return what the function ``USER_ERROR`` returns for an exception.  Return None if it is not
    set, if it fails, or if it returns something other than text."""
    function = conf.USER_ERROR.function
    if function is None:
        return None
    try:
        text = call_untrusted(function, exception)
    except Exception as error:  # noqa: BLE001 - whatever the site's function raises
        _log_failure(error)
        return None
    if text is None or isinstance(text, (str, Promise)):
        return text
    _errors.log(
        f"returned {type(text).__name__}",
        "TASKSTATE['USER_ERROR'] returned a value of type %s. The user reads only that the task "
        "failed. Let it return a text, or None. Later values of this type are not logged.",
        type(text).__name__,
    )
    return None


def _log_failure(error: Exception) -> None:
    """Log that ``USER_ERROR`` has raised an error.  Call it while the error is handled."""
    is_ours = isinstance(error, ImproperlyConfigured)  # Its text says what to do.
    _errors.log(
        type(error).__name__,
        "TASKSTATE['USER_ERROR'] raised %s. The user reads only that the task failed. Let it "
        "return a text, or None. Later errors of this type are not logged.",
        str(error) if is_ours else sanitize.describe_exception(error),
        exc_info=True,
    )
