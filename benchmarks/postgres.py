"""What PostgreSQL has counted: commits, bytes of WAL, and updates that stay in their page."""

from __future__ import annotations

import time

from benchmarks import servers
from benchmarks.errors import BenchmarkError

#: How long connections may take to end once their processes have.
SETTLE_SECONDS = 30
POLL_SECONDS = 0.02


class Ledger:
    """Counts what happens to one database from here on.

    A connection delivers its statistics late, but at the latest when it ends: both ends of the
    count are taken while nobody is connected.  WAL is the whole server's: nothing else may write
    to it meanwhile.
    """

    def __init__(self, url, database):
        self._url = url
        self._database = database
        self._own_url = f"{url.rpartition('/')[0]}/{database}"
        self._can_inspect = self._provide_inspector()
        self._settle()
        self._updates = self._hot_updates()
        self._settle()
        # Each page is written to the WAL as a whole when it first changes after a checkpoint: all
        # contenders start from one.
        self._ask("CHECKPOINT")
        self._commits = self._committed()
        self._position = self._ask("SELECT pg_current_wal_lsn()")[0]

    def close(self):
        """Return what happened: ``commits``, ``wal_bytes``, ``wal_bytes_without_pages`` (None if
        the server can't tell: it needs pg_walinspect, and the WAL itself) and ``hot_share`` (None
        without updates)."""
        self._settle()
        commits = self._committed() - self._commits
        # What is written may not be flushed yet, and can't be inspected then.
        end = self._ask("SELECT pg_current_wal_flush_lsn()")[0]
        wal = self._ask("SELECT %s::pg_lsn - %s::pg_lsn", end, self._position)[0]
        counts = {"commits": commits, "wal_bytes": int(wal)}
        counts["wal_bytes_without_pages"] = self._records(end)
        updates, hot = (now - then for now, then in zip(self._hot_updates(), self._updates))
        counts["hot_share"] = hot / updates if updates else None
        return counts

    def _provide_inspector(self):
        try:
            with servers.cursor(self._own_url) as cursor:
                cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
        except BenchmarkError:  # Before PostgreSQL 15, or without its contributed modules.
            return False
        return True

    def _records(self, end):
        """Return the bytes of WAL from the start to ``end`` that are no images of whole pages."""
        if not self._can_inspect:
            return None
        if end == self._position:  # An empty range is an error to the server.
            return 0
        try:
            with servers.cursor(self._own_url) as cursor:
                cursor.execute(
                    "SELECT sum(record_size) FROM pg_get_wal_stats(%s, %s)", [self._position, end]
                )
                return int(cursor.fetchone()[0] or 0)
        except BenchmarkError:  # There was so much that the server has removed its beginning.
            return None

    def _hot_updates(self):
        """Return the updates of rows since the database was made, and those that were HOT."""
        with servers.cursor(self._own_url) as cursor:
            cursor.execute(
                "SELECT coalesce(sum(n_tup_upd), 0), coalesce(sum(n_tup_hot_upd), 0)"
                " FROM pg_stat_user_tables"
            )
            return tuple(int(count) for count in cursor.fetchone())

    def _committed(self):
        question = "SELECT xact_commit FROM pg_stat_database WHERE datname = %s"
        return self._ask(question, self._database)[0]

    def _settle(self):
        """Wait until nobody is connected to the database."""
        question = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
            " AND backend_type = 'client backend'"
        )
        deadline = time.monotonic() + SETTLE_SECONDS
        while self._ask(question, self._database)[0]:
            if time.monotonic() > deadline:
                raise BenchmarkError(
                    f"Somebody is still connected to the database {self._database} after "
                    f"{SETTLE_SECONDS} seconds, so its commits can't be counted. End it, and try "
                    "again."
                )
            time.sleep(POLL_SECONDS)

    def _ask(self, question, *parameters):
        with servers.cursor(self._url) as cursor:
            cursor.execute(question, parameters or None)
            return cursor.fetchone() if cursor.description else None
