"""The states of a container and what signals mean to one; pure."""

import signal
from enum import StrEnum

from wasm_sandboxer.errors import FailedPrecondition, InvalidArgument


class State(StrEnum):
    """States as containerd's task API names them, with the transitions that are allowed."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"

    def require(self, verb: str, subject: str) -> None:
        """Raise FailedPrecondition unless `verb` (start, pause, resume, kill, exec, delete) is allowed here."""
        if self not in _ALLOWED[verb]:
            raise FailedPrecondition(f"cannot {verb} {subject}: it is {self}")


_ALLOWED = {
    "start": {State.CREATED},
    "pause": {State.RUNNING},
    "resume": {State.PAUSED},
    "kill": {State.CREATED, State.RUNNING, State.PAUSED},
    "exec": {State.RUNNING},
    "update": {State.CREATED, State.RUNNING, State.PAUSED},
    "delete": {State.CREATED, State.STOPPED},
}


class Action(StrEnum):
    """What a signal does to a guest, which has no handlers of its own."""

    STOP = "stop"
    PAUSE = "pause"
    RESUME = "resume"
    NOTHING = "nothing"


_OTHERS = {
    0: Action.NOTHING,  # only asks whether the target exists
    signal.SIGSTOP: Action.PAUSE,
    signal.SIGTSTP: Action.PAUSE,
    signal.SIGTTIN: Action.PAUSE,
    signal.SIGTTOU: Action.PAUSE,
    signal.SIGCONT: Action.RESUME,
    signal.SIGCHLD: Action.NOTHING,
    signal.SIGURG: Action.NOTHING,
    signal.SIGWINCH: Action.NOTHING,
}
_HIGHEST_SIGNAL = 64


def action_of(number: int) -> Action:
    """The default action of a signal, as signal(7) lists it; raises InvalidArgument for what is no signal."""
    if not 0 <= number <= _HIGHEST_SIGNAL:
        raise InvalidArgument(f"{number} is not a signal")
    return _OTHERS.get(number, Action.STOP)


def exit_code_of(number: int) -> int:
    """The exit code of what a signal ended."""
    return 128 + number
