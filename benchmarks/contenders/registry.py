"""All contenders, by name."""

import dataclasses

from benchmarks.contenders.contender import OUR_FLUSH, Contender

#: The contender that shows what any tracking costs.
LIMIT = "limit"

_ALL = (
    Contender("untracked", None, apps=("django_dramatiq",), model=None),
    Contender(
        "upsert",
        "taskstate.middleware.StateMiddleware",
        taskstate={"STORE": "upsert"},
        flush=OUR_FLUSH,
    ),
    Contender(
        "before-ack",
        "taskstate.middleware.StateMiddleware",
        taskstate={"FLUSH_BEFORE_ACK": True},
        flush=OUR_FLUSH,
    ),
    Contender(
        "orm",
        "taskstate.middleware.StateMiddleware",
        taskstate={"STORE": "orm"},
        flush=OUR_FLUSH,
    ),
    Contender(
        "plain-orm",
        "benchmarks.contenders.plain_orm.PlainStateMiddleware",
        flush=OUR_FLUSH,
    ),
    Contender(
        "admin",
        "django_dramatiq.middleware.AdminMiddleware",
        apps=("django_dramatiq",),
        model="django_dramatiq.Task",
        divisor=10,
    ),
    Contender(
        "0.3.4",
        "taskstate.middleware.StateMiddleware",
        apps=("django.contrib.postgres", "django_dramatiq", "taskstate"),
        # Its app imports channels when it is loaded.
        requirements=("dramatiq-taskstate==0.3.4", "channels"),
        divisor=10,
        # Its model has an ArrayField.
        databases=("postgres",),
    ),
    Contender(
        LIMIT,
        "benchmarks.contenders.limit.LimitMiddleware",
        flush="benchmarks.contenders.limit.flush",
        # It writes with COPY.
        databases=("postgres",),
    ),
)
CONTENDERS = {contender.name: contender for contender in _ALL}


def find(name):
    """Return the contender with a name such as ``upsert``, or ``upsert@7449e23`` for this package
    as it was at a commit."""
    base, _, commit = name.partition("@")
    contender = CONTENDERS[base]
    return dataclasses.replace(contender, name=name, commit=commit) if commit else contender
