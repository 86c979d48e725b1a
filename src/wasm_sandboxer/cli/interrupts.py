"""Ctrl-C, SIGTERM and SIGHUP while a command is still getting ready.

Each is raised as a KeyboardInterrupt, so that what has been begun is undone. One that is raised inside a finaliser
is lost, so it is remembered too, and raised again by whoever waits for something long. Until there are verbs at all
the process just ends (`__main__`).
"""

import signal
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_received = 0


def install() -> None:
    """Take the signals that the caller does not ignore, as nohup does; on the main thread, before any verb."""
    for number in NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def check() -> None:
    """Raise KeyboardInterrupt if there was one of them."""
    if _received:
        raise KeyboardInterrupt


def exit_code() -> int:
    """What a command ends with that one of them has interrupted, as shells have it."""
    return 128 + (_received or signal.SIGINT)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    global _received  # noqa: PLW0603  # the process's signals are global
    _received = _received or number
    raise KeyboardInterrupt
