"""Rows, without a writer."""

from taskstate.stores.orm import OrmStore
from tests.support.factories import make_pending


def write(*facts):
    OrmStore().write([make_pending(fact) for fact in facts])
