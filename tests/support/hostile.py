"""What a caller may send who means harm."""

from taskstate.models import Task
from taskstate.transitions.transition import MessageFields, Transition

#: The keys of ``for_state`` that fill a column.
KNOWN = {"user_pk", "description", "model_name", "app_name", "metadata"}
FIELDS = {name for field in Task._meta.concrete_fields for name in (field.name, field.attname)}
HOSTILE_KEYS = {
    *FIELDS,
    *Transition._fields,
    *MessageFields._fields,
    *(
        "stamp",
        "pk",
        "id",
        "status",
        "time",
        "time_ms",
        "options",
        "retries",
        "eta",
        "args",
        "kwargs",
    ),
    *("queue", "taskstate_stamp", "taskstate_started_at", "__class__", "__dict__", "_state", ""),
} - KNOWN
INJECTIONS = [
    "'); DELETE FROM taskstate_task; --",
    "x', status = 'done' WHERE '1' = '1",
    '"}, {"status": "done',
    '","x"],["y","done',
    '{"a",NULL}',
    "NULL",
    "\\",
    '\\"',
    "%s %(a)s {0} {a}",
    "\u2028\r\n\t\x1b[31m\x01",
    "ünï😀\u202e",
]
