"""The script of the pages by itself."""

from pathlib import Path

from tests.support.factories import make_id

CLOCK = Path(__file__).with_name("clock.js").read_text(encoding="utf-8")
ELEMENT = """
const element = document.createElement("task-progress");
Object.assign(element.dataset, arguments[0]);
document.body.append(element);
"""


class Script:
    """The script of the pages on an empty page, whose server and clock are the test's."""

    def __init__(self, driver):
        self.driver = driver

    def show(self, number, **data):
        """Show a task."""
        data = {"task": make_id(number), "status": "enqueued", "url": "/tasks/json/", **data}
        self.driver.execute_script(ELEMENT, data)

    def let_pass(self, seconds):
        self.driver.execute_async_script("pass(arguments[0]).then(arguments[1])", seconds)

    def asked(self):
        """Return the requests since the last look, each the second and the ids."""
        return self.driver.execute_script("return server.asked.splice(0)")

    def streams(self):
        """Return when each stream was opened and closed, and its ids."""
        script = "return server.streams.map(s => [s.opened, s.closed, s.ids])"
        return self.driver.execute_script(script)

    def answer(self, *numbers, hints=None):
        """Have these tasks in the answers from now on."""
        tasks = [{"id": make_id(n), "status": "running", "is_finished": False} for n in numbers]
        script = "Object.assign(server, { tasks: arguments[0], hints: arguments[1] })"
        self.driver.execute_script(script, tasks, hints or {})

    def answer_for(self, *viewers):
        """Have the answers be for these users by turns."""
        self.driver.execute_script("server.viewers = arguments[0]", viewers)

    def statuses(self):
        script = (
            "return Array.from(document.querySelectorAll('task-progress'), e => e.dataset.status)"
        )
        return self.driver.execute_script(script)
