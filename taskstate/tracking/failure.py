"""Why an attempt failed, as text."""

from __future__ import annotations

from typing import NamedTuple

from taskstate.tracking.user_errors import find_user_error
from taskstate.transitions import sanitize


class Failure(NamedTuple):
    """Why an attempt failed.  All fields are None if no attempt has failed."""

    #: The type and the message of the exception, in one line.
    error: str | None = None
    #: The part of the error that users may read, in one line.
    user_error: str | None = None
    traceback: str | None = None

    @classmethod
    def of(cls, exception: BaseException) -> Failure:
        """Return the failure that an exception describes.  The exception itself is not kept."""
        return cls(
            error=sanitize.describe_exception(exception),
            user_error=find_user_error(exception),
            traceback=sanitize.format_traceback(exception),
        )


NO_FAILURE = Failure()
