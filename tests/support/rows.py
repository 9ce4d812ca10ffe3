"""Rows, without a writer."""

from taskstate.stores.orm import OrmStore
from tests.support.factories import make_pending


def write(*transitions):
    OrmStore().write([make_pending(transition) for transition in transitions])
