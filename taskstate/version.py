"""The version, where the build can read it without importing Django."""

__version__ = "0.4.0.dev0"
