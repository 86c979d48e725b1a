"""Standard output and error of the commands: what becomes of a line that cannot be written.

A result that is lost is an error of the command. A message that is lost changes nothing else: the exit code is what
it would be. That nobody reads any more (EPIPE) is neither.
"""

import io
import sys

import click


class OutputFailed(OSError):
    """Standard output cannot be written; a full disk, for one."""


class _Output(io.TextIOWrapper):
    """Standard output, whose errors cannot be taken for those of any other file."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputFailed(error.errno, error.strerror) from None

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputFailed(error.errno, error.strerror) from None


def install() -> None:
    """Make sys.stdout say what fails, and take any text: a file's name may be none in any encoding."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        lines, encoding = sys.stdout.line_buffering, sys.stdout.encoding
        sys.stdout = _Output(sys.stdout.detach(), encoding, "backslashreplace", line_buffering=lines)


def abandon() -> None:
    """Write nothing more to standard output, not what waits in its buffer either: the interpreter would try."""
    sys.stdout = None


def tell(text: str) -> None:
    """A line on stderr, if it can be written."""
    try:
        click.echo(text, err=True)
    except OSError:
        sys.stderr = None  # nor is it tried again at the end, which would have an exit code of its own
