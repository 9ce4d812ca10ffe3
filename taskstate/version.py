"""The version, where the build can read it without importing Django."""

__version__ = "0.2.0.dev0"
