"""The task list: what it costs stays the same, however many tasks there are.

No index tells the status, the actor or the words of a task, so that writing one stays cheap.
What is asked for by these is looked for among the newest tasks only, as many as ``SCAN_LIMIT``: of
all, or of the user and the dates that were chosen, which the indexes do tell.
"""

from __future__ import annotations

import calendar
import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.utils import formats, timezone
from django.utils.functional import cached_property
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from taskstate.models import Task
from taskstate.times import local

from .filters import UserFilter

#: Rows that a filter without an index, or a search for words, looks at.
SCAN_LIMIT = 100_000
#: Rows that are counted, and so listed, at most.
LIST_LIMIT = 10_000

_DATE_PARAMETERS = ("enqueued_at__year", "enqueued_at__month", "enqueued_at__day")


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts to ``LIST_LIMIT`` and no further."""

    @cached_property
    def count(self) -> int:
        """Return how many tasks there are, or ``LIST_LIMIT`` if there are more."""
        tasks: Any = self.object_list
        return int(tasks[:LIST_LIMIT].count())


class TaskChangeList(ChangeList):
    """The list of Django's admin, with a bound on each of its questions."""

    #: Only tasks enqueued at this time or later were looked at; None if it was all of them.
    window_start: datetime.datetime | None = None

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Return the tasks to list."""
        queryset = super().get_queryset(request, *args, **kwargs)
        self.window_start = self._find_window(request) if self._needs_scan() else None
        if self.window_start is not None:
            queryset = queryset.filter(enqueued_at__gte=self.window_start)
        return queryset.defer("traceback", "result", "metadata", "stored_message")

    def get_results(self, request: HttpRequest) -> None:
        """Find the rows of the page; never more than "Show all" may show."""
        super().get_results(request)
        if not self.result_list.query.is_sliced:
            self.result_list = self.result_list[: self.list_max_show_all]

    @property
    def is_capped(self) -> bool:
        """Whether there may be more tasks than are listed."""
        return bool(self.result_count >= LIST_LIMIT)

    @property
    def list_limit(self) -> str:
        """How many are listed at most."""
        return formats.number_format(LIST_LIMIT, force_grouping=True)

    @property
    def scan_limit(self) -> str:
        """How many are looked at, at most."""
        return formats.number_format(SCAN_LIMIT, force_grouping=True)

    def date_links(self) -> dict[str, Any]:
        """Return what Django's template for the date hierarchy needs.

        Django's own way would read all rows, to find out on which days there are any.  This
        offers each year, month or day between the oldest task and the newest one.
        """
        oldest, newest = self._date_of_first("enqueued_at"), self._date_of_first("-enqueued_at")
        if oldest is None or newest is None:
            return {"show": False}
        year, month, day = self._chosen_date()
        if year is None and oldest.year == newest.year:
            year = oldest.year
            month = oldest.month if oldest.month == newest.month else None
        if year is None:
            years = range(oldest.year, newest.year + 1)
            return _links(None, [(str(each), self._link(each)) for each in years])
        if month is None:
            months = (datetime.date(year, each, 1) for each in range(1, 13))
            return _links(
                (_("All dates"), self._link()),
                [
                    (_title(each, "YEAR_MONTH_FORMAT"), self._link(year, each.month))
                    for each in months
                    if oldest.replace(day=1) <= each <= newest
                ],
            )
        if day is None:
            last = calendar.monthrange(year, month)[1]
            days = (datetime.date(year, month, each) for each in range(1, last + 1))
            return _links(
                (str(year), self._link(year)),
                [
                    (_title(each, "MONTH_DAY_FORMAT"), self._link(year, month, each.day))
                    for each in days
                    if oldest <= each <= newest
                ],
            )
        chosen = datetime.date(year, month, day)
        return _links(
            (_title(chosen, "YEAR_MONTH_FORMAT"), self._link(year, month)),
            [(_title(chosen, "MONTH_DAY_FORMAT"), None)],
        )

    def _needs_scan(self) -> bool:
        if self.query and as_uuid(self.query) is None:
            return True
        indexed = {UserFilter.parameter_name}
        if self._chosen_date()[0] is not None:  # Without a year, a month is no period.
            indexed.update(_DATE_PARAMETERS)
        return not indexed.issuperset(self.get_filters_params())

    def _find_window(self, request: HttpRequest) -> datetime.datetime | None:
        """Return when the oldest of the ``SCAN_LIMIT`` newest tasks was enqueued: of those whom
        the indexes can find.  None if there are not as many."""
        tasks = self.root_queryset.prefetch_related(None)
        for spec in self.filter_specs:
            if isinstance(spec, UserFilter):
                tasks = spec.queryset(request, tasks)
        period = self._chosen_period()
        if period is not None:
            tasks = tasks.filter(enqueued_at__gte=period[0], enqueued_at__lt=period[1])
        times = tasks.order_by("-enqueued_at").values_list("enqueued_at", flat=True)
        return next(iter(times[SCAN_LIMIT - 1 : SCAN_LIMIT]), None)

    def _chosen_date(self) -> list[int | None]:
        """Return year, month and day; None for what was not chosen, all None without a year."""
        chosen = [self.params.get(name) for name in _DATE_PARAMETERS]
        if chosen[0] is None:
            return [None, None, None]
        # Django has refused what is no number, and what is no date.
        return [None if part is None else int(part) for part in chosen]

    def _chosen_period(self) -> tuple[datetime.datetime, datetime.datetime] | None:
        year, month, day = self._chosen_date()
        if year is None:
            return None
        start = datetime.datetime(year, month or 1, day or 1)  # noqa: DTZ001 - see below
        if day is not None:
            end = start + datetime.timedelta(days=1)
        elif month is not None:
            end = (start + datetime.timedelta(days=32)).replace(day=1)
        else:
            end = start.replace(year=year + 1)
        return _in_zone_of_site(start), _in_zone_of_site(end)

    def _date_of_first(self, order: str) -> datetime.date | None:
        tasks = self.root_queryset.prefetch_related(None).order_by(order)
        time = next(iter(tasks.values_list("enqueued_at", flat=True)[:1]), None)
        return None if time is None else local(time).date()

    def _link(self, *parts: int) -> str:
        chosen = dict(zip(_DATE_PARAMETERS, parts))
        return self.get_query_string(chosen, ["enqueued_at__"])


def as_uuid(text: str) -> UUID | None:
    """Return the UUID that ``text`` is, or None."""
    try:
        return UUID(text.strip())
    except ValueError:
        return None


def _links(back: tuple[Any, str] | None, choices: list[tuple[str, str | None]]) -> dict[str, Any]:
    return {
        "show": True,
        "field_name": Task._meta.get_field("enqueued_at").verbose_name,
        "back": back and {"title": back[0], "link": back[1]},
        "choices": [{"title": title, "link": link} for title, link in choices],
    }


def _title(date: datetime.date, style: str) -> str:
    return capfirst(formats.date_format(date, style))


def _in_zone_of_site(time: datetime.datetime) -> datetime.datetime:
    return timezone.make_aware(time) if settings.USE_TZ else time
