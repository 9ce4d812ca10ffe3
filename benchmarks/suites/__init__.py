"""What is measured: each suite is a module of this package.

A suite defines:

``TITLE``
    The title of its tables.
``FIGURES``
    A tuple of ``figures.Figure``: the rows of its tables.  A table omits a figure that its
    comparison did not measure.
``PLOTS``
    A tuple of ``plots.Bars`` and ``plots.Lines``.
``CHOICES``
    What it supports: a dictionary with the key ``contenders``, and with ``databases`` and
    ``brokers`` if it uses any.  The values are tuples of names.  ``commits`` is true if it measures
    contenders of earlier commits as well.
``DEFAULTS``, ``TINY``
    Its default options, and those of a smoke run: dictionaries whose keys are fields of
    ``options.Options``.
``comparisons(options, session)``
    Yields a ``rounds.Comparison`` for each set of conditions.  Its measurements take no arguments
    and return figures by key.  They may run a contender's processes in the ``session``.
"""

import importlib

#: The names of all suites, in the order in which they run.
NAMES = ("whole", "hooks", "flush", "database", "growth", "latency", "scale")


def load(name):
    """Return the module of a suite."""
    return importlib.import_module(f"benchmarks.suites.{name}")
