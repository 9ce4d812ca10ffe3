"""Dramatiq's middleware of the site: it is loaded before there are models."""

import dramatiq
from django.db import connections


class CloseConnections(dramatiq.Middleware):
    """Lets a worker's thread keep no connection, and no schema."""

    def after_process_message(self, broker, message, *, result=None, exception=None):
        connections.close_all()
