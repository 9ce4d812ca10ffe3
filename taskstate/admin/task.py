"""``TaskAdmin``: a task list that stays fast, a page for each task, and two actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin import helpers, options
from django.contrib.auth import get_permission_codename
from django.core.exceptions import BadRequest
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from taskstate.admin.changelist import SCAN_LIMIT, CappedPaginator, TaskChangeList, to_uuid_or_none
from taskstate.admin.columns import TaskColumns
from taskstate.admin.fields import TaskFields
from taskstate.admin.filters import (
    ActorFilter,
    DayFilter,
    EnqueuedFilter,
    QueueFilter,
    UserFilter,
    parameters_of,
)
from taskstate.admin.resend import ResendAction
from taskstate.models import Task, TaskQuerySet
from taskstate.visibility import tasks_in_admin

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Task]
else:  # It takes no parameter at run time.
    _ModelAdmin = admin.ModelAdmin

#: The number of words that a search uses; it ignores further ones.
MAX_WORDS = 10


@admin.register(Task)
class TaskAdmin(TaskColumns, TaskFields, _ModelAdmin):
    """Shows tasks.  No task can be added or changed here: the middleware writes them."""

    list_display = (
        "name",
        "state_and_progress",
        "age",
        "run_time",
        "attempt",
        "owner",
        "queue_name",
    )
    list_filter = (
        "status",
        ActorFilter,
        QueueFilter,
        ("enqueued_at", EnqueuedFilter),
        DayFilter,
        UserFilter,
    )
    # The id makes the order total, so that pages don't overlap.  MariaDB's index on enqueued_at
    # ends with it.
    ordering = ("-enqueued_at", "message_id")
    #: Any other order would have to sort all rows.
    sortable_by = ()
    search_fields = ("description", "actor_name")
    search_help_text = format_lazy(
        _(
            "An id, or words of the description and the actor. The words are searched for in the "
            "newest {limit} tasks, or in those of the chosen user and date."
        ),
        limit=f"{SCAN_LIMIT:,}",
    )
    paginator = CappedPaginator
    show_full_result_count = False
    if hasattr(admin, "ShowFacets"):  # Django 5 and later.  Each facet would count the table.
        show_facets = admin.ShowFacets.NEVER
    actions = ("resend",)

    class Media:
        css = {"all": ["taskstate/admin.css"]}

    # Permissions.

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: only the middleware adds tasks."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Task | None = None) -> bool:
        """Return False: the next transition would overwrite the change."""
        return False

    def has_resend_permission(self, request: HttpRequest) -> bool:
        """Return whether the user has Django's permission to change tasks, which the action
        "Send again" requires."""
        codename = get_permission_codename("change", self.opts)
        return bool(request.user.has_perm(f"{self.opts.app_label}.{codename}"))

    # Queries.

    def get_queryset(self, request: HttpRequest) -> TaskQuerySet:
        """Return the tasks that the request may see, with their users.

        The users are read by a query of their own: they may be in another database, or deleted.
        """
        tasks = tasks_in_admin(request).order_by(*self.get_ordering(request))
        return tasks.prefetch_related("user")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[TaskChangeList]:
        """Return the list whose queries have limits."""
        return TaskChangeList

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """Return whether a URL may filter the list by ``lookup``: only by the filters of the list.

        Django allows every lookup of a model's own fields.  Among these are regular expressions,
        and a short one can keep a database busy for hours.
        """
        return any(lookup in parameters_of(each) for each in self.list_filter)

    def get_search_results(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[Any, bool]:
        """Return the task with this id, or the tasks that have all words in their description and
        actor name."""
        message_id = to_uuid_or_none(search_term)
        if message_id is not None:
            return queryset.filter(pk=message_id), False
        # PostgreSQL refuses NUL characters.  The search form of the list does so too, but the
        # autocomplete view of a site's own models does not.
        for word in search_term.replace("\0", "").split()[:MAX_WORDS]:
            queryset = queryset.filter(
                Q(description__icontains=word) | Q(actor_name__icontains=word)
            )
        return queryset, False

    # Actions.

    def response_action(
        self, request: HttpRequest, queryset: Any, *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Run an action on the selected tasks of one page.

        A selection across pages is refused, since Django would read all of it at once.

        Raises:
          BadRequest: If a selected id is not a UUID.
        """
        if request.POST.get("select_across", "0") not in {"", "0"}:
            text = _(
                "Select tasks on one page at a time. To delete many, use manage.py clear_tasks."
            )
            self.message_user(request, text, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        _selected_ids(request)
        response: HttpResponse | None = super().response_action(request, queryset, *args, **kwargs)
        return response

    def delete_model(self, request: HttpRequest, obj: Task) -> None:
        """Delete a task in the database that it was read from, whatever the site's routers say."""
        obj.delete(using=obj._state.db)

    @admin.action(permissions=["resend"], description=_("Send again"))
    def resend(self, request: HttpRequest, queryset: TaskQuerySet) -> HttpResponse | None:
        """Send the messages of the selected tasks again."""
        # Not by the queryset: the filters of the list leave out tasks whose status has changed
        # since they were selected.
        return ResendAction(self, request).run(_selected_ids(request))

    # From Django 6.1, an action can be on a task's own page as well.
    resend.locations = list(getattr(options, "ActionLocation", ()))  # type: ignore[attr-defined]


def _selected_ids(request: HttpRequest) -> set[UUID]:
    """Return the ids of the selected tasks.

    Raises:
      BadRequest: If one of them is not a UUID.  Django itself would answer with a 500.
    """
    texts = request.POST.getlist(helpers.ACTION_CHECKBOX_NAME)
    try:
        return {UUID(text) for text in texts}
    except ValueError as error:
        raise BadRequest(
            "The id of a selected task is not a UUID. Load the list again and repeat the action."
        ) from error
