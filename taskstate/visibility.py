"""Which tasks a request may see, and which of their errors.

The page, its JSON and events, the template tags and the admin all ask this module.  The rules:

- Users see their own tasks.  Staff with the permission ``taskstate.view_task`` see all tasks.
- ``TASKSTATE["VISIBLE_TASKS"]``, if it is set, replaces the rule above.
- No user sees tasks of another tenant.
- Only staff with the permission see the message of an exception.  Others see ``user_error``, the
  text that was written for users.  ``VISIBLE_TASKS`` does not change that.

The tenant is asked for once, while the request is handled.  A stream of events, which goes on in
other threads, keeps it.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.http import HttpRequest
from django.utils.crypto import salted_hmac
from django.utils.functional import cached_property

from taskstate import conf, tenants
from taskstate.models import ORDERING, Task, TaskQuerySet, within_tenant
from taskstate.transitions.status import LOST_ERROR

#: The purpose of the marks: every use of ``SECRET_KEY`` needs a name of its own.
_MARK_SALT = "taskstate.viewer"
#: The number of characters of a mark, which hold 64 bits.
_MARK_LENGTH = 16


class Viewer:
    """The user who reads a response, in the tenant of the request.

    Parameters:
      user: The signed-in user; None if there is none.
      tenant(str): The tenant whose tasks the user sees; "" if there is none.
    """

    def __init__(self, user: Any = None, tenant: str = "") -> None:
        self._user = user
        self.user_pk: Any = getattr(user, "pk", None)
        self.tenant = tenant

    @cached_property
    def is_staff(self) -> bool:
        """Whether the user is staff or a superuser, and has the permission to view tasks.

        The permission is read at the first use, which may take a query.  In an async view, where
        no query is possible, this is False.
        """
        is_staff = getattr(self._user, "is_staff", False)
        is_staff = is_staff or getattr(self._user, "is_superuser", False)
        try:
            return bool(is_staff and self._user.has_perm("taskstate.view_task"))
        except SynchronousOnlyOperation:
            return False

    @property
    def mark(self) -> str:
        """A text that identifies the user and the tenant without revealing either.

        It is always the same for the same user and tenant, and "" if one of them is not known.
        Pages and responses carry it: while a page stays open, its browser may sign in as another
        user, and the page's script notices that by the mark.  The key is the site's ``SECRET_KEY``,
        so that marks of different sites can't be compared.
        """
        if self.user_pk is None or self.tenant == tenants.UNKNOWN:
            return ""
        value = json.dumps([self.tenant, str(self.user_pk)])
        return salted_hmac(_MARK_SALT, value, algorithm="sha256").hexdigest()[:_MARK_LENGTH]

    def error_of(self, task: Task) -> str | None:
        """Return the error of a task as far as this viewer may read it.

        It is None if the task has no error, or if the error has no text for users.
        """
        if task.error is None or task.error == LOST_ERROR or self.is_staff:
            return task.error
        return task.user_error


class TaskAccess:
    """What one request may see.  The tenant and the rule of the site are asked for once.

    Parameters:
      request(HttpRequest): The request; None for a template that is rendered without one, which
        sees no task.
    """

    def __init__(self, request: HttpRequest | None) -> None:
        self._request = request
        self.viewer = _make_viewer(request)

    @cached_property
    def tasks(self) -> TaskQuerySet:
        """Return the tasks that the request may see, newest first."""
        if self._request is None:
            return Task.objects.none()
        if self._site_tasks is not None:
            return within_tenant(self._site_tasks, self._tenant)
        if self.viewer.is_staff:
            return within_tenant(Task.objects.all(), self._tenant)
        return self._of_user(Task.objects.all())

    @cached_property
    def own_tasks(self) -> TaskQuerySet:
        """Return those of ``tasks`` that belong to the user of the request."""
        return self._of_user(Task.objects.all() if self._site_tasks is None else self._site_tasks)

    @cached_property
    def _site_tasks(self) -> TaskQuerySet | None:
        return _ask_site_rule(self._request)

    @property
    def _tenant(self) -> str | None:
        # None has the queryset ask for the tenant: the viewer knows it only if there is a user.
        return None if self.viewer.user_pk is None else self.viewer.tenant

    def _of_user(self, tasks: TaskQuerySet) -> TaskQuerySet:
        if self.viewer.user_pk is None:
            return tasks.for_user(getattr(self._request, "user", None))
        return tasks.for_tenant(self._tenant).filter(user_id=self.viewer.user_pk)


def tasks_in_admin(request: HttpRequest) -> TaskQuerySet:
    """Return the tasks that the admin shows.  Its own permissions decide who may open it."""
    tasks = _ask_site_rule(request)
    return within_tenant(Task.objects.all() if tasks is None else tasks)


def _make_viewer(request: HttpRequest | None) -> Viewer:
    """Return the viewer of a request, without a user if no user is signed in.

    In an async view there is no user either if the user would have to be loaded, or if ``TENANT``
    is set: it might name the tenant that another request has set in this thread.
    """
    user: Any = getattr(request, "user", None)
    try:
        if user is None or not user.is_authenticated:
            return Viewer()
    except SynchronousOnlyOperation:
        return Viewer()
    if conf.TENANT.function is not None and _is_in_event_loop():
        return Viewer()
    return Viewer(user, tenants.current_tenant())


def _is_in_event_loop() -> bool:
    """Return whether the calling code runs in a coroutine."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _ask_site_rule(request: HttpRequest | None) -> TaskQuerySet | None:
    """Return the tasks that ``VISIBLE_TASKS`` chooses, newest first; None if it is not set.

    Raises:
      ImproperlyConfigured: If it can't be imported, or returns something that can't be filtered.
    """
    function = conf.VISIBLE_TASKS.function
    if function is None:
        return None
    found = function(request)
    fault = _find_fault(found)
    if fault:
        raise ImproperlyConfigured(
            f"TASKSTATE['VISIBLE_TASKS'] returned {fault}. Let it return a queryset of tasks that "
            "can be filtered, such as Task.objects.filter(user__in=...)."
        )
    if found.query.distinct:
        # A distinct queryset can't be deleted, and can't always be ordered.
        found = Task.objects.using(found.db).filter(pk__in=found.order_by().values("pk"))
    # Pages load some columns only, which Django refuses together with select_related.
    found = found.select_related(None)
    found.query.standard_ordering = True  # Undoes a reverse().
    tasks: TaskQuerySet = found.order_by(*ORDERING)
    return tasks


def _find_fault(found: Any) -> str:
    """Return what ``VISIBLE_TASKS`` returned, if it can't be filtered; "" if it can."""
    if not isinstance(found, TaskQuerySet):
        return f"a {type(found).__name__}"
    if getattr(found, "_fields", None) is not None:
        return "values of tasks"
    if found.query.is_sliced:
        return "a slice of tasks"
    return "a union, an intersection or a difference" if found.query.combinator else ""
