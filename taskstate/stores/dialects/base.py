"""The base class of the dialects: the parts of a statement that are made from ``COLUMNS``."""

from __future__ import annotations

import abc
import itertools
from typing import Any, Callable, ClassVar, Sequence, Union

from django.db.backends.base.base import BaseDatabaseWrapper

from taskstate.stores.clock import current_time_sql
from taskstate.stores.columns import COLUMNS, COMPARED, KEY, BatchFields, Column, ColumnType
from taskstate.transitions.transition import Transition

INSERT = f"INSERT INTO taskstate_task ({', '.join(column.name for column in COLUMNS)})"
#: Before the first clear there is no row.
WATERMARK = "SELECT cleared_at FROM taskstate_watermark WHERE id = 1"
RETURNING = "RETURNING message_id, stamp, rank"

#: A parameter of a statement: the batch, or one column of it, as text; or the watermark.
Parameter = Union[str, int]


class Dialect(abc.ABC):
    """Builds the statement for one database, and its parameters for a batch."""

    #: Columns that the statement computes, so that they aren't sent.
    computed: ClassVar[frozenset[str]] = frozenset({"worker", "written_at"})

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._sent = {
            rare: [
                column
                for column in COLUMNS
                if column.name not in self.computed and (rare or not column.is_rare)
            ]
            for rare in (True, False)
        }
        self._encoders = {
            rare: [(column.values, self._encoder(column)) for column in columns]
            for rare, columns in self._sent.items()
        }
        self._statements = {
            (returning, rare): " ".join(self._statement(returning=returning, rare=rare).split())
            for returning, rare in itertools.product((True, False), repeat=2)
        }

    def statement_for(
        self, transitions: Sequence[Transition], watermark: int, *, returning: bool
    ) -> tuple[str, list[Parameter]]:
        """Return the statement that writes ``transitions``, and its parameters.

        Parameters:
          watermark(int): The watermark that the caller has read.
          returning(bool): Whether the statement returns the id, stamp and rank of each row that it
            changes.  It may also return unchanged rows; their stamp or rank differs from that of
            the transition.

        Raises:
          OverflowError: If a number doesn't fit a column of 64 bits.
        """
        batch = BatchFields(transitions)
        rare = batch.have_rare_values
        parameters = self._parameters(batch, rare=rare)
        return self._statements[returning, rare], [*parameters, watermark]

    def changed_rows(self, rowcount: int, sent: int) -> int:
        """Return how many rows were changed.

        Parameters:
          rowcount(int): How many rows the driver reports; -1 if it does not know.
          sent(int): How many rows were sent.
        """
        return max(0, rowcount)

    def sent_columns(self, *, rare: bool) -> list[Column]:
        """Return the columns that are sent, in order, with or without the rare ones."""
        return self._sent[rare]

    @abc.abstractmethod
    def _statement(self, *, returning: bool, rare: bool) -> str: ...

    @abc.abstractmethod
    def _parameters(self, batch: BatchFields, *, rare: bool) -> list[Parameter]: ...

    @abc.abstractmethod
    def _encoder(self, column: Column) -> Callable[[Any], Any]:
        """Return the function that encodes the values of a column that is sent."""

    def _encoded(self, batch: BatchFields, *, rare: bool) -> list[Any]:
        """Return the encoded values of each column that is sent."""
        return [encode(values(batch)) for values, encode in self._encoders[rare]]

    @abc.abstractmethod
    def _sent_value(self, column: Column, place: int) -> str:
        """Return the SQL for the value of a column.  ``place`` is its index in ``sent_columns``."""

    @abc.abstractmethod
    def _computed_values(self, sent: dict[str, str]) -> dict[str, str]:
        """Return the SQL for each computed column, by name.

        Parameters:
          sent(dict): The SQL for the columns that are sent, by name.
        """

    def _values(self, *, rare: bool) -> str:
        """Return the SQL for the values of all columns, in order."""
        columns = self.sent_columns(rare=rare)
        sent = {c.name: self._sent_value(c, place) for place, c in enumerate(columns)}
        values = {**dict.fromkeys((c.name for c in COLUMNS), "NULL"), **sent}
        values.update(self._computed_values(sent))
        return ", ".join(values.values())

    def _now(self) -> str:
        # A subquery is evaluated once, not for each row.
        return f"(SELECT {current_time_sql(self._connection)})"


def assignments(template: str) -> str:
    """Return the SQL that assigns all columns except the key.  In the template, "{0}" is a column's
    name."""
    return ", ".join(f"{c.name} = {template.format(c.name)}" for c in COLUMNS if c is not KEY)


def is_greater(new: str, old: str, text: str) -> str:
    """Return the SQL that compares two rows by ``transition.sort_key``.

    Parameters:
      new(str), old(str): The SQL for a column of each row; "{}" is the column's name.
      text(str): The SQL that makes a value, "{}", comparable by its code points.
    """
    return f"({_sort_key(new.format, text.format)}) > ({_sort_key(old.format, text.format)})"


def _sort_key(sql_of: Callable[[str], str], text: Callable[[str], str]) -> str:
    parts = []
    for column in COMPARED:
        sql = sql_of(column.name)
        if column.stand_in is not None:
            parts += [f"{sql} IS NOT NULL", f"COALESCE({sql}, {sql_of(column.stand_in)})"]
        elif column.type is ColumnType.USER_KEY:
            parts.append(f"COALESCE({text(sql)}, '')")
        elif column.type is ColumnType.TEXT:
            parts.append(text(sql))
        else:
            parts.append(sql)
    return ", ".join(parts)
