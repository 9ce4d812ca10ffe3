"""A TCP proxy that a drill cuts, stalls and mends."""

import contextlib
import socket
import struct
import threading

HOST = "127.0.0.1"
CHUNK = 65536
#: Closing with this option sends a reset rather than a polite end.
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes on what comes to ``port``.

    ``cut()`` resets every connection, and each new one; ``stall()`` keeps them open and passes
    nothing on, like a network that drops packets; ``mend()`` passes everything on again.
    """

    def __init__(self, target_port):
        self._target = (HOST, target_port)
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._is_cut = False
        self._flows = threading.Event()
        self._flows.set()
        self._pairs = set()
        self._lock = threading.Lock()

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error):
        # A shutdown ends the accept that is under way; a close would not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._flows.set()

    def cut(self):
        """Reset all connections, now and until it is mended."""
        self._is_cut = True
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for end in pair:
                _reset(end)

    def stall(self):
        """Pass nothing on until it is mended."""
        self._flows.clear()

    def mend(self):
        """Pass everything on, and take new connections."""
        self._is_cut = False
        self._flows.set()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self._target, 5)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            with self._lock:
                self._pairs.add((client, server))
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self._flows.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def _reset(end):
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        # A close alone doesn't end a read of another thread.
        end.shutdown(socket.SHUT_RDWR)
    end.close()
