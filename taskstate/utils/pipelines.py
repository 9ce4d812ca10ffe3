"""The messages that follow a message: the next one of its pipeline, and the callbacks of its group.

Dramatiq's middleware stores them in the options of a message, as dictionaries.
"""

from __future__ import annotations

from typing import Any, Iterator

#: The option that holds the next message of a pipeline.
TARGET_OPTION = "pipe_target"
#: The option that holds the messages that are sent when a group is completed.
CALLBACKS_OPTION = "group_completion_callbacks"


def followers(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the messages that directly follow the message with these options.

    Each is a dictionary.  Those without options of their own are left out.
    """
    for name in (TARGET_OPTION, CALLBACKS_OPTION):
        found = options.get(name)
        for message in found if isinstance(found, list) else [found]:
            if isinstance(message, dict) and isinstance(message.get("options"), dict):
                yield message
