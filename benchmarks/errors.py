"""What stops a benchmark, told to whoever started it."""


class BenchmarkError(Exception):
    """A whole sentence with its cure; shown without a traceback."""
