"""What an error means for a batch: bad data, a time limit, a conflict, a lost connection, or an
outage; and how it is logged.

Only two kinds of errors are caused by a row: the database rejects it as bad data, or the client
rejects a value while it prepares the batch.  Any other error, even a missing table, is an outage:
the batch is kept and tried again.

The text of an error may quote what was sent to the database, such as descriptions, and a traceback
contains that text.  So both are logged without it.

Sources: PostgreSQL's appendix of error codes (SQLSTATE), MariaDB's and MySQL's lists of server
error codes, SQLite's result codes as Python's sqlite3 module raises them.
"""

from __future__ import annotations

import enum
import logging
import re
from types import TracebackType

from django.core.exceptions import ValidationError
from django.db import DataError, Error, IntegrityError, InterfaceError, OperationalError

from taskstate.utils.log_text import printable

#: PostgreSQL: data exceptions, integrity violations, and the RAISE of a trigger.
_SQLSTATE_BAD_CLASSES = ("22", "23")
_SQLSTATE_BAD = frozenset({"P0001"})
#: Serialization failure, deadlock.
_SQLSTATE_CONFLICT = frozenset({"40001", "40P01"})

_SQLSTATE_LOCK_TIMEOUT = frozenset({"55P03"})

_MYSQL_BAD = frozenset(
    {
        1048,  # a column can't be null
        1062,  # duplicate entry, after the last try
        1153,  # packet bigger than max_allowed_packet
        1264,  # out of range
        1265,  # data truncated
        1292,  # incorrect value
        1300,  # an invalid character
        1366,  # incorrect value for the column's character set
        1406,  # data too long
        1451,  # a foreign key refers to the row
        1452,  # a foreign key refers to nothing
        1644,  # the SIGNAL of a trigger
        1977,  # MariaDB: no conversion between character sets
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
#: Not a conflict: the statement has already waited for as long as it may.  The writer tries again
#: after a pause.
_MYSQL_LOCK_TIMEOUT = frozenset({1205})

#: A time limit for statements or transactions, or a statement that an operator has canceled.
_SQLSTATE_TIME_LIMIT = frozenset(
    {
        "57014",  # statement_timeout; pg_cancel_backend()
        "25P04",  # transaction_timeout, which ends the connection too
    }
)
_MYSQL_TIME_LIMIT = frozenset(
    {
        1317,  # KILL QUERY
        1969,  # MariaDB: max_statement_time
        3024,  # MySQL: max_execution_time
    }
)

#: PostgreSQL: connection exceptions, and other errors that end the connection.
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
        0,  # PyMySQL: the connection was closed earlier
        1927,  # MariaDB: the connection was killed
        2006,  # the server has gone away
        2013,  # lost connection during a query
        2055,  # lost connection, with the system's own error
        4031,  # MySQL: it was idle for too long
    }
)

#: PostgreSQL: an undefined table, an undefined column.  MariaDB and MySQL: the same.
_SQLSTATE_MISSING = frozenset({"42P01", "42703"})
_MYSQL_MISSING = frozenset({1146, 1054})
#: SQLite has no code for a missing table or column.
_SQLITE_MISSING = re.compile(r"no such (table|column)|has no column named")

#: The messages of pytest-django and of Django's SimpleTestCase.
_FORBIDDEN = re.compile(r"Database access not allowed|Database .+ are not allowed in ")

#: What Django's fields and the drivers raise for a value that they can't send.  The project's own
#: field for the primary key of the user model may raise any of these.
_PYTHON_BAD = (
    ValueError,  # UnicodeError too
    TypeError,
    ArithmeticError,  # OverflowError, and decimal's
    LookupError,
    AttributeError,
    ValidationError,
)

#: A value, or a part of a statement with values in it, as first lines quote them.  MariaDB and
#: MySQL: Duplicate entry '…' for key, Incorrect … value: '…' for column, right syntax to use near
#: '…' at line.  PostgreSQL: invalid input syntax for type uuid: "…".  Django and Python: “…” is not
#: a valid UUID, expected a number but got …, invalid literal for int() with base 10: '…'.
_QUOTED = re.compile(
    r"""\b(entry|value:|near)\ \\?['"](?:.*(?=\ for\ key|\ for\ column|\ at\ line)|.*)"""
    r"""|\b(but\ got)\ .*|:\ ["'].*|“.*”|\A'.*'\Z""",
    re.DOTALL | re.VERBOSE,
)


class Blocker(enum.Enum):
    """Why further tries fail until the cause is removed."""

    #: A test forbids access to databases.
    FORBIDDEN = "forbidden"
    #: A table or a column is missing.
    MISSING = "missing"


class RedactedError(Exception):
    """Replaces an error in a log record, without the text that must not be logged."""


def summarize(error: BaseException) -> str:
    """Return an error as one line, without the values that it quotes and without a full stop."""
    text = str(error)
    if _sqlstate(error) is not None:
        # The next lines of PostgreSQL's errors contain the row, or a part of the statement.  Errors
        # without a code are about the connection, and their next lines say what to do.
        text = text.partition("\n")[0]
    text = _QUOTED.sub(_without_value, text)
    return printable(" ".join(f"{type(error).__name__}: {text}".split()).rstrip(":."))


def _without_value(match: re.Match[str]) -> str:
    before = match[1] or match[2]
    if before:
        return f"{before} …"
    return ": …" if match[0].startswith(":") else "…"


def exc_info(
    error: BaseException,
) -> tuple[type[RedactedError], RedactedError, TracebackType | None]:
    """Return ``exc_info`` for a log record: where an error was raised, and its summary in place of
    its text and of the errors in its chain."""
    return RedactedError, RedactedError(summarize(error)), error.__traceback__


def log_level(error: BaseException) -> int:
    """Return the level at which an error is logged: ERROR, or DEBUG if a test forbids access to the
    database."""
    return logging.DEBUG if find_blocker(error) is Blocker.FORBIDDEN else logging.ERROR


def is_client_rejection(error: BaseException) -> bool:
    """Return whether the client rejects a value: Django, the driver, or the code that builds the
    parameters of a statement.  A driver may raise the same error if its connection is broken.

    Parameters:
      error(BaseException): An error that was raised while a batch was prepared or sent.
    """
    if isinstance(error, Error) and _mysql_code(error) is None and _sqlstate(error) is None:
        return isinstance(error.__cause__, _PYTHON_BAD)
    return isinstance(error, _PYTHON_BAD)


def find_blocker(error: BaseException) -> Blocker | None:
    """Return why the next try would fail with the same error, if that is known."""
    if isinstance(error, (RuntimeError, AssertionError)) and _FORBIDDEN.match(str(error)):
        return Blocker.FORBIDDEN
    if not isinstance(error, Error):
        return None
    code = _mysql_code(error)
    if code is not None:
        is_missing = code in _MYSQL_MISSING
    else:
        state = _sqlstate(error)
        is_missing = (
            state in _SQLSTATE_MISSING if state else bool(_SQLITE_MISSING.search(str(error)))
        )
    return Blocker.MISSING if is_missing else None


def is_bad_data(error: BaseException) -> bool:
    """Return whether ``error`` comes from the database or its driver, and says that a value of the
    batch can't be stored."""
    if not isinstance(error, Error):
        return False
    code = _mysql_code(error)
    if code is not None:
        return code in _MYSQL_BAD
    state = _sqlstate(error)
    if state is not None:
        return state[:2] in _SQLSTATE_BAD_CLASSES or state in _SQLSTATE_BAD
    # If the driver itself rejects a value, as psycopg does for a NUL character, the error has no
    # code.
    return isinstance(error, (DataError, IntegrityError))


def is_time_limit(error: BaseException) -> bool:
    """Return whether the server ended a statement because it took too long.  A statement that an
    operator has canceled has the same code."""
    if not isinstance(error, Error):
        return False
    return _mysql_code(error) in _MYSQL_TIME_LIMIT or _sqlstate(error) in _SQLSTATE_TIME_LIMIT


def is_conflict(error: BaseException) -> bool:
    """Return whether ``error`` says that there was a conflict with another transaction, so that
    another try may succeed at once."""
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
    # If libpq itself notices it, the error has no code.
    return type(error.__cause__).__module__.partition(".")[0] in {"psycopg", "psycopg2"}


def is_contention(error: BaseException) -> bool:
    """Return whether ``error`` says that the statement waited too long for a lock, or was in
    conflict with another transaction."""
    if _mysql_code(error) in _MYSQL_LOCK_TIMEOUT or _sqlstate(error) in _SQLSTATE_LOCK_TIMEOUT:
        return True
    return is_conflict(error) or "database is locked" in str(error)


def is_table_lock(error: BaseException) -> bool:
    """Return whether another thread uses the table of an SQLite database in memory."""
    return "table is locked" in str(error)


def _sqlstate(error: BaseException) -> str | None:
    """Return the code of an error of psycopg 3 (``sqlstate``) or psycopg2 (``pgcode``).  Errors of
    PyMySQL have a ``sqlstate`` as well, so call ``_mysql_code`` first if that matters."""
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    return state if isinstance(state, str) else None


def _mysql_code(error: BaseException) -> int | None:
    """Return the code of an error of mysqlclient or PyMySQL: its first argument."""
    code = error.args[0] if error.args else None
    return code if type(code) is int else None
