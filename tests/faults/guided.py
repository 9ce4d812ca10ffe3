"""Atheris, which breeds inputs by what they reach of our code, with Hypothesis to make examples of
them.  For a process of its own: it rewrites our code, and ends its process.
"""

import gc
import json
import os
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["taskstate"]):
    import django

    django.setup()
    import taskstate.middleware
    import taskstate.stores.selection  # noqa: F401 - what opens a store imports it late

from tests.faults.fuzz import Fuzz, Log
from tests.support.logs import logging_to

#: It starts from so many inputs of random bytes, each long enough to make examples of.
SEEDS = 50
LENGTH = 16_384


def main(inputs, folder):
    """Try so many inputs, which it breeds in ``folder``, and print what came of them."""
    for number in range(SEEDS):
        Path(folder, str(number)).write_bytes(os.urandom(LENGTH))
    fuzz = Fuzz("auto")
    tried = 0
    # In between alone: Hypothesis's callback has no room on a stack that nested values have filled.
    gc.disable()

    check = fuzz.make_check()

    def one_input(data):
        nonlocal tried
        check.hypothesis.fuzz_one_input(data)
        gc.collect()
        tried += 1
        if tried == inputs:
            found = {"inputs": tried, "sequences": fuzz.sequences, "rows": fuzz.rows}
            print(json.dumps(found), flush=True)
            os._exit(0)

    with logging_to(Log(), alone=True):
        atheris.Setup(
            [sys.argv[0], folder, f"-max_len={LENGTH}", "-len_control=0", "-verbosity=0"], one_input
        )
        atheris.Fuzz()
