"""Requests of threads that wait for a flush."""

from __future__ import annotations

from collections import deque

from taskstate.utils.sync import Latch


class FlushRequest:
    """A thread waits until everything that was pushed before is committed or rejected."""

    def __init__(self) -> None:
        self.latch = Latch()
        #: Whether a flush was tried for it.
        self.was_tried = False
        #: Whether the flush failed for a reason that waiting can't change.
        self.has_failed = False


class FlushRequests:
    """The open requests.  Any thread may add a request, and discard its own."""

    def __init__(self) -> None:
        self._open: deque[FlushRequest] = deque()

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self) -> FlushRequest:
        """Open a request."""
        request = FlushRequest()
        self._open.append(request)
        return request

    def discard(self, request: FlushRequest) -> None:
        """Remove a request, if it is still open."""
        try:
            self._open.remove(request)
        except ValueError:  # The writer has finished it.
            pass

    def all(self) -> list[FlushRequest]:
        """Return the requests that are open now."""
        return list(self._open)

    def finish(self, requests: list[FlushRequest], *, has_failed: bool) -> None:
        """Remove these requests, and release the threads that wait for them."""
        for request in requests:
            self.discard(request)
            request.has_failed = has_failed
            request.latch.open()
