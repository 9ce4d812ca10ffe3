"""What the views that a script talks to have in common: who may ask, and how errors look."""

from __future__ import annotations

import functools
from typing import Any, Callable

from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.utils.translation import gettext as _
from django.views.decorators.cache import cache_control

from .feed import BadQuestionError

View = Callable[[HttpRequest], HttpResponseBase]

METHODS = ("GET", "HEAD")

#: States change, and they are nobody else's business: no cache keeps them.
never_stored = cache_control(no_store=True)


def for_scripts(view: View) -> View:
    """Turn whatever keeps a view from answering into JSON with the right status code.

    Somebody who isn't signed in gets a 401, and no redirect to a page that a script can't show.
    """

    @functools.wraps(view)
    def answer(request: HttpRequest) -> HttpResponseBase:
        if request.method not in METHODS:
            response = _error(405, _("This can only be read."))
            response["Allow"] = ", ".join(METHODS)
            return response
        user: Any = getattr(request, "user", None)
        if user is None or not user.is_authenticated:
            return _error(401, _("Please sign in."))
        if not user.is_active:
            return _error(403, _("This account is not active."))
        try:
            return view(request)
        except BadQuestionError as error:
            return _error(400, str(error))

    # So that Django's LoginRequiredMiddleware leaves the 401 to us.
    wrapped: Any = never_stored(answer)
    wrapped.login_required = False
    return wrapped  # type: ignore[no-any-return]


def _error(status: int, text: str) -> JsonResponse:
    return JsonResponse({"error": text}, status=status)
