"""States and the verbs they allow; what signals mean to a guest."""

import signal

import pytest

from wasm_sandboxer.errors import FailedPrecondition, InvalidArgument
from wasm_sandboxer.lifecycle import Action, State, action_of, exit_code_of

ALLOWED = {
    State.CREATED: {"start", "kill", "update", "delete"},
    State.RUNNING: {"pause", "kill", "exec", "update"},
    State.PAUSED: {"resume", "kill", "update"},
    State.STOPPED: {"delete"},
}
VERBS = ["start", "pause", "resume", "kill", "exec", "update", "delete"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("state", State)
def test_every_state_allows_its_verbs_and_no_others(state: State, verb: str) -> None:
    if verb in ALLOWED[state]:
        state.require(verb, "container c")
    else:
        with pytest.raises(FailedPrecondition, match=f"^cannot {verb} container c: it is {state}$"):
            state.require(verb, "container c")


@pytest.mark.parametrize(
    ("number", "action"),
    [
        (0, Action.NOTHING), (signal.SIGCHLD, Action.NOTHING), (signal.SIGWINCH, Action.NOTHING),
        (signal.SIGURG, Action.NOTHING), (signal.SIGSTOP, Action.PAUSE), (signal.SIGTSTP, Action.PAUSE),
        (signal.SIGTTIN, Action.PAUSE), (signal.SIGTTOU, Action.PAUSE), (signal.SIGCONT, Action.RESUME),
        (signal.SIGTERM, Action.STOP), (signal.SIGKILL, Action.STOP), (signal.SIGINT, Action.STOP),
        (signal.SIGHUP, Action.STOP), (signal.SIGUSR1, Action.STOP), (signal.SIGRTMIN, Action.STOP),
        (64, Action.STOP),
    ],
)  # fmt: skip
def test_signals_do_what_they_do_to_a_program_without_handlers(number: int, action: Action) -> None:
    assert action_of(number) is action


@pytest.mark.parametrize("number", [-1, 65, 1000])
def test_what_is_no_signal_is_refused(number: int) -> None:
    with pytest.raises(InvalidArgument, match=f"^{number} is not a signal$"):
        action_of(number)


def test_a_signal_has_its_exit_code() -> None:
    assert [exit_code_of(number) for number in (2, 9, 15)] == [130, 137, 143]
