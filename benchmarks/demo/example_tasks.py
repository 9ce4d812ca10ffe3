"""Example tasks for the screenshots: at least one with each status."""

import datetime
import uuid

import dramatiq

import benchmarks.demo.project.tasks  # noqa: F401 - declares the demo's actors
from benchmarks.demo.website.users import make_users
from taskstate.models import Task

NOW = datetime.datetime(2026, 3, 4, 14, 30, tzinfo=datetime.timezone.utc)

TRACEBACK = """\
Traceback (most recent call last):
  File "/srv/shop/tasks.py", line 41, in charge
    receipt = bank.charge(order.card, order.total)
              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/shop/bank.py", line 88, in charge
    raise Declined(answer.reason)
shop.bank.Declined: the card has expired
"""

#: For each task: seconds since it was enqueued, status, actor, description, user, and other fields.
#: The times among them are seconds before now.
TASKS = (
    (4, "enqueued", "mail", "Mail to 312 customers", "alice", {}),
    (38, "running", "export", "Export of the orders of 2025", "alice", {
        "started_at": 36, "progress": 64.2, "progress_text": "Writing order 7,704 of 12,000",
        "worker": "worker-1:4121",
    }),
    (95, "failed", "charge", "Charge for order 20417", "alice", {
        "started_at": 94, "finished_at": 31, "attempt": 3, "worker": "worker-2:4090",
        "error": "Declined: the card has expired", "user_error": "The card has expired.",
        "traceback": TRACEBACK,
        "metadata": {"order": 20417, "currency": "EUR"}, "app_name": "shop", "model_name": "Order",
    }),
    (130, "delayed", "sync", "Stock of the warehouse", "alice", {
        "started_at": 129, "attempt": 2, "next_attempt_at": -50,
        "error": "TimeoutError: the warehouse did not answer",
        "user_error": "The warehouse did not answer.",
    }),
    (160, "running", "thumbnails", "Pictures of the new chairs", "bob", {
        "started_at": 158, "progress": 18.0, "progress_text": "Picture 9 of 50",
        "worker": "worker-1:4122",
    }),
    (310, "done", "export", "Export of the orders of 2024", "alice", {
        "started_at": 309, "finished_at": 250, "progress": 100.0, "worker": "worker-1:4121",
        "result": {"rows": 11840, "file": "orders-2024.csv"},
    }),
    (420, "running", "import_prices", "Prices of the spring", "alice", {
        "started_at": 400, "progress_text": "Reading the list", "worker": "worker-2:4090",
    }),
    (900, "skipped", "mail", "Reminder of the sale", "alice", {"finished_at": 600}),
    (1500, "done", "invoice", "Invoice 2026-0311", "bob", {
        "started_at": 1499, "finished_at": 1497, "worker": "worker-2:4091",
    }),
    (3000, "done", "cleanup", "", None, {
        "started_at": 2999, "finished_at": 2990, "worker": "worker-1:4122",
    }),
)  # fmt: skip
TIME_FIELDS = ("started_at", "finished_at", "next_attempt_at")


def message_id(number):
    """Return the id of the task with this index in ``TASKS``."""
    return uuid.UUID(int=0x5EED0000 + number)


def declare_actors():
    """Replace the demo's actors by those of the example tasks: the admin offers their names."""
    broker = dramatiq.get_broker()
    broker.actors.clear()
    broker.queues.clear()
    for name in {actor for _, _, actor, *_ in TASKS}:
        dramatiq.actor(int, actor_name=name)


def make_tasks():
    """Create the tasks and their users."""
    users = make_users()
    for number, (age, status, actor, description, user, other) in enumerate(TASKS):
        times = {name: before_now(other[name]) for name in TIME_FIELDS if name in other}
        Task.objects.create(
            message_id=message_id(number),
            status=status,
            actor_name=actor,
            queue_name="default",
            description=description,
            user=users.get(user),
            enqueued_at=before_now(age),
            updated_at=times.get("finished_at") or times.get("started_at") or before_now(age),
            stamp=number,
            rank=0,
            **{**other, **times},
        )


def go_on(share):
    """Let the tasks of the page go on.

    Parameters:
      share(float): How much of the moving picture has passed, from 0 to 1.  Two tasks end after
        three quarters of it.
    """
    tasks = Task.objects.all()
    passed = min(1, share / 0.75)
    written = int(7704 + (12_000 - 7704) * passed)
    tasks.filter(pk=message_id(1)).update(
        progress=round(written / 120, 1), progress_text=f"Writing order {written:,} of 12,000"
    )
    sent = int(312 * passed)
    tasks.filter(pk=message_id(0)).update(
        status="running",
        started_at=before_now(2),
        progress=round(sent / 3.12, 1),
        progress_text=f"{sent} of 312 sent",
    )
    if passed == 1:
        tasks.filter(pk__in=[message_id(0), message_id(1)]).update(
            status="done", progress=100, progress_text="", finished_at=NOW
        )


def before_now(seconds):
    """Return the time this number of seconds before ``NOW``."""
    return NOW - datetime.timedelta(seconds=seconds)
