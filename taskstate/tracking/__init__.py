"""Tracking: hooks and actors describe the runs of messages, as transitions."""
