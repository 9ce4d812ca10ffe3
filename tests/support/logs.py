"""What the package logs, down to the last record."""

import contextlib
import logging


@contextlib.contextmanager
def logging_to(handler, *, alone=False):
    """Add a handler for every record below ``taskstate``; if ``alone``, no other one gets them."""
    logger = logging.getLogger("taskstate")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = logger.propagate and not alone
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
