"""The version, where the build can read it without importing Django."""

__version__ = "0.1.0"
