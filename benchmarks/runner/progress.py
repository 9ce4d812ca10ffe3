"""Shows the progress of a suite: as a bar on a terminal, as lines elsewhere."""

import contextlib

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress(console, title, total):
    """Yield a function to call before each turn, with its conditions and a description.

    Parameters:
      title(str): The suite's title.
      total(int): The number of turns.
    """

    def line(text):
        console.print(f"{title}: {text}", markup=False, highlight=False, soft_wrap=True)

    if not console.is_terminal:
        yield lambda conditions, turn: line(f"{conditions}: {turn}")
        return
    columns = (
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    shown = None
    with Progress(*columns, console=console, transient=True) as bar:
        # A turn counts as completed when the next one begins.
        task = bar.add_task("", total=total, completed=-1)

        def show(conditions, turn):
            nonlocal shown
            if conditions != shown:
                shown = conditions
                line(conditions)
            bar.update(task, advance=1, description=turn)

        yield show
