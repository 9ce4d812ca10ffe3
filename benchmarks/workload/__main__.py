"""Runs one job for one contender, in a process of its own.

``python -m benchmarks.workload JOB ARGUMENTS``: the arguments are JSON, and so are the settings of
the contender in the environment variable ``BENCHMARK``.  The last line of the output is the result,
as JSON.

The process starts in a folder without packages, and the contender's own folder comes first in
``PYTHONPATH``, because another release's package is also named ``taskstate``.
"""

import json
import sys
from pathlib import Path

import django
from django.conf import settings
from django.db.backends.signals import connection_created
from django.utils.module_loading import import_string

import taskstate
from benchmarks.statements import StatementCounter
from benchmarks.workload import samples

#: The function of each job.
JOBS = {
    "migrate": "tables.migrate",
    "empty_tables": "tables.empty",
    "send_then_process": "jobs.send_then_process",
    "send_and_process": "jobs.send_and_process",
    "lone_tasks": "jobs.lone_tasks",
    "send": "jobs.send",
    "poll": "polling.poll",
    "flush": "flush.flush",
    "hooks": "hooks.hooks",
    "make_table": "scale.make_table",
    "write_at_a_rate": "scale.write_at_a_rate",
    "bytes_per_row": "scale.bytes_per_row",
}
#: The jobs with the argument ``statements``, a ``StatementCounter`` of their process.
WITH_STATEMENTS = ("send_then_process", "send_and_process", "lone_tasks")


def main():
    """Run the job, and print its result."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    django.setup()
    check_package()
    if name != "poll":
        connect_receivers()
    statements = count_statements()
    if name in WITH_STATEMENTS:
        arguments["statements"] = statements
    # Imported now, because the models of some jobs are not in every contender's INSTALLED_APPS.
    job = import_string(f"benchmarks.workload.{JOBS[name]}")
    print(json.dumps(job(**arguments)))
    check_stats()


def count_statements():
    """Return a counter of the statements of all connections that are opened from now on."""
    counter = StatementCounter()

    def watch(connection, **_):
        counter.put_on(connection)

    connection_created.connect(watch, weak=False)
    return counter


def check_package():
    """Exit if ``taskstate`` is not the contender's own, or if its settings are wrong."""
    if "taskstate" not in settings.BENCHMARK["apps"]:
        return
    found = Path(taskstate.__file__).parent
    wanted = Path(settings.BENCHMARK["folder"], "taskstate")
    if found != wanted:
        sys.exit(f"The taskstate in {wanted} was to be measured, and Python imported {found}.")
    if settings.BENCHMARK["is_ours"]:
        # Another release's package has no such module.
        from taskstate import conf

        # Without system checks, a wrong setting would silently be replaced by the default.
        problems = conf.find_problems(settings.TASKSTATE)
        if problems:
            sys.exit(" ".join(f"TASKSTATE: {one.message} {one.hint}" for one in problems))


def connect_receivers():
    """Connect the wanted receivers to ``task_changed``: one that does nothing, and one that records
    when the signal is sent for samples."""
    if "taskstate" not in settings.BENCHMARK["apps"]:
        return
    # Imported here, because another release's package may need its app to be loaded.
    from taskstate.signals import task_changed

    if settings.BENCHMARK["listener"]:
        task_changed.connect(ignore)
    if settings.BENCHMARK["samples"]:
        task_changed.connect(samples.on_task_changed)


def ignore(sender, **kwargs):
    """Do nothing: a receiver of ``task_changed``."""


def check_stats():
    """Exit if some transitions were not written."""
    if not settings.BENCHMARK["is_ours"]:
        return
    stats = taskstate.stats()
    if stats.failed_flushes or stats.dropped or stats.rejected:
        sys.exit(f"Not all states could be written: {stats}")


if __name__ == "__main__":
    main()
