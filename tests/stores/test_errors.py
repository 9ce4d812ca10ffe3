"""What a database's error means: bad data, a conflict, a lock, or an outage.

The contract tests meet the errors that real servers raise; here are the codes that are hard to
provoke, as each driver carries them.
"""

import decimal
import logging

import pytest
from django.core.exceptions import ValidationError
from django.db import DataError, IntegrityError, InterfaceError, OperationalError, ProgrammingError

from taskstate.stores.errors import (
    Blocker,
    exc_info,
    find_blocker,
    is_bad_data,
    is_client_rejection,
    is_conflict,
    is_contention,
    is_disconnect,
    is_time_limit,
    summarize,
)


def postgres(code, attribute="sqlstate", wrapper=OperationalError):
    """An error as psycopg 3 (``sqlstate``) or psycopg2 (``pgcode``) makes Django raise it."""
    cause = Exception("server says")
    setattr(cause, attribute, code)
    error = wrapper("server says")
    error.__cause__ = cause
    return error


def mysql(code, wrapper=OperationalError):
    """An error as mysqlclient and PyMySQL make Django raise it."""
    return wrapper(code, "server says")


def caused_by(cause):
    error = OperationalError("driver says")
    error.__cause__ = cause
    return error


BAD = [
    postgres("22001", wrapper=DataError),
    postgres("22021", "pgcode", wrapper=DataError),
    postgres("23505", wrapper=IntegrityError),
    postgres("P0001", wrapper=ProgrammingError),
    mysql(1406, wrapper=DataError),
    mysql(1644),
    mysql(4025, wrapper=IntegrityError),
    IntegrityError("CHECK constraint failed"),
    mysql(1977),
    DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"),
]
#: What the client's own side raises.
REJECTED_BY_CLIENT = [
    OverflowError("Python int too large to convert to SQLite INTEGER"),
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    ValueError("The database backend does not accept 0 as a value for AutoField."),
    TypeError("Object of type UUID is not JSON serializable"),
    ValidationError("“x” is not a valid UUID."),
    decimal.InvalidOperation(),
    caused_by(OverflowError()),
]
TIME_LIMITS = [
    postgres("57014"),
    postgres("57014", "pgcode"),
    postgres("25P04"),
    mysql(1317),
    mysql(1969),
    mysql(3024),
]
OUTAGES = [
    postgres("42P01", wrapper=ProgrammingError),  # no such table
    postgres("42703", wrapper=ProgrammingError),  # no such column
    postgres("25006"),  # a read-only server
    postgres("57P01"),  # shutting down
    postgres("53300"),  # too many connections
    postgres(None),
    mysql(2006),
    mysql(2013),
    mysql(1146, wrapper=ProgrammingError),  # no such table
    mysql(1290),  # a read-only server
    OperationalError("no such table: taskstate_task"),
    OperationalError("disk I/O error"),
    InterfaceError("connection already closed"),
    ConnectionRefusedError(),
    ValueError("a bug of ours"),
    TypeError("a bug of ours"),
]


@pytest.mark.parametrize("error", BAD, ids=repr)
def test_bad_data(error):
    """A row is to blame: the writer looks for it."""
    assert is_bad_data(error)
    assert not is_conflict(error)


@pytest.mark.parametrize("error", REJECTED_BY_CLIENT, ids=repr)
def test_errors_of_the_client_mean_that_a_value_is_not_valid(error):
    """Bad data too, where it comes from preparing the values of a batch, and nowhere else."""
    assert is_client_rejection(error)
    assert not is_bad_data(error)


@pytest.mark.parametrize(
    "error",
    [*BAD, *TIME_LIMITS, postgres("42P01"), mysql(2006), ConnectionError(), MemoryError()],
    ids=repr,
)
def test_other_errors_do_not_mean_that_a_value_is_not_valid(error):
    """The database's own errors, and those of the machine."""
    assert not is_client_rejection(error)


@pytest.mark.parametrize("error", TIME_LIMITS, ids=repr)
def test_time_limits(error):
    """The batch is to be halved: no row is to blame, and the whole would take as long again."""
    assert is_time_limit(error)
    assert not is_bad_data(error)
    assert not is_conflict(error)
    assert not is_disconnect(error)


@pytest.mark.parametrize("error", [*BAD, *OUTAGES, mysql(1205), postgres("55P03")], ids=repr)
def test_a_lock_timeout_does_not_exceed_the_time_limit(error):
    """A lock that could not be had in time isn't: to wait for each half would take longer."""
    assert not is_time_limit(error)


@pytest.mark.parametrize("error", OUTAGES, ids=repr)
def test_outages(error):
    """No row is to blame: everything is kept, and tried again."""
    assert not is_bad_data(error)
    assert not is_conflict(error)
    assert not is_contention(error)


@pytest.mark.parametrize(
    "error", [postgres("40001"), postgres("40P01", "pgcode"), mysql(1213), mysql(1062)], ids=repr
)
def test_conflicts(error):
    """Another writer was in the way: worth a try at once."""
    assert is_conflict(error)


@pytest.mark.parametrize(
    "error",
    [postgres("55P03"), mysql(1205), OperationalError("database is locked"), postgres("40P01")],
    ids=repr,
)
def test_lock_timeouts(error):
    """A clear waits for what holds the lock; a flush has waited enough."""
    assert is_contention(error)
    assert not is_bad_data(error)


class DriverError(Exception):
    """What psycopg raises when it finds the connection closed: there is no code for it."""

    __module__ = "psycopg.errors"


@pytest.mark.parametrize(
    "error",
    [
        postgres("57P01"),
        postgres("57P05"),
        postgres("25P03"),
        postgres("08006", "pgcode"),
        caused_by(DriverError()),
        mysql(2006),
        mysql(2013),
        mysql(1927),
        mysql(4031),
        mysql(0, wrapper=InterfaceError),
    ],
)
def test_a_connection_that_has_ended(error):
    """A server that closed what was idle is no outage."""
    assert is_disconnect(error)


@pytest.mark.parametrize(
    "error",
    [
        postgres("25006"),
        postgres("53300"),
        postgres("57P03"),  # the server is starting up
        postgres("42P01", wrapper=ProgrammingError),
        mysql(1290),
        mysql(1146, wrapper=ProgrammingError),
        OperationalError("disk I/O error"),
        ConnectionRefusedError(),
    ],
)
def test_a_connection_that_lives(error):
    """A new one would meet the same error."""
    assert not is_disconnect(error)


GOT = "ValueError: Field 'id' expected a number but got …"
LITERAL = "ValueError: invalid literal for int() with base 10: …"
INVALID = "ValidationError: ['… is not a valid UUID.']"


def server_error(text, code="23514"):
    error = postgres(code)
    error.args = (text,)
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (server_error("violates x\nDETAIL:  row (secret)\n"), "OperationalError: violates x"),
        (
            server_error('invalid input syntax for type uuid: "secret"\nLINE 1: secret'),
            "OperationalError: invalid input syntax for type uuid: …",
        ),
        # Of the connection: without a code, and with advice.
        (
            server_error("refused\n\tIs it running?", None),
            "OperationalError: refused Is it running?",
        ),
        (
            OperationalError(1062, "Duplicate entry 'sec' for key ret' for key 'PRIMARY'"),
            "OperationalError: (1062, \"Duplicate entry … for key 'PRIMARY'\")",
        ),
        (
            DataError(1366, "Incorrect string value: '\\xF0secret' for column `a`.`b` at row 1"),
            'DataError: (1366, "Incorrect string value: … for column `a`.`b` at row 1")',
        ),
        (
            OperationalError(1064, "right syntax to use near '\"secret\"' at line 1"),
            "OperationalError: (1064, 'right syntax to use near … at line 1')",
        ),
        (
            OperationalError(1146, "Table 'x.taskstate_task' doesn't exist"),
            "OperationalError: (1146, \"Table 'x.taskstate_task' doesn't exist\")",
        ),
        (OperationalError("no such table: x."), "OperationalError: no such table: x"),
        (ValueError("Field 'id' expected a number but got 'secret'."), GOT),
        (ValueError("Field 'id' expected a number but got sec\nret."), GOT),
        (ValueError("invalid literal for int() with base 10: 'secret'"), LITERAL),
        (ValidationError("“secret” is not a valid UUID."), INVALID),
        (KeyError("secret"), "KeyError: …"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_the_summary_of_an_error_leaves_out_what_it_quotes(error, text):
    """Readers of the log must not see the values of a task."""
    assert summarize(error) == text


def test_a_logged_traceback_leaves_out_the_texts_of_its_errors():
    """Those of the whole chain; where it happened stays."""
    secret = "hunter2"
    try:
        try:
            int(secret)
        except ValueError as cause:
            raise OperationalError(f"(1062, \"Duplicate entry '{secret}'\")") from cause
    except OperationalError as error:
        text = logging.Formatter().formatException(exc_info(error))

    assert "in test_a_logged_traceback" in text
    assert "RedactedError: OperationalError: (1062" in text
    assert secret not in text


MISSING = [
    postgres("42P01", wrapper=ProgrammingError),
    postgres("42703", "pgcode", wrapper=ProgrammingError),
    mysql(1146, wrapper=ProgrammingError),
    mysql(1054),
    OperationalError("no such table: taskstate_task"),
    OperationalError("no such column: stamp"),
    OperationalError("table taskstate_task has no column named stamp"),
]
FORBIDDEN = [
    # pytest-django's, and those of Django's SimpleTestCase, 3.2 and later.
    RuntimeError('Database access not allowed, use the "django_db" mark, or the "db" or …'),
    AssertionError("Database queries to 'default' are not allowed in SimpleTestCase subclasses."),
    AssertionError("Database threaded connections to 'x' are not allowed in this test."),
]


@pytest.mark.parametrize("error", MISSING, ids=repr)
def test_a_table_or_a_column_is_missing(error):
    """Waiting does not help, but ``migrate`` does; the batch is kept until then."""
    assert find_blocker(error) is Blocker.MISSING
    assert not is_bad_data(error)


@pytest.mark.parametrize("error", FORBIDDEN, ids=repr)
def test_a_test_forbids_access(error):
    """Nothing is wrong, and there is no use in waiting."""
    assert find_blocker(error) is Blocker.FORBIDDEN


@pytest.mark.parametrize(
    "error",
    [
        postgres("57P01"),
        mysql(2006),
        OperationalError("unable to open database file"),
        RuntimeError("no such table"),
        AssertionError("x"),
    ],
    ids=repr,
)
def test_waiting_may_help_in_an_outage(error):
    """An outage is waited for."""
    assert find_blocker(error) is None


MYSQL_BAD = """
    1048 1062 1153 1264 1265 1292 1300 1366 1406 1451 1452 1644 1977
    3819 3988 4025 4035 4036 4037 4038 4039
"""


@pytest.mark.parametrize("code", [int(code) for code in MYSQL_BAD.split()])
def test_each_code_of_mysql_for_bad_data(code):
    """MariaDB's and MySQL's, as their manuals list them."""
    assert is_bad_data(mysql(code))
    assert not is_time_limit(mysql(code))
    assert not is_disconnect(mysql(code))


@pytest.mark.parametrize("code", [1020, 1062, 1213])
def test_each_code_of_mysql_for_a_conflict(code):
    """A clear waits for it as well."""
    assert is_conflict(mysql(code))
    assert is_contention(mysql(code))


@pytest.mark.parametrize("error", [postgres("57P02"), mysql(2055), postgres("08000")], ids=repr)
def test_other_codes_for_a_connection_that_has_ended(error):
    """The server crashed, or the connection was lost."""
    assert is_disconnect(error)
    assert not is_bad_data(error)
