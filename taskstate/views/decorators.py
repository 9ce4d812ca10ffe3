"""Decorators of the views: they refuse bad requests as JSON, and keep responses out of caches."""

from __future__ import annotations

import functools
from typing import Any, Callable

from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.utils.translation import gettext as _
from django.views.decorators.cache import cache_control
from django.views.decorators.vary import vary_on_headers

from taskstate.views.queries import BadQueryError

ViewFunction = Callable[[HttpRequest], HttpResponseBase]

METHODS = ("GET", "HEAD")


def never_stored(view: ViewFunction) -> ViewFunction:
    """Forbid caches to store the responses of a view: each is for one user, and soon outdated.

    ``private`` is for Django's own cache, which ignores ``no-store`` in older releases.  ``Vary``
    is for caches that store a response anyway: it names the headers that identify the user.
    Django's ``LocaleMiddleware`` adds the language.
    """
    wrapped: Any = cache_control(private=True, no_store=True)(view)
    return vary_on_headers("Cookie", "Authorization")(wrapped)  # type: ignore[no-any-return]


def json_api(view: ViewFunction) -> ViewFunction:
    """Answer in JSON where a view can't: with the matching status code and an ``error``.

    A request without a signed-in user gets a 401.  A script could not show the page that a redirect
    leads to.
    """

    @functools.wraps(view)
    def respond(request: HttpRequest) -> HttpResponseBase:
        if request.method not in METHODS:
            response = _error(405, _("Method not allowed."))
            response["Allow"] = ", ".join(METHODS)
            return response
        user: Any = getattr(request, "user", None)
        if user is None or not user.is_authenticated:
            return _error(401, _("Please sign in."))
        if not user.is_active:
            return _error(403, _("This account is not active."))
        try:
            return view(request)
        except BadQueryError as error:
            return _error(400, str(error))

    wrapped: Any = never_stored(respond)
    # Django's LoginRequiredMiddleware would redirect.
    wrapped.login_required = False
    return wrapped  # type: ignore[no-any-return]


def _error(status: int, text: str) -> JsonResponse:
    return JsonResponse({"error": text}, status=status)
