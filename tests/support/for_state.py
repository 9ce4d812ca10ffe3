"""Actors, and what is pushed of their messages' ``for_state``."""

import dramatiq

FIELDS = ("actor_name", "user_pk", "description")


def declare(broker, name="act", fn=lambda *args, **kwargs: None, **options):
    return dramatiq.actor(fn, broker=broker, actor_name=name, **options)
