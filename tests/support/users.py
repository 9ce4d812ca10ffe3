"""Users of a site."""

import contextlib

from django.contrib.auth import get_user_model
from django.test import Client


@contextlib.contextmanager
def use_users():
    """Yield a function that makes users, in the default database as a site's are; remove them."""
    model = get_user_model()
    made = []

    def make(name, **fields):
        made.append(model.objects.create(username=name, **fields))
        return made[-1]

    yield make
    for user in made:
        user.delete()


def signed_in(user, client_class=Client):
    client = client_class()
    client.force_login(user)
    return client
