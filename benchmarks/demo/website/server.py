"""Serves the website from a thread of this process, to this machine only."""

import contextlib
import logging
import threading

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application

HOST = "127.0.0.1"


@contextlib.contextmanager
def serve(port=0):
    """Serve the website during the block; yield its address.

    Parameters:
      port(int): The port, or 0 for any free port.

    Raises:
      OSError: If the port is in use.
    """
    application = StaticFilesHandler(get_wsgi_application())
    # A line per request would disturb the demo's display. This comes after the application, which
    # configures logging when it is created.
    logging.getLogger("django.server").setLevel(logging.ERROR)
    server = ThreadedWSGIServer((HOST, port), WSGIRequestHandler)
    server.set_app(application)
    thread = threading.Thread(target=server.serve_forever, name="demo-site", daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
