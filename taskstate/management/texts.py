"""Words that commands share."""


def tasks(count: int) -> str:
    """Return how many tasks there are, in words: ``"1 task"``, ``"1,234 tasks"``."""
    return f"{count:,} task" if count == 1 else f"{count:,} tasks"


_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def seconds(count: float) -> str:
    """Return a time in few characters: ``"0.2s"``, ``"42s"``, ``"3m07s"``, ``"5h09m"``,
    ``"12d04h"``.  It is cut, not rounded; a negative one, of another host's clock, is 0."""
    whole = max(0, int(count))
    if whole < 10:  # noqa: PLR2004 - two digits are enough
        return f"{max(0, int(count * 10)) / 10:.1f}s"
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"
