"""The outcome of the action "Send again", as messages for the admin's next page."""

from __future__ import annotations

import collections
from typing import Iterable, Mapping, Sequence
from uuid import UUID

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext, ngettext

from taskstate.models import Task

#: The number of tasks that one message names; it counts the others.
NAMED_TASKS = 20

_TITLE_LENGTH = 60


class ResendReport:
    """Which of the selected tasks were sent again, and why the others were not."""

    def __init__(self) -> None:
        self._sent: list[tuple[Task, UUID]] = []
        self._not_sent: dict[str, list[SafeString]] = collections.defaultdict(list)

    @property
    def new_ids(self) -> list[UUID]:
        """The ids of the new tasks."""
        return [new_id for _task, new_id in self._sent]

    def add_sent(self, task: Task, new_id: UUID) -> None:
        """Record that a task was sent again, with the id of the new task."""
        self._sent.append((task, new_id))

    def add_not_sent(self, tasks: Iterable[Task], reason: str) -> None:
        """Record why tasks were not sent again."""
        self._not_sent[reason] += [_task_name(task, task.message_id) for task in tasks]

    def add_missing(self, ids: Iterable[UUID]) -> None:
        """Record the ids of selected tasks that were not found."""
        reason = gettext("It no longer exists, or you may not view it.")
        for each in ids:
            self._not_sent[reason].append(format_html("{}", each))

    def success_text(self, urls: Mapping[UUID, str]) -> SafeString | None:
        """Return a text that names the tasks that were sent again; None if there are none.

        Parameters:
          urls(dict): The addresses of the new tasks' pages by the ids of the tasks.  A task that
            is not in it has no page yet, and is named without a link.
        """
        if not self._sent:
            return None
        names = []
        for task, new_id in self._sent:
            url, name = urls.get(new_id), _task_name(task, new_id)
            names.append(name if url is None else format_html('<a href="{}">{}</a>', url, name))
        text = ngettext(
            "{count} task was sent again: {tasks}.",
            "{count} tasks were sent again: {tasks}.",
            len(names),
        )
        return format_html(text, count=len(names), tasks=_join(names))

    def failure_texts(self) -> list[SafeString]:
        """Return a text for each reason that names the tasks that were not sent again."""
        texts = []
        for reason, names in self._not_sent.items():
            text = ngettext(
                "{count} task was not sent again: {tasks}. {reason}",
                "{count} tasks were not sent again: {tasks}. {reason}",
                len(names),
            )
            texts.append(format_html(text, count=len(names), tasks=_join(names), reason=reason))
        return texts


def _task_name(task: Task, message_id: UUID) -> SafeString:
    """Return the title of a task and the start of an id, since several tasks may have one title."""
    title = Truncator(task.title).chars(_TITLE_LENGTH)
    return format_html("<bdi>{}</bdi> ({})", title, str(message_id)[:8])


def _join(names: Sequence[SafeString]) -> SafeString:
    """Return the first ``NAMED_TASKS`` names, and the number of the others."""
    named = format_html_join(", ", "{}", ((name,) for name in names[:NAMED_TASKS]))
    others = len(names) - NAMED_TASKS
    if others <= 0:
        return named
    return format_html(gettext("{tasks} and {count} more"), tasks=named, count=others)
