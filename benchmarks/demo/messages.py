"""The messages that the demo sends."""

from benchmarks.demo.project import tasks

#: How many tracked messages of each kind are sent.
TRACKED = {
    "report": 4,
    "succeed": 1196,
    "delayed": 300,
    "fail_once": 250,
    "fail_for_good": 150,
    "skip": 100,
}
UNTRACKED = 500
#: How many tasks have each status at the end.
EXPECTED = {"done": 1750, "failed": 150, "skipped": 100}

#: Long enough to see the progress of a report.
REPORT_SECONDS = 4.0
#: How many messages of each kind belong to the signed-in user: the page shows 25 tasks.
MESSAGES_OF_USER = 4


def send(run, user):
    """Send the messages one by one, all kinds mixed, and yield each.

    Parameters:
      run(str): The name of this run of the demo.  All its tasks have it as ``app_name``.
      user(User): The user whom some of the messages belong to.
    """
    plan = [(i / n, kind, i) for kind, n in TRACKED.items() for i in range(n)]
    plan += [(i / UNTRACKED, None, i) for i in range(UNTRACKED)]
    for _, kind, number in sorted(plan, key=lambda step: step[0]):
        if kind is None:
            yield tasks.succeed.send()
        else:
            yield SENDERS[kind](make_for_state(run, user, kind, number))


SENDERS = {
    "report": lambda s: tasks.report.send(REPORT_SECONDS, for_state=s),
    "succeed": lambda s: tasks.succeed.send(for_state=s),
    "delayed": lambda s: tasks.succeed.send_with_options(kwargs={"for_state": s}, delay=1500),
    "fail_once": lambda s: tasks.fail_once.send(1, for_state=s),
    "fail_for_good": lambda s: tasks.fail_for_good.send(for_state=s),
    "skip": lambda s: tasks.skip.send_with_options(kwargs={"for_state": s}, delay=50),
}


def make_for_state(run, user, kind, number):
    """Return the ``for_state`` of a message."""
    for_state = {"app_name": run, "model_name": "Demo", "description": f"{kind} {number}"}
    if number % (TRACKED[kind] // MESSAGES_OF_USER) == 0:
        for_state["user_pk"] = user.pk
    return for_state
