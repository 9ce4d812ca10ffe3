"""All contenders, by name."""

from benchmarks.contenders.contender import Contender

_ALL = (
    Contender("untracked", None, apps=("django_dramatiq",), model=None),
    Contender(
        "upsert",
        "taskstate.middleware.StateMiddleware",
        taskstate={"STORE": "upsert"},
    ),
    Contender(
        "before-ack",
        "taskstate.middleware.StateMiddleware",
        taskstate={"FLUSH_BEFORE_ACK": True},
    ),
    Contender(
        "orm",
        "taskstate.middleware.StateMiddleware",
        taskstate={"STORE": "orm"},
    ),
    Contender(
        "plain-orm",
        "benchmarks.contenders.plain_orm.PlainStateMiddleware",
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
)
CONTENDERS = {contender.name: contender for contender in _ALL}
