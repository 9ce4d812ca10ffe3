"""A TCP proxy that makes a database server seem far away.

``python -m benchmarks.runner.delay_proxy HOST PORT MILLISECONDS`` prints its port on the loopback
interface, and runs until its standard input ends.  A round trip through it takes this time longer:
half of it in each direction.  Bytes keep their order, and are not limited in rate.  To open a TCP
connection takes no longer; the first bytes on it do.
"""

import contextlib
import queue
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

from benchmarks.paths import ROOT

LOOPBACK = "127.0.0.1"
CHUNK_BYTES = 65_536


class DelayProxy:
    """A proxy in a process of its own.

    Parameters:
      url(str): The URL of the server.
      milliseconds(float): How much longer a round trip takes.
    """

    def __init__(self, url, milliseconds):
        server = urlsplit(url)
        command = [sys.executable, "-m", __name__]
        command += [server.hostname, str(server.port), str(milliseconds)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._port = int(self._process.stdout.readline())

    def through(self, url):
        """Return a URL of the server that leads through the proxy."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}{LOOPBACK}:{self._port}").geturl()

    def stop(self):
        """End the process."""
        self._process.kill()
        self._process.communicate()


def main(host, port, milliseconds):
    """Print the port, and relay connections until the standard input ends."""
    address, delay = (host, int(port)), float(milliseconds) / 2000
    with socket.create_server((LOOPBACK, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        start(accept, listener, address, delay)
        sys.stdin.read()


def start(function, *arguments):
    """Call a function in a new thread; return the thread."""
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def accept(listener, address, delay):
    """Relay each connection, until the listener is closed."""
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            start(relay, client, address, delay)


def relay(client, address, delay):
    """Relay a connection to the server, until both sides have closed it."""
    with client, socket.create_connection(address) as server:
        threads = []
        for source, target in ((client, server), (server, client)):
            target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            chunks = queue.SimpleQueue()
            threads.append(start(receive, source, chunks, delay))
            threads.append(start(forward, chunks, target))
        for thread in threads:
            thread.join()


def receive(source, chunks, delay, clock=time.monotonic):
    """Put what arrives into a queue, each chunk with the time when it is due; at the end, an empty
    chunk."""
    data = b"?"
    while data:
        try:
            data = source.recv(CHUNK_BYTES)
        except OSError:  # The other side has reset the connection.
            data = b""
        chunks.put((clock() + delay, data))


def forward(chunks, target, clock=time.monotonic, sleep=time.sleep):
    """Send each chunk of a queue when it is due, up to the empty one."""
    with contextlib.suppress(OSError):  # The other side has closed the connection.
        while True:
            due, data = chunks.get()
            sleep(max(0.0, due - clock()))
            if not data:
                target.shutdown(socket.SHUT_WR)
                return
            target.sendall(data)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
