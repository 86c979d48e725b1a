"""Ctrl-C while a command is still getting ready.

A KeyboardInterrupt that is raised inside a finaliser is lost, so it is remembered too, and raised again by whoever
waits for something long.
"""

import signal
from types import FrameType

_interrupted = False


def install() -> None:
    """Take SIGINT; on the main thread, first of all."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as under nohup
        signal.signal(signal.SIGINT, _interrupt)


def check() -> None:
    """Raise KeyboardInterrupt if there was a Ctrl-C."""
    if _interrupted:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _interrupted  # noqa: PLW0603  # the process's signals are global
    _interrupted = True
    signal.default_int_handler(number, frame)
