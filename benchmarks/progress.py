"""What is going on: a bar on a terminal, a line per turn elsewhere."""

import contextlib

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress(console, title, total):
    """Yield a function to call before each of ``total`` turns, with the conditions and the turn,
    in words."""

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
    told = None
    with Progress(*columns, console=console, transient=True) as bar:
        # A turn is over when the next one begins.
        task = bar.add_task("", total=total, completed=-1)

        def tell(conditions, turn):
            nonlocal told
            if conditions != told:
                told = conditions
                line(conditions)
            bar.update(task, advance=1, description=turn)

        yield tell
