"""Utilities that know nothing of tasks."""
