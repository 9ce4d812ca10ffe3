"""A look into the table from another process: when each state of a sample shows."""

import select
import sys

from django.db import connection

from benchmarks.contest import samples

#: How long to wait between two looks.
POLL_SECONDS = 0.001
QUERY = "SELECT description, status FROM taskstate_task WHERE app_name = %s AND model_name = %s"


def watch(_):
    """Look until told to stop, by the end of the standard input, and once more; return by sample
    and state when it was first seen, or a later one."""
    seen = {}
    stopped = False
    with connection.cursor() as cursor:
        _look(cursor, seen)
        print("ready", flush=True)
        while not stopped:
            stopped = bool(select.select([sys.stdin], [], [], POLL_SECONDS)[0])
            _look(cursor, seen)
    return {"seen": seen}


def _look(cursor, seen):
    cursor.execute(QUERY, [samples.APP_NAME, samples.MODEL_NAME])
    for description, status in cursor.fetchall():
        samples.reach(seen.setdefault(description, {}), status)
