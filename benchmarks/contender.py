"""The process of one contender for one round.

``python -m benchmarks.contender JOB ARGUMENTS``, with ``CONTEST`` in the environment: the
arguments and the terms are JSON, and so is the last line that it prints.  It runs in a folder
without packages, and PYTHONPATH leads to the contender's own first: ours and a peer's may be
named alike.
"""

import json
import sys
from pathlib import Path


def main():
    """Do the job, and print what came of it."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])

    import django

    django.setup()

    from benchmarks.contest import flush, hooks, load, watch
    from benchmarks.contest.tables import Tables

    jobs = {
        "migrate": lambda _: Tables().make(),
        "empty": lambda _: Tables().empty(),
        "one_after_the_other": load.one_after_the_other,
        "together": load.together,
        "lone": load.lone,
        "send": load.send,
        "watch": watch.watch,
        "flush": flush.flush,
        "hooks": hooks.hooks,
    }
    check_package()
    if name != "watch":
        connect_listeners()
    print(json.dumps(jobs[name](count_statements(), **arguments)))
    check_stats()


def count_statements():
    """Return a counter of what is run on all connections that are made from now on."""
    from django.db.backends.signals import connection_created

    from benchmarks.statements import StatementCounter

    counter = StatementCounter()

    def watch(connection, **_):
        counter.put_on(connection)

    connection_created.connect(watch, weak=False)
    return counter


def check_package():
    """Exit unless ``taskstate`` is the contender's own."""
    from django.conf import settings

    if "taskstate" not in settings.TERMS["apps"]:
        return
    import taskstate

    found, wanted = Path(taskstate.__file__).parent, Path(settings.TERMS["folder"], "taskstate")
    if found != wanted:
        sys.exit(f"The taskstate in {wanted} was to be measured, and Python imported {found}.")
    if settings.TERMS["is_ours"]:
        from taskstate import conf

        # A process that runs no checks would take the default.
        problems = conf.find_problems(settings.TASKSTATE)
        if problems:
            sys.exit(" ".join(f"TASKSTATE: {one.message} {one.hint}" for one in problems))


def connect_listeners():
    """Connect receivers of ``task_changed``: one that does nothing if that is wanted, and the one
    that times samples where there are some."""
    from django.conf import settings

    if "taskstate" not in settings.TERMS["apps"]:
        return
    from benchmarks.contest import samples
    from taskstate.signals import task_changed

    if settings.TERMS["listener"]:
        task_changed.connect(ignore)
    if settings.TERMS["samples"]:
        task_changed.connect(samples.listen)


def ignore(sender, **kwargs):
    """Do nothing: a receiver."""


def check_stats():
    """Exit if something could not be written."""
    from django.conf import settings

    if not settings.TERMS["is_ours"]:
        return
    import taskstate

    stats = taskstate.stats()
    if stats.failures or stats.dropped or stats.refused:
        sys.exit(f"Not all states could be written: {stats}")


if __name__ == "__main__":
    main()
