"""Folders that the benchmarks read and write."""

from pathlib import Path

#: The project: the folder that contains ``taskstate`` and ``benchmarks``.
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
#: Temporary files.  Git ignores this folder.
VAR = ROOT / "var"
#: Results of a smoke run, which must not replace real ones.
TINY_RESULTS = VAR / "bench-tiny"
#: Other releases to compare with, each installed into a folder of its own.
PEERS = VAR / "peers"
