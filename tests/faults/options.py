"""What drills are run with."""

import os

#: Whether drills take as long as they may: a night, not a coffee break.
NIGHTLY = os.environ.get("TASKSTATE_FAULTS") == "nightly"

#: The database under test: its alias, and its name on its server.
ALIAS = "drill"
DATABASE = "drill"
