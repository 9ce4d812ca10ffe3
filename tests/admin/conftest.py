"""Users of the admin, and a broker that takes what they send again."""

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.test import Client
from dramatiq.brokers.stub import StubBroker

from tests.support.resending import Away, use_broker


@pytest.fixture
def people(database):
    """Users, in the default database, wherever the tasks are."""
    remove_people()
    yield get_user_model().objects
    remove_people()


def remove_people():
    LogEntry.objects.all().delete()
    get_user_model().objects.all().delete()


@pytest.fixture
def admin(people):
    """A client that is signed in as a superuser."""
    client = Client()
    client.force_login(people.create_superuser("admin"))
    return client


@pytest.fixture
def broker(one_database):
    """The broker of this process, with one actor."""
    yield from use_broker(StubBroker())


@pytest.fixture
def broker_away(one_database):
    yield from use_broker(Away())
