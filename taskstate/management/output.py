"""The standard output of a command: a terminal, a file or a pipe, which may fail."""

from __future__ import annotations

import os
from types import TracebackType

from django.core.management.base import CommandError, OutputWrapper

from taskstate.management.charset import Charset


class Output:
    """The standard output of a command.  If it fails, the command still does all of its work.

    Use it as a context manager.  Once a line can't be written, all later lines are discarded.  If
    the reader of a pipe closes it, as ``head`` does, that is not an error.

    Parameters:
      out(OutputWrapper): The command's ``stdout``.

    Raises:
      CommandError: At the end of the block, if a line could not be written for any other reason,
        such as a full disk.
    """

    def __init__(self, out: OutputWrapper) -> None:
        self._out = out
        # The wrapper's own encoding is None in older releases of Django. The stream is None in a
        # process that was started with a closed standard output.
        self._stream = getattr(out, "_out", out)
        self.charset = Charset(getattr(self._stream, "encoding", None))
        #: Whether lines can still be written.
        self.is_open = self._stream is not None
        self._error: OSError | None = None

    def __enter__(self) -> Output:  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.flush()
        if error is None and self._error is not None:
            raise CommandError(
                f"Not every line could be written to the output: {self._error}. The command has "
                "done its work."
            ) from self._error

    def isatty(self) -> bool:
        """Return whether the output is a terminal."""
        return self.is_open and self._out.isatty()

    def write(self, text: str, ending: str | None = None) -> None:
        """Write one line of the command's own text, which may contain colors."""
        if self.is_open:
            try:
                self._out.write(text, ending=ending)
            except OSError as error:
                self._close(error)

    def write_values(self, text: str) -> None:
        """Write one line with values of tasks.

        Control characters are removed, and a question mark replaces each character that the
        encoding of the output lacks.
        """
        self.write(self.charset.clean(text))

    def flush(self) -> None:
        """Write out what Python has buffered."""
        if self.is_open and hasattr(self._stream, "flush"):
            try:
                self._stream.flush()
            except OSError as error:
                self._close(error)

    def _close(self, error: OSError) -> None:
        self.is_open = False
        if not isinstance(error, BrokenPipeError):
            self._error = error
        # Python writes its buffer once more at exit, and would report the error again: let that go
        # to the null device.
        null_device = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null_device, self._stream.fileno())
        except (OSError, AttributeError):
            pass  # The stream is not a file of the operating system.
        finally:
            os.close(null_device)
