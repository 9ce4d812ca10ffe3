"""The databases of the tests: one after the other is that of the tasks."""

import contextlib

from django.db import connections

from taskstate.models import Task, Watermark
from taskstate.writer import lifecycle
from tests.support.limits import LIMIT_SECONDS
from tests.support.needs import need


@contextlib.contextmanager
def use_database(alias, settings, blocker):
    need(alias)
    settings.DRAMATIQ_TASKS_DATABASE = alias
    with blocker.unblock():
        empty_tables(alias)
        yield alias
        stop_writers()
        connections.close_all()


def empty_tables(alias):
    for model in (Task, Watermark):
        model._base_manager.using(alias).all().delete()


def stop_writers():
    for writer in list(lifecycle._state.writers):
        assert writer.stop(LIMIT_SECONDS)
    lifecycle._state.writers.clear()
