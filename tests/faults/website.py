"""Sends tracked messages from any process, and notes what was sent and what the signals told.

Also a small web application, which sends one message per request; for gunicorn, uWSGI and the like.
"""

import logging
import os
from pathlib import Path

import django

django.setup()

from django.dispatch import receiver  # noqa: E402

from benchmarks.demo.project import tasks  # noqa: E402
from taskstate.middleware import StateMiddleware  # noqa: E402
from taskstate.signals import task_changed  # noqa: E402

logging.basicConfig()

FOLDER = Path(os.environ["DRILL_FOLDER"])


def note(name, line):
    """Add a line to a file of the drill's; whole, however many processes do so."""
    file = os.open(FOLDER / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


@receiver(task_changed, sender=StateMiddleware)
def note_change(sender, task, transitions, **kwargs):
    for status in transitions:
        note("signals", f"{task.pk} {status}")


def send(number=1):
    """Send so many messages; return the id of the last one."""
    for _ in range(number):
        message = tasks.succeed.send(for_state={"description": str(os.getpid())})
        note("sent", f"{message.message_id} {os.getpid()}")
    return message.message_id


def application(environ, start_response):
    body = f"{os.getpid()} {send()}".encode()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


# As a site does that sends something when it starts: a server that forks does so after this.
FIRST = int(os.environ.get("DRILL_SEND_FIRST", "0"))
if FIRST:
    send(FIRST)
