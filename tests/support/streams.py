"""Streams of events, as a test reads them."""

import json

import django
import pytest

needs_streams = pytest.mark.skipif(django.VERSION < (4, 2), reason="Django streams from 4.2")


def aiter_of(response):
    return response.streaming_content.__aiter__()


async def next_event(stream):
    """Return the id and the data of the next event."""
    while True:
        chunk = (await stream.__anext__()).decode()
        if not chunk.startswith(":"):
            key, data, *_ = chunk.split("\n")
            return key[len("id: ") :], json.loads(data[len("data: ") :])
