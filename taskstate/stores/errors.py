"""What a database error means for a batch: bad data, a conflict, a lost connection, or an outage;
and how it is logged.

Only what a database calls bad data is laid at the door of a row.  Everything else, a missing
table included, is an outage: the batch is kept and tried again.

An error's own text may quote what the database was sent, descriptions included, and a traceback
holds that text.  So neither is logged as it is.

Sources: PostgreSQL's appendix of error codes (SQLSTATE), MariaDB's and MySQL's lists of server
error codes, SQLite's result codes as Python's sqlite3 module raises them.
"""

from __future__ import annotations

import re
from types import TracebackType

from django.db import DataError, Error, IntegrityError, InterfaceError, OperationalError

#: PostgreSQL: data exceptions, integrity violations, and a trigger's own RAISE.
_SQLSTATE_BAD_CLASSES = ("22", "23")
_SQLSTATE_BAD = frozenset({"P0001"})
#: Serialisation failure, deadlock.
_SQLSTATE_CONFLICT = frozenset({"40001", "40P01"})

_SQLSTATE_LOCK_TIMEOUT = frozenset({"55P03"})

_MYSQL_BAD = frozenset(
    {
        1048,  # a column can't be null
        1062,  # duplicate entry; if it stays one however often it is tried
        1153,  # packet bigger than max_allowed_packet
        1264,  # out of range
        1265,  # data truncated
        1292,  # incorrect value
        1366,  # incorrect value for the column's character set
        1406,  # data too long
        1451,  # a foreign key refers to the row
        1452,  # a foreign key refers to nothing
        1644,  # a trigger's own SIGNAL
        3819,  # MySQL: a check constraint
        3988,  # MySQL: no conversion between character sets
        4025,  # MariaDB: a check constraint
        4035,  # MariaDB: JSON in a character set that can't hold it (and so on, to 4039)
        4036,
        4037,
        4038,
        4039,
    }
)
_MYSQL_CONFLICT = frozenset(
    {
        1020,  # MariaDB: the record has changed since it was read
        1062,  # duplicate entry: another process has just inserted the row
        1213,  # deadlock
    }
)
#: Not a conflict: it has waited its time already, so the next try is the writer's business.
_MYSQL_LOCK_TIMEOUT = frozenset({1205})

#: PostgreSQL: connection exceptions, and what else says that the connection is gone.
_SQLSTATE_CLOSED_CLASSES = ("08",)
_SQLSTATE_CLOSED = frozenset(
    {
        "57P01",  # an administrator ended the connection, or the server shuts down
        "57P02",  # the server crashed
        "57P05",  # it was idle for too long
        "25P03",  # the same, inside a transaction
    }
)
_MYSQL_CLOSED = frozenset(
    {
        0,  # PyMySQL: the connection has been closed before
        1927,  # MariaDB: the connection was killed
        2006,  # the server has gone away
        2013,  # lost connection during a query
        2055,  # lost connection, with the system's own error
        4031,  # MySQL: it was idle for too long
    }
)

#: What Python's drivers raise for a value that they can't even send.
_PYTHON_BAD = (OverflowError, UnicodeEncodeError)

#: A value, or a piece of a statement with values in it, as first lines quote them.  MariaDB and
#: MySQL: Duplicate entry '…' for key, Incorrect … value: '…' for column, right syntax to use near
#: '…' at line.  PostgreSQL: invalid input syntax for type uuid: "…".
_QUOTED = re.compile(
    r"""\b(entry|value:|near)\ \\?['"](?:.*(?=\ for\ key|\ for\ column|\ at\ line)|.*)|:\ ".*""",
    re.DOTALL | re.VERBOSE,
)


class LoggedError(Exception):
    """Stands in a log record for an error whose own text is not to be logged."""


def describe(error: BaseException) -> str:
    """Return an error as one line, without a full stop and without what it quotes."""
    text = str(error)
    if _sqlstate(error) is not None:
        # PostgreSQL's next lines hold the row, or a part of the statement.  Those of an error
        # that has no code are of the connection, and tell what to do.
        text = text.partition("\n")[0]
    text = _QUOTED.sub(lambda match: f"{match[1]} …" if match[1] else ": …", text)
    return " ".join(f"{type(error).__name__}: {text}".split()).rstrip(":.")


def exc_info(error: BaseException) -> tuple[type[LoggedError], LoggedError, TracebackType | None]:
    """Return, for a log record, where an error was raised, without the text of any in its chain."""
    return LoggedError, LoggedError(describe(error)), error.__traceback__


def is_bad_data(error: BaseException) -> bool:
    """Return whether ``error`` says that a value of the batch can't be stored."""
    if isinstance(error, _PYTHON_BAD):
        return True
    if not isinstance(error, Error):
        return False
    code = _mysql_code(error)
    if code is not None:
        return code in _MYSQL_BAD
    state = _sqlstate(error)
    if state is not None:
        return state[:2] in _SQLSTATE_BAD_CLASSES or state in _SQLSTATE_BAD
    # A driver that refuses a value by itself, psycopg a NUL character, has no code for it.
    return isinstance(error, (DataError, IntegrityError)) or isinstance(
        error.__cause__, _PYTHON_BAD
    )


def is_conflict(error: BaseException) -> bool:
    """Return whether ``error`` says that another writer was in the way: worth a try at once."""
    if not isinstance(error, Error):
        return False
    return _mysql_code(error) in _MYSQL_CONFLICT or _sqlstate(error) in _SQLSTATE_CONFLICT


def is_disconnect(error: BaseException) -> bool:
    """Return whether ``error`` says that the connection has ended."""
    if not isinstance(error, (OperationalError, InterfaceError)):
        return False
    code = _mysql_code(error)
    if code is not None:
        return code in _MYSQL_CLOSED
    state = _sqlstate(error)
    if state is not None:
        return state[:2] in _SQLSTATE_CLOSED_CLASSES or state in _SQLSTATE_CLOSED
    # libpq itself has noticed, and has no code for it.
    return type(error.__cause__).__module__.partition(".")[0] in {"psycopg", "psycopg2"}


def is_contention(error: BaseException) -> bool:
    """Return whether ``error`` says that a lock could not be had in time, or was lost to another
    transaction."""
    if _mysql_code(error) in _MYSQL_LOCK_TIMEOUT or _sqlstate(error) in _SQLSTATE_LOCK_TIMEOUT:
        return True
    return is_conflict(error) or "database is locked" in str(error)


def _sqlstate(error: BaseException) -> str | None:
    """Return the code that psycopg 3 (``sqlstate``) or psycopg2 (``pgcode``) gives.  PyMySQL has
    a ``sqlstate`` too, so look for a MySQL code first where it matters."""
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return state if isinstance(state, str) else None


def _mysql_code(error: BaseException) -> int | None:
    """Return the number that mysqlclient and PyMySQL give as the first argument."""
    code = error.args[0] if error.args else None
    return code if type(code) is int else None
