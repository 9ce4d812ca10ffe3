"""The filters of the task list.  None of them reads the task table to find its choices."""

from __future__ import annotations

import datetime
from typing import Any, Iterator

import dramatiq
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.translation import gettext_lazy as _
from dramatiq.common import q_name

from taskstate.models import Task, user_keys_matching

#: The years that a filter accepts.  In the first and last years of the calendar, an offset from UTC
#: may lead out of it, and some databases have a smaller calendar.
FIRST_YEAR, LAST_YEAR = 1900, 9000


def parameters_of(list_filter: Any) -> set[str]:
    """Return the parameters of a URL that an item of ``list_filter`` reads."""
    if isinstance(list_filter, str):
        return {f"{list_filter}__exact"}
    if isinstance(list_filter, tuple):
        field, kind = list_filter
        is_date = issubclass(kind, admin.DateFieldListFilter)
        return {f"{field}__gte", f"{field}__lt"} if is_date else {f"{field}__exact"}
    return {list_filter.parameter_name}


class EnqueuedFilter(admin.DateFieldListFilter):
    """Django's filter by periods such as "Past 7 days".  It refuses times that fail in a database,
    or in the arithmetic of dates."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> Any:
        """Return the tasks of the chosen period.

        Raises:
          IncorrectLookupParameters: If a parameter of the URL is not a valid time.
        """
        for name in self.expected_parameters():
            for text in request.GET.getlist(str(name)):
                _check_time(str(name), text)
        return super().queryset(request, queryset)


def _check_time(name: str, text: str) -> None:
    try:
        time = parse_datetime(text)
    except ValueError:
        time = None
    if (
        time is None
        or timezone.is_aware(time) != settings.USE_TZ
        or not FIRST_YEAR <= time.year <= LAST_YEAR
    ):
        example = "2026-03-05 00:00:00+00:00" if settings.USE_TZ else "2026-03-05 00:00:00"
        raise IncorrectLookupParameters(f"{name}: {text!r} is not a valid time; use {example}.")


class _TextFilter(admin.SimpleListFilter):
    """A filter by a text."""

    def value(self) -> str | None:
        """Return the text, or None."""
        return self.used_parameters.get(self.parameter_name or "") or None


class _NameFilter(_TextFilter):
    """A filter by a name.

    The choices are the names that the broker of this process has declared, and the chosen name.
    To find the names that occur in the table, all of it would have to be read.
    """

    field = ""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return each name as a pair of value and label."""
        names = set(self.declared())
        chosen = self.value()
        if chosen:
            names.add(chosen)
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        """Return the tasks with the chosen name."""
        name = self.value()
        return queryset.filter(**{self.field: name}) if name else queryset

    def declared(self) -> set[str]:
        """Return the names that the broker has declared."""
        raise NotImplementedError


class ActorFilter(_NameFilter):
    """A filter by actor."""

    title = _("actor")
    parameter_name = "actor"
    field = "actor_name"

    def declared(self) -> set[str]:
        """Return the names of the actors."""
        return set(dramatiq.get_broker().get_declared_actors())


class QueueFilter(_NameFilter):
    """A filter by queue."""

    title = _("queue")
    parameter_name = "queue"
    field = "queue_name"

    def declared(self) -> set[str]:
        """Return the names of the queues, except the queues of delayed messages."""
        declared = dramatiq.get_broker().get_declared_queues()
        return {name for name in declared if name == q_name(name)}


class _InputFilter(_TextFilter):
    """A filter with an input in place of a list of choices."""

    template = "admin/taskstate/task/input_filter.html"
    label: Any = ""
    input_type = "text"

    def __init__(
        self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any
    ) -> None:
        # The form keeps the other filters, but not the page number and the error flag.
        self._others = [
            (name, value)
            for name, values in request.GET.lists()
            for value in values
            if name not in {self.parameter_name, "p", "e"}
        ]
        super().__init__(request, params, model, model_admin)

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return an empty list: there are no fixed choices."""
        return []

    def has_output(self) -> bool:
        """Return True: the input is always shown."""
        return True

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Yield the values that the template needs."""
        yield {
            "id": f"taskstate-{self.parameter_name}",
            "label": self.label,
            "type": self.input_type,
            "name": self.parameter_name,
            "value": self.value() or "",
            "others": self._others,
            "query_string": changelist.get_query_string(remove=[self.parameter_name]),
        }


class DayFilter(_InputFilter):
    """A filter by the day on which a task was enqueued, in the time zone of the site."""

    title = _("day")
    parameter_name = "day"
    label = _("Enqueued on")
    input_type = "date"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        """Return the tasks of the chosen day.

        Raises:
          IncorrectLookupParameters: If the parameter of the URL is not a valid day.
        """
        text = self.value()
        if not text:
            return queryset
        try:
            day = parse_date(text)
        except ValueError:
            day = None
        if day is None or not FIRST_YEAR <= day.year <= LAST_YEAR:
            raise IncorrectLookupParameters(f"day: {text!r} is not a valid day; use 2026-03-05.")
        next_day = day + datetime.timedelta(days=1)
        return queryset.filter(enqueued_at__gte=_midnight(day), enqueued_at__lt=_midnight(next_day))


def _midnight(day: datetime.date) -> datetime.datetime:
    """Return the beginning of a day in the time zone of the site."""
    time = datetime.datetime.combine(day, datetime.time())
    return timezone.make_aware(time) if settings.USE_TZ else time


class UserFilter(_InputFilter):
    """A filter by the name or the primary key of a user.

    It has an input since a site may have any number of users.  The primary key finds the tasks of
    deleted users as well.
    """

    title = _("user")
    parameter_name = "user"
    label = _("User name or primary key")

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return the tasks of the users with this name or key.

        That is usually one user; it is two if the name of one is the key of another.
        """
        text = self.value()
        if not text:
            return queryset
        keys = user_keys_matching(text.strip())
        tasks = queryset.for_tenant()  # The first column of the index.
        # Equality for a single key, so that the index returns the rows in their order.
        return tasks.filter(user_id=keys[0]) if len(keys) == 1 else tasks.filter(user__in=keys)


#: The filters whose tasks an index finds, newest first.
INDEXED_FILTERS = (EnqueuedFilter, DayFilter, UserFilter)
