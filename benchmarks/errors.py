"""The error that ends a benchmark."""


class BenchmarkError(Exception):
    """Its message says what is wrong and what to do about it; it is shown without a traceback."""
