"""How long tests wait."""

#: How long a test waits for what must happen; only a failure ever takes as long.
LIMIT_SECONDS = 30
