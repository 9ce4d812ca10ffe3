"""The proxy that makes a database seem far away."""

import queue
import socket
import threading

import pytest

from benchmarks.runner import delay_proxy
from benchmarks.runner.delay_proxy import DelayProxy
from tests.support.limits import LIMIT_SECONDS


class Clock:
    """A clock that only sleep moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        assert seconds >= 0
        self.now += seconds


class Ends:
    """Records what is sent, and when."""

    def __init__(self, clock, received=()):
        self.clock = clock
        self.received = list(received)
        self.sent = []

    def recv(self, size):
        self.clock.now += 1
        return self.received.pop(0)

    def sendall(self, data):
        self.sent.append((self.clock.now, data))

    def shutdown(self, how):
        self.sent.append((self.clock.now, b""))


@pytest.fixture
def clock():
    return Clock()


def test_each_chunk_is_sent_when_it_has_been_held_back(clock):
    """Chunks that arrive together are not delayed by each other."""
    chunks, ends = queue.SimpleQueue(), Ends(clock)
    for arrived, data in ((100.0, b"a"), (100.0, b"b"), (100.25, b"c"), (107.0, b"")):
        chunks.put((arrived + 0.5, data))

    delay_proxy.forward(chunks, ends, clock=clock, sleep=clock.sleep)

    assert ends.sent == [(100.5, b"a"), (100.5, b"b"), (100.75, b"c"), (107.5, b"")]


def test_a_chunk_that_is_overdue_is_sent_at_once(clock):
    chunks, ends = queue.SimpleQueue(), Ends(clock)
    chunks.put((99.0, b"a"))
    chunks.put((99.0, b""))

    delay_proxy.forward(chunks, ends, clock=clock, sleep=clock.sleep)

    assert ends.sent == [(100.0, b"a"), (100.0, b"")]


def test_what_arrives_is_due_after_the_delay(clock):
    chunks, ends = queue.SimpleQueue(), Ends(clock, [b"a", b"b", b""])

    delay_proxy.receive(ends, chunks, 0.5, clock=clock)

    assert [chunks.get_nowait() for _ in range(3)] == [(101.5, b"a"), (102.5, b"b"), (103.5, b"")]
    assert chunks.empty()


def test_a_reset_connection_ends_like_a_closed_one(clock):
    class Reset(Ends):
        def recv(self, size):
            raise ConnectionResetError

    chunks = queue.SimpleQueue()
    delay_proxy.receive(Reset(clock), chunks, 0.5, clock=clock)
    assert chunks.get_nowait() == (100.5, b"")

    class Closed(Ends):
        def sendall(self, data):
            raise BrokenPipeError

    chunks.put((0, b"a"))
    delay_proxy.forward(chunks, Closed(clock), clock=clock, sleep=clock.sleep)


def echo_all(listener):
    """Read all of a connection, and then send it back."""
    with listener.accept()[0] as connection:
        parts = iter(lambda: connection.recv(65_536), b"")
        connection.sendall(b"".join(parts))


@pytest.fixture
def server():
    """The URL of a server that answers when all has arrived."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=echo_all, args=[listener], daemon=True)
        thread.start()
        yield f"postgres://me:secret@127.0.0.1:{listener.getsockname()[1]}/tasks"
        thread.join(LIMIT_SECONDS)


@pytest.fixture
def proxy(server):
    made = DelayProxy(server, 1)
    yield made
    made.stop()


def test_the_proxy_passes_all_bytes_in_order_in_both_directions(proxy, server):
    sent = bytes(range(256)) * 4_000
    url = proxy.through(server)
    assert url.startswith("postgres://me:secret@127.0.0.1:")
    assert url.endswith("/tasks")
    assert url != server

    port = int(url.rpartition(":")[2].partition("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_SECONDS) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        found = b"".join(iter(lambda: client.recv(65_536), b""))

    assert found == sent
