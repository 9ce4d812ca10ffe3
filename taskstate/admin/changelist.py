"""The task list.  Its queries have limits, so that they cost the same however many tasks exist.

The indexes cover the user and the time of enqueuing.  There is none for the status, the actor or
the words of a task, so that writing a task stays cheap.  A filter or a search by these therefore
looks only at the newest ``SCAN_LIMIT`` tasks: of all tasks, or of the chosen user and period.
"""

from __future__ import annotations

import datetime
from typing import Any
from uuid import UUID

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db import OperationalError
from django.http import HttpRequest
from django.utils import formats
from django.utils.functional import cached_property

from taskstate.admin.filters import INDEXED_FILTERS

#: The number of rows that a filter without an index, or a search for words, looks at.
SCAN_LIMIT = 100_000
#: The number of rows that are counted, and so can be listed.
LIST_LIMIT = 10_000

#: MariaDB's and MySQL's error code for texts that can't be compared: a text with an emoji, over a
#: connection whose character set has three bytes, which was Django's default before 5.2.
_ILLEGAL_MIX_OF_COLLATIONS = 1267


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """A paginator that counts to ``LIST_LIMIT`` and no further."""

    @cached_property
    def count(self) -> int:
        """Return the number of tasks, or ``LIST_LIMIT`` if there are more."""
        tasks: Any = self.object_list
        return int(tasks[:LIST_LIMIT].count())


class TaskChangeList(ChangeList):
    """The list of Django's admin, with a limit on each of its queries."""

    #: Only tasks enqueued at this time or later were looked at; None if all of them were.
    window_start: datetime.datetime | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Run the queries.

        Raises:
          IncorrectLookupParameters: If a parameter of the URL is not valid.
        """
        try:
            super().__init__(*args, **kwargs)
        except OperationalError as error:
            if error.args[:1] == (_ILLEGAL_MIX_OF_COLLATIONS,):
                raise IncorrectLookupParameters(error) from error
            raise

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Return the tasks to list.

        Raises:
          IncorrectLookupParameters: If a parameter of the URL is not valid.
        """
        self._check_parameters(request)
        queryset = super().get_queryset(request, *args, **kwargs)
        self.window_start = self._find_window(request) if self._needs_scan() else None
        if self.window_start is not None:
            queryset = queryset.filter(enqueued_at__gte=self.window_start)
        return queryset.defer("traceback", "result", "metadata", "stored_message")

    def get_results(self, request: HttpRequest) -> None:
        """Read the rows of the page; for "Show all", at most ``list_max_show_all``."""
        super().get_results(request)
        if not self.result_list.query.is_sliced:
            self.result_list = self.result_list[: self.list_max_show_all]

    @property
    def is_capped(self) -> bool:
        """Whether there may be more tasks than are listed."""
        return bool(self.result_count >= LIST_LIMIT)

    @property
    def list_limit(self) -> str:
        """The number of tasks that can be listed, as text."""
        return formats.number_format(LIST_LIMIT, force_grouping=True)

    @property
    def scan_limit(self) -> str:
        """The number of tasks that are looked at, as text."""
        return formats.number_format(SCAN_LIMIT, force_grouping=True)

    def _check_parameters(self, request: HttpRequest) -> None:
        """Refuse NUL characters, which would fail in the database."""
        for name in self.get_filters_params():
            if any("\0" in text for text in request.GET.getlist(name)):
                raise IncorrectLookupParameters(
                    f"{name} contains a NUL character. Remove it from the URL."
                )

    def _needs_scan(self) -> bool:
        """Return whether the list is filtered by something that no index covers."""
        if self.query and to_uuid_or_none(self.query) is None:
            return True
        indexed = {
            str(name)
            for spec in self.filter_specs
            if isinstance(spec, INDEXED_FILTERS)
            for name in spec.expected_parameters()
        }
        return not indexed.issuperset(self.get_filters_params())

    def _find_window(self, request: HttpRequest) -> datetime.datetime | None:
        """Return when the oldest of the tasks to look at was enqueued.

        These are the newest ``SCAN_LIMIT`` tasks of the chosen user and period.  It is None if
        there are fewer.
        """
        tasks = self.root_queryset.prefetch_related(None)
        for spec in self.filter_specs:
            if isinstance(spec, INDEXED_FILTERS):
                tasks = spec.queryset(request, tasks)
        times = tasks.order_by("-enqueued_at").values_list("enqueued_at", flat=True)
        return next(iter(times[SCAN_LIMIT - 1 : SCAN_LIMIT]), None)


def to_uuid_or_none(text: str) -> UUID | None:
    """Return the UUID that a text is, or None if it is not one."""
    try:
        return UUID(text.strip())
    except ValueError:
        return None
