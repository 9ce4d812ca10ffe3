"""Serves the site from a thread of this process, to this machine alone."""

import contextlib
import logging
import threading

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application

HOST = "127.0.0.1"


@contextlib.contextmanager
def serve(port=0):
    """Serve the site until the end of the block; yield its address.  Port 0 is any that is free.

    Raises:
      OSError: If the port is taken.
    """
    application = StaticFilesHandler(get_wsgi_application())
    # A line per request would get between what the demo prints. Only now, since to make the
    # application sets up logging.
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
