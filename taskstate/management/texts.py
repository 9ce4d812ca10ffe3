"""Phrases that commands share."""


def tasks(count: int) -> str:
    """Return a number of tasks in words: ``"1 task"``, ``"1,234 tasks"``."""
    return f"{count:,} task" if count == 1 else f"{count:,} tasks"
