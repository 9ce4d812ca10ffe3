"""What an actor may tell of its own run: how far it is, and what came of it.

The run is found by a context variable, in threads, coroutines and greenlets.  Outside of a tracked
message nothing happens, so that a function that reports can be called from anywhere.  Ten thousand
calls a second cost one row per flush: a call notes what is new, and the writer asks for it when it
gets to it.
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

from . import runs, values
from .warned import ActorWarnings

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

#: A text that is longer is cut at once; a shorter one when it is written.
_LONG = values.PROGRESS_TEXT_LENGTH

_warnings = ActorWarnings(logger)


def set_progress(current: float, total: float | None = None, text: str = "") -> None:
    """Tell how far the message is that this code works on.

    Parameters:
      current(float): How much of ``total`` is done; without a total, the percentage itself.
      total(float): How much there is to do; 0 means that there is nothing, so that all is done.
      text(str): What it is doing, for people; at most 255 characters are kept.

    ``Task.progress`` becomes the percentage, from 0 to 100, at the next flush.  A retry starts
    anew.  What is no number is logged once per actor, and ignored: it ends no work.
    """
    found = runs.current_run()
    if found is None:
        return
    run, push = found
    try:
        percent = _percent(current, total)
    except Exception:  # noqa: BLE001 - whatever a value raises when it is asked for a number
        _warnings.warn(
            "?" if run.fields is None else str(run.fields.actor_name),
            "Actor %s called set_progress() with a %s and a total of type %s, which makes no "
            "percentage; that was ignored. Call it with numbers: set_progress(done, total). Later "
            "ones of this actor are not logged.",
            type(current).__name__,
            type(total).__name__,
        )
        return
    _say(run, push, percent, text)


def set_result(value: Any) -> None:
    """Keep what came of the message that this code works on: ``Task.result``, written with the
    task's next state.

    Parameters:
      value(Any): Anything that JSON can hold, in at most 64,000 characters of it and nested at
        most 30 levels deep.

    Raises:
      ValueError: If it can't be kept; the text says why.  Outside of a tracked message as well.
    """
    try:
        text = values.clean_json(value, values.RESULT_LENGTH)
    except ValueError as error:
        raise ValueError(
            f"A result of type {type(value).__name__} can't be kept: {error}. Keep what is large "
            "elsewhere, and set_result() to where that is."
        ) from error
    found = runs.current_run()
    if found is not None:
        # No result, rather than JSON's null: the stores would differ.
        found[0].result = None if value is None else text
        found[0].has_extras = True


def current_task_id() -> str | None:
    """Return the id of the message that this code works on, which is its task's primary key; None
    outside of a tracked message."""
    found = runs.current_run()
    if found is None:
        return None
    message_id: str = found[0].message_id
    return message_id


class track(Generic[Item]):  # noqa: N801 - it is called like a function
    """Iterate over ``items``, and tell of the progress.

    ``for item in track(items)`` and ``async for item in track(items)`` report after each item that
    it is done.  Where ``items`` has no length, no percentage is told, but ``text``.

    Parameters:
      items(Iterable): What to iterate over; it may be asynchronous.
      text(str): What the actor is doing, for people.
    """

    def __init__(self, items: Iterable[Item] | AsyncIterable[Item], text: str = "") -> None:
        self._items: Any = items
        self._text = text
        self._total: int | None = None
        if isinstance(items, Sized):
            with contextlib.suppress(TypeError):  # Some have a length, and can't tell it.
                self._total = len(items)

    def __iter__(self) -> Iterator[Item]:
        self._tell(0)
        for done, item in enumerate(self._items, 1):
            yield item
            self._tell(done)

    async def __aiter__(self) -> AsyncIterator[Item]:
        if not hasattr(self._items, "__aiter__"):
            for item in self:
                yield item
            return
        self._tell(0)
        done = 0
        async for item in self._items:
            yield item
            done += 1
            self._tell(done)

    def __len__(self) -> int:
        """Return how many items there are.

        Raises:
          TypeError: If that isn't known.
        """
        return len(self._items)

    def _tell(self, done: int) -> None:
        if self._total is not None:
            set_progress(done, self._total, self._text)
        elif done == 0 and self._text:
            found = runs.current_run()
            if found is not None:
                _say(*found, None, self._text)


def _percent(current: float, total: float | None) -> float:
    percent = float(current)
    if total is not None:
        percent = 100.0 * percent / float(total) if total else 100.0
    if not percent >= 0:
        if math.isnan(percent):
            raise ValueError("it is no number")
        return 0.0
    return round(min(percent, 100.0), 2)


def _say(run: runs.Run, push: Any, percent: float | None, text: str) -> None:
    if type(text) is not str or len(text) > _LONG:
        text = values.clean_text(text, _LONG)
    run.said = (percent, text, runs.now())
    run.has_extras = True
    if not run.is_reporting:
        try:
            run.is_reporting = True
            push(run)
        except BaseException:  # Dramatiq's, between any two bytecodes: the next call reports.
            run.is_reporting = False
            raise
