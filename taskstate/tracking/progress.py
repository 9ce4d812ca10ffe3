"""Functions for actors: they report the progress and the result of the current run.

The run is found by a context variable, which works in threads, coroutines and greenlets.  Outside
of a tracked message the functions do nothing, so code that reports progress can be called from
anywhere.  A call only records the latest progress, and the writer reads it before a flush: ten
thousand calls a second cost one row per flush.
"""

from __future__ import annotations

import contextlib
import logging
import math
from typing import (
    Any,
    AsyncIterable,
    AsyncIterator,
    Generic,
    Iterable,
    Iterator,
    Sized,
    TypeVar,
)

from taskstate.tracking.run import Progress, Run, current_run
from taskstate.transitions import sanitize
from taskstate.transitions.transition import ACTOR_NAME
from taskstate.utils import clock
from taskstate.utils.warn_once import ActorWarnings

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

#: A longer text is shortened at once.  A shorter one is sanitized when it is written.
_MAX_TEXT = sanitize.PROGRESS_TEXT_LENGTH

_warnings = ActorWarnings(logger)


def set_progress(current: float, total: float | None = None, text: str = "") -> None:
    """Report the progress of the message that is being processed.

    Parameters:
      current(float): How much of ``total`` is done; without a total, the percentage itself.
      total(float): How much there is to do; 0 means that there is nothing to do, which is 100 %.
      text(str): What the actor is doing, for people; at most 255 characters are kept.

    At the next flush, ``Task.progress`` becomes the percentage, from 0 to 100.  A retry starts
    without progress.  A value that is not a number is logged once per actor and ignored; it raises
    nothing.
    """
    found = current_run()
    if found is None:
        return
    run, push = found
    try:
        percent = _percent(current, total)
    except Exception:  # noqa: BLE001 - whatever a value raises when it is converted
        _warnings.warn(
            _actor_name(run),
            "Actor %s called set_progress() with a value of type %s and a total of type %s. They "
            "give no percentage, so the call was ignored. Call it with numbers: set_progress(done, "
            "total). Later calls of this actor are not logged.",
            type(current).__name__,
            type(total).__name__,
        )
        return
    _report(run, push, percent, text)


def set_result(value: Any) -> None:
    """Set the result of the message that is being processed.  It is written to ``Task.result`` with
    the next state of the task.

    Parameters:
      value(Any): A value that JSON can hold, with at most 64,000 characters of JSON that are nested
        at most 30 levels deep.

    Raises:
      ValueError: If the value can't be stored, also outside of a tracked message.  The text says
        why.
    """
    try:
        text = sanitize.clean_json(value, sanitize.RESULT_LENGTH)
    except ValueError as error:
        raise ValueError(
            f"A result of type {type(value).__name__} can't be stored: {error}. Store large data "
            "elsewhere, and call set_result() with its location."
        ) from error
    found = current_run()
    if found is not None:
        # Not JSON's null, which the stores would write in different ways.
        found[0].result = None if value is None else text
        found[0].has_details = True


def current_task_id() -> str | None:
    """Return the id of the message that is being processed, which is the primary key of its task.
    Return None outside of a tracked message."""
    found = current_run()
    if found is None:
        return None
    message_id: str = found[0].message_id
    return message_id


class track(Generic[Item]):  # noqa: N801 - it is called like a function
    """Iterate over ``items``, and report progress.

    ``for item in track(items)`` and ``async for item in track(items)`` report progress after each
    item.  The percentage needs the number of items: ``total``, or else the length of ``items``.
    Without either, only ``text`` is reported.

    Parameters:
      items(Iterable): What to iterate over; it may be asynchronous.
      text(str): What the actor is doing, for people.
      total(float): How many items there are, for iterators: ``track(queryset.iterator(),
        total=queryset.count())``.  If there are more items than that, the percentage stays at 100.
        A total that is not a finite number of at least 0 is logged once per actor and ignored.
    """

    def __init__(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        text: str = "",
        *,
        total: float | None = None,
    ) -> None:
        self._items: Any = items
        self._text = text
        self._given_total = total
        self._total: float | None = None

    def __iter__(self) -> Iterator[Item]:
        self._start()
        for done, item in enumerate(self._items, 1):
            yield item
            self._report_done(done)

    async def __aiter__(self) -> AsyncIterator[Item]:
        if not hasattr(self._items, "__aiter__"):
            for item in self:
                yield item
            return
        self._start()
        done = 0
        async for item in self._items:
            yield item
            done += 1
            self._report_done(done)

    def __len__(self) -> int:
        """Return the length of the items.  It is never ``total``, which may be an estimate:
        ``list()`` would reserve memory for that many.

        Raises:
          TypeError: If the items have no length.
        """
        return len(self._items)

    def _start(self) -> None:
        self._total = self._find_total()
        self._report_done(0)

    def _find_total(self) -> float | None:
        if self._given_total is not None:
            total = _clean_total(self._given_total)
            if total is not None:
                return total
        if isinstance(self._items, Sized):
            with contextlib.suppress(TypeError):  # Some have a ``__len__`` that raises it.
                return len(self._items)
        return None

    def _report_done(self, done: int) -> None:
        if self._total is not None:
            set_progress(done, self._total, self._text)
        elif done == 0 and self._text:
            found = current_run()
            if found is not None:
                _report(*found, None, self._text)


def _clean_total(total: Any) -> float | None:
    """Return a total as a number; None, with a warning, if it is not a finite number of at least
    0."""
    try:
        number = math.nan if isinstance(total, bool) else float(total)
    except Exception:  # noqa: BLE001 - whatever a value raises when it is converted to a number
        number = math.nan
    if 0 <= number < math.inf:
        return number
    found = current_run()
    if found is not None:
        _warnings.warn(
            _actor_name(found[0]),
            "Actor %s called track() with a total of %s; the total was ignored. Call it with the "
            "number of items, 0 or more: track(items, total=count). Later calls of this actor are "
            "not logged.",
            # Other values are not logged themselves, since they may be confidential.
            f"type {type(total).__name__}" if math.isnan(number) else f"{number:g}",
        )
    return None


def _actor_name(run: Run) -> str:
    return "?" if run.fields is None else run.fields[ACTOR_NAME]


def _percent(current: float, total: float | None) -> float:
    percent = float(current)
    if total is not None:
        percent = 100.0 * percent / float(total) if total else 100.0
    if not percent >= 0:
        if math.isnan(percent):
            raise ValueError("not a number")
        return 0.0
    return round(min(percent, 100.0), 2)


def _clean_text(text: object, run: Run) -> str:
    try:
        return sanitize.clean_text(text, _MAX_TEXT)
    except Exception as error:  # noqa: BLE001 - whatever a value raises when it is converted
        _warnings.warn(
            _actor_name(run),
            "Actor %s reported progress with a text of type %s that can't be converted to a str "
            "(%s); the text was left out. Pass a str. Later calls of this actor are not logged.",
            type(text).__name__,
            type(error).__name__,
        )
        return ""


def _report(run: Run, push: Any, percent: float | None, text: str) -> None:
    if type(text) is not str or len(text) > _MAX_TEXT:
        text = _clean_text(text, run)
    run.progress = Progress(percent, text, clock.now())
    run.has_details = True
    if not run.is_reporting:
        try:
            run.is_reporting = True
            push(run)
        except BaseException:  # Dramatiq may raise one here.  Then the next call pushes.
            run.is_reporting = False
            raise
