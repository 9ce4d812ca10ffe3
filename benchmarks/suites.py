"""The suites, by name.

Each is a module that holds:

``TITLE``
    What it measures, in a few words.
``FIGURES``
    A tuple of ``figures.Figure``: the rows of its tables.  Those that a comparison lacks are left
    out there.
``PLOTS``
    A tuple of ``plots.Bars`` and ``plots.Lines``.
``CHOICES``
    What it can do: a dictionary with the key ``contenders``, and ``databases`` and ``brokers`` if
    it uses any; their values are tuples of names.
``DEFAULTS``, ``TINY``
    What it does unless it is asked for something else, and in a smoke run instead: dictionaries
    whose keys are fields of ``options.Options``.
``comparisons(options, arena)``
    Yields a ``rounds.Comparison`` for each set of conditions.  A measurement takes nothing, and
    returns its figures by key; it may run a contender's process in the ``arena``.
"""

import importlib

#: In the order in which they run.
NAMES = ("whole", "hooks", "flush", "database", "growth", "latency")


def load(name):
    """Return the module of a suite."""
    return importlib.import_module(f"benchmarks.{name}")
