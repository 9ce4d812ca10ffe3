"""Transitions: what happened to a message, and in which order.  Pure functions and data."""
