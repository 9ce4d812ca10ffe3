"""What the package logs, down to the last record."""

import contextlib
import logging


@contextlib.contextmanager
def heard_by(handler, *, alone=False):
    """Let a handler have every record below ``taskstate``; if ``alone``, nobody else has it."""
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
