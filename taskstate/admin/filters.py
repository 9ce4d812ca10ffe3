"""The filters of the task list.  None of them reads the task table to find its choices."""

from __future__ import annotations

from typing import Any, Iterator

import dramatiq
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from dramatiq.common import q_name

from taskstate.models import Task, keys_of_users


class _TextFilter(admin.SimpleListFilter):
    """A filter by one text."""

    def value(self) -> str | None:
        """Return the text; without what no database takes."""
        text: str | None = self.used_parameters.get(self.parameter_name or "")
        return text.replace("\0", "") if text else None


class _NameFilter(_TextFilter):
    """A filter by a name; its choices are those that the broker has declared in this process, and
    the one that was asked for: to find those that occur in the table, it had to be read whole."""

    field = ""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the names, twice each: as value and as label."""
        names = set(self.declared())
        chosen = self.value()
        if chosen:
            names.add(chosen)
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        """Return the tasks with this name."""
        name = self.value()
        return queryset.filter(**{self.field: name}) if name else queryset

    def declared(self) -> set[str]:
        """Return the names that the broker knows."""
        raise NotImplementedError


class ActorFilter(_NameFilter):
    """By actor."""

    title = _("actor")
    parameter_name = "actor"
    field = "actor_name"

    def declared(self) -> set[str]:
        """Return the actors that this process knows."""
        return set(dramatiq.get_broker().get_declared_actors())


class QueueFilter(_NameFilter):
    """By queue."""

    title = _("queue")
    parameter_name = "queue"
    field = "queue_name"

    def declared(self) -> set[str]:
        """Return the queues that this process knows, without those for delayed messages."""
        declared = dramatiq.get_broker().get_declared_queues()
        return {name for name in declared if name == q_name(name)}


class UserFilter(_TextFilter):
    """By user: a text field for the name or the primary key, since a site may have any number of
    users.  The tasks of a user who is gone are found by the key."""

    title = _("user")
    parameter_name = "user"
    template = "admin/taskstate/task/user_filter.html"

    def __init__(
        self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any
    ) -> None:
        self._others = [
            (name, value)
            for name, values in request.GET.lists()
            for value in values
            if name not in {self.parameter_name, "p", "e"}
        ]
        super().__init__(request, params, model, model_admin)

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return nothing: there is a field instead."""
        return []

    def has_output(self) -> bool:
        """Return that there is always something to see."""
        return True

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Yield what the template needs."""
        yield {
            "name": self.parameter_name,
            "value": self.value() or "",
            "others": self._others,
            "query_string": changelist.get_query_string(remove=[self.parameter_name]),
        }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        """Return the tasks of the users with this name or key: mostly of one, two if the name of
        one is the key of another."""
        text = self.value()
        if not text:
            return queryset
        keys = keys_of_users(text.strip())
        # Not IN for one, so that the rows come out of the index in their order.
        return (
            queryset.filter(user_id=keys[0]) if len(keys) == 1 else queryset.filter(user__in=keys)
        )
