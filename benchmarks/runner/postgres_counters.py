"""PostgreSQL's own counters: commits, bytes of WAL, and HOT updates."""

from __future__ import annotations

import time

from benchmarks.errors import BenchmarkError
from benchmarks.runner import servers

#: The time limit for connections to end after their processes have ended.
DISCONNECT_SECONDS = 30
POLL_SECONDS = 0.02


class PostgresCounters:
    """Counts what happens in one database from now on.

    A connection reports its statistics with a delay, but at the latest when it ends.  So the
    counters are read while no client is connected.  WAL is counted for the whole server, so
    nothing else may write to it in the meantime.
    """

    def __init__(self, url, database):
        self._url = url
        self._database = database
        self._own_url = f"{url.rpartition('/')[0]}/{database}"
        self._has_walinspect = self._create_extension()
        self._wait_for_disconnects()
        self._updates = self._hot_updates()
        self._wait_for_disconnects()
        # After a checkpoint, the first change of a page writes the whole page to the WAL. All
        # contenders start with a checkpoint.
        self._fetch("CHECKPOINT")
        self._commits = self._committed()
        self._position = self._fetch("SELECT pg_current_wal_lsn()")[0]

    def finish(self):
        """Return the counts as a dictionary.

        Its keys are ``commits``, ``wal_bytes``, ``wal_bytes_without_pages`` (None without
        pg_walinspect, or if the server has already removed some of the WAL) and ``hot_share``
        (None without updates).
        """
        self._wait_for_disconnects()
        commits = self._committed() - self._commits
        # Only flushed WAL can be inspected.
        end = self._fetch("SELECT pg_current_wal_flush_lsn()")[0]
        wal = self._fetch("SELECT %s::pg_lsn - %s::pg_lsn", end, self._position)[0]
        counts = {"commits": commits, "wal_bytes": int(wal)}
        counts["wal_bytes_without_pages"] = self._wal_bytes_without_pages(end)
        updates, hot = (now - then for now, then in zip(self._hot_updates(), self._updates))
        counts["hot_share"] = hot / updates if updates else None
        return counts

    def _create_extension(self):
        try:
            with servers.cursor(self._own_url) as cursor:
                cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
        except BenchmarkError:  # PostgreSQL before 15, or no contrib modules.
            return False
        return True

    def _wal_bytes_without_pages(self, end):
        """Return the bytes of WAL up to ``end``, without the images of whole pages."""
        if not self._has_walinspect:
            return None
        if end == self._position:  # The server rejects an empty range.
            return 0
        try:
            with servers.cursor(self._own_url) as cursor:
                cursor.execute(
                    "SELECT sum(record_size) FROM pg_get_wal_stats(%s, %s)", [self._position, end]
                )
                return int(cursor.fetchone()[0] or 0)
        except BenchmarkError:  # The server has already removed the beginning.
            return None

    def _hot_updates(self):
        """Return the number of updated rows, and of those that were HOT updates."""
        with servers.cursor(self._own_url) as cursor:
            cursor.execute(
                "SELECT coalesce(sum(n_tup_upd), 0), coalesce(sum(n_tup_hot_upd), 0)"
                " FROM pg_stat_user_tables"
            )
            return tuple(int(count) for count in cursor.fetchone())

    def _committed(self):
        query = "SELECT xact_commit FROM pg_stat_database WHERE datname = %s"
        return self._fetch(query, self._database)[0]

    def _wait_for_disconnects(self):
        """Wait until no client is connected to the database."""
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
            " AND backend_type = 'client backend'"
        )
        deadline = time.monotonic() + DISCONNECT_SECONDS
        while self._fetch(query, self._database)[0]:
            if time.monotonic() > deadline:
                raise BenchmarkError(
                    f"A client is still connected to the database {self._database} after "
                    f"{DISCONNECT_SECONDS} seconds, so its commits can't be counted. Disconnect "
                    "it, and run the benchmark again."
                )
            time.sleep(POLL_SECONDS)

    def _fetch(self, query, *parameters):
        with servers.cursor(self._url) as cursor:
            cursor.execute(query, parameters or None)
            return cursor.fetchone() if cursor.description else None
