"""Polls the table from another process, to find out when the status of a sample is visible."""

import select
import sys

from django.db import connection

from benchmarks.workload import samples

#: The time between two queries.
POLL_SECONDS = 0.001
QUERY = "SELECT description, status FROM taskstate_task WHERE app_name = %s AND model_name = %s"


def poll():
    """Poll until the standard input ends, and once more; return when each status of each sample was
    first seen."""
    seen = {}
    is_stopped = False
    with connection.cursor() as cursor:
        _poll_once(cursor, seen)
        print("ready", flush=True)
        while not is_stopped:
            is_stopped = bool(select.select([sys.stdin], [], [], POLL_SECONDS)[0])
            _poll_once(cursor, seen)
    return {"seen": seen}


def _poll_once(cursor, seen):
    cursor.execute(QUERY, [samples.APP_NAME, samples.MODEL_NAME])
    for description, status in cursor.fetchall():
        samples.mark_reached(seen.setdefault(description, {}), status)
