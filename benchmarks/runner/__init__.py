"""Runs suites: starts the contenders' processes in turn, and reports the results."""
