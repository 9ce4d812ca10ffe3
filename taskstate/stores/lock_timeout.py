"""A limit for lock waits: while a statement waits for a lock, no pending task is written.

SQLite has a limit of its own, the option ``timeout`` of the connection.
"""

from __future__ import annotations

import contextlib
from typing import Iterator

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import atomic

#: How long a flush may wait for another transaction, in seconds.
LOCK_WAIT_SECONDS = 2


@contextlib.contextmanager
def _limited_in_session(connection: BaseDatabaseWrapper, seconds: int) -> Iterator[None]:
    """MariaDB and MySQL: limit lock waits around a transaction, then restore the session's own
    limits."""
    if connection.vendor != "mysql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "SET @taskstate_row_wait = @@innodb_lock_wait_timeout, "
            "@taskstate_table_wait = @@lock_wait_timeout, "
            f"SESSION innodb_lock_wait_timeout = {seconds}, SESSION lock_wait_timeout = {seconds}"
        )
    try:
        yield
    finally:
        # The connection, and its session, may have ended.
        with contextlib.suppress(Error), connection.cursor() as cursor:
            cursor.execute(
                "SET SESSION innodb_lock_wait_timeout = @taskstate_row_wait, "
                "SESSION lock_wait_timeout = @taskstate_table_wait"
            )


@contextlib.contextmanager
def _limited_in_transaction(
    connection: BaseDatabaseWrapper, seconds: int, *, nested: bool
) -> Iterator[None]:
    """PostgreSQL: limit lock waits for the rest of the transaction.  If the caller has begun the
    transaction (``nested``), restore its own limit afterwards; a rollback does that by itself."""
    if connection.vendor != "postgresql":
        yield
        return
    before = "0"
    with connection.cursor() as cursor:
        if nested:
            cursor.execute("SELECT current_setting('lock_timeout')")
            (before,) = cursor.fetchone()
        cursor.execute(f"SET LOCAL lock_timeout = '{seconds}s'")
    yield
    if nested:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [before])


@contextlib.contextmanager
def transaction(
    connection: BaseDatabaseWrapper, seconds: int = LOCK_WAIT_SECONDS
) -> Iterator[None]:
    """Open a transaction, or a savepoint within one, in which no statement waits longer than
    ``seconds`` for a lock.

    Don't nest it: on MariaDB, the limit of the inner one would stay in force.
    """
    nested = connection.in_atomic_block
    with contextlib.ExitStack() as stack:
        stack.enter_context(_limited_in_session(connection, seconds))
        stack.enter_context(atomic(using=connection.alias))
        stack.enter_context(_limited_in_transaction(connection, seconds, nested=nested))
        yield
