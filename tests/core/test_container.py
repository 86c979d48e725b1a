"""A container: its verbs in every state, one exit for all who wait, and nothing left of it."""

import asyncio
import gc
import os
import signal
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.guests import Guests, in_loop, until
from wasm_sandboxer.core.container import Container
from wasm_sandboxer.errors import FailedPrecondition, InvalidArgument, ModuleError, WasmSandboxerError
from wasm_sandboxer.guest import Limits, Preopen, Reason, Stdio
from wasm_sandboxer.lifecycle import State

SPINS_FIRST = '(module (func $s (loop (br 0))) (start $s) (func (export "_start")))'


def threads() -> int:
    """How many there are besides those in which the engine waits for components, which linger for some seconds."""
    count = 0
    for comm in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it has ended since
            count += comm.read_text() != "tokio-rt-worker\n"
    return count


def thread_name(container: Container) -> str:
    return Path(f"/proc/self/task/{container.pid}/comm").read_text().strip()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- verbs and states


def test_a_container_goes_from_created_over_running_to_stopped(guests: Guests) -> None:
    async def main() -> None:
        container = guests.container("exit", "7")
        assert (container.state, container.pid, container.exit.done()) == (State.CREATED, 0, False)
        await container.start()
        assert container.state is State.RUNNING or container.exit.done()
        assert container.pid not in (0, os.getpid())
        end = await container.exit
        assert (container.state, end.code, end.reason) == (State.STOPPED, 7, Reason.EXITED)

    in_loop(main())


VERBS: dict[str, Callable[[Container], Any]] = {
    "start": lambda container: container.start(),
    "pause": lambda container: container.pause(),
    "resume": lambda container: container.resume(),
    "kill": lambda container: container.kill(signal.SIGKILL),
}
ALLOWED = {"created": {"start", "kill"}, "running": {"pause", "kill"}, "paused": {"resume", "kill"}, "stopped": set()}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("state", ALLOWED)
def test_every_verb_in_every_state(guests: Guests, state: str, verb: str) -> None:
    async def main() -> None:
        container = guests.container("sleep", "forever")
        if state != "created":
            await container.start()
        if state == "paused":
            await container.pause()
        if state == "stopped":
            await container.kill(signal.SIGKILL)
            await container.exit
        assert container.state == state
        if verb in ALLOWED[state]:
            await VERBS[verb](container)
        else:
            with pytest.raises(FailedPrecondition, match=f"^cannot {verb} container sleep: it is {state}$"):
                await VERBS[verb](container)
            assert container.state == state
        if not container.exit.done():
            await container.kill(signal.SIGKILL)
        await container.exit

    in_loop(main())


def test_the_exit_code_is_of_the_first_signal_that_stopped_it(guests: Guests) -> None:
    async def main() -> None:
        container = guests.container("sleep", "forever")
        await container.start()
        await asyncio.gather(container.kill(signal.SIGTERM), container.kill(signal.SIGKILL))
        end = await container.exit
        assert (end.code, end.reason) == (143, Reason.STOPPED)

    in_loop(main())


def test_killed_before_it_starts_it_never_runs(guests: Guests) -> None:
    async def main() -> None:
        before = threads()
        container = guests.container("exit", "7")
        await container.kill(signal.SIGTERM)
        end = await container.exit
        assert (container.state, end.code, end.reason, container.pid) == (State.STOPPED, 143, Reason.STOPPED, 0)
        with pytest.raises(FailedPrecondition):
            await container.start()
        assert threads() == before

    in_loop(main())


def test_signals_that_stop_nobody_change_nothing(guests: Guests) -> None:
    async def main() -> None:
        container = guests.container("sleep", "forever")
        await container.kill(0)
        await container.kill(signal.SIGSTOP)
        assert container.state is State.CREATED
        await container.start()
        for number in (0, signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT):
            await container.kill(number)
            assert container.state is State.RUNNING
        with pytest.raises(InvalidArgument):
            await container.kill(65)
        await container.kill(signal.SIGKILL)
        assert (await container.exit).code == 137

    in_loop(main())


def test_sigstop_pauses_and_sigcont_resumes(guests: Guests) -> None:
    async def main() -> None:
        container = guests.container("sleep", "forever")
        await container.start()
        await container.kill(signal.SIGTSTP)
        assert container.state is State.PAUSED
        await container.kill(signal.SIGSTOP)
        assert container.state is State.PAUSED
        await container.kill(signal.SIGCONT)
        assert container.state is State.RUNNING
        await container.kill(signal.SIGINT)
        assert (await container.exit).code == 130

    in_loop(main())


# --- the exit


def test_any_number_may_wait_for_the_exit(guests: Guests) -> None:
    async def main() -> None:
        container = guests.container("exit", "3")
        waiting = [asyncio.ensure_future(asyncio.shield(container.exit)) for _ in range(100)]
        await container.start()
        ends = await asyncio.gather(*waiting)
        assert {id(end) for end in ends} == {id(await container.exit)}

    in_loop(main())


def test_one_who_stops_waiting_disturbs_nobody(guests: Guests) -> None:
    async def main() -> None:
        container = guests.container("sleep", "0.05")
        await container.start()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(container.exit), 0.01)
        assert (await container.exit).code == 0

    in_loop(main())


def test_the_exit_is_set_once_however_it_is_raced(guests: Guests) -> None:
    async def main() -> None:
        for _ in range(50):
            container = guests.container("exit", "0")
            set_to: list[int] = []
            container.exit.add_done_callback(lambda done, set_to=set_to: set_to.append(done.result().code))
            kills = asyncio.gather(
                container.start(), *(container.kill(signal.SIGTERM) for _ in range(3)), return_exceptions=True
            )
            results = await kills
            await container.exit
            await asyncio.sleep(0)
            assert set_to in ([0], [143])
            assert container.state is State.STOPPED
            assert all(result is None or isinstance(result, FailedPrecondition) for result in results), results

    in_loop(main())


# --- starting


def test_a_start_that_fails_leaves_nothing(guests: Guests, tmp_path: Path) -> None:
    async def main() -> None:
        guests.program("files")
        before = threads(), descriptors()
        container = guests.container("files", "ls", "/", preopens=(Preopen(host=tmp_path / "none", guest="/"),))
        with pytest.raises(WasmSandboxerError, match="cannot open the directory"):
            await container.start()
        end = await container.exit
        assert (container.state, end.reason) == (State.STOPPED, Reason.FAILED)
        assert "cannot open the directory" in end.message
        await until(lambda: (threads(), descriptors()) == before)
        with pytest.raises(FailedPrecondition):
            await container.start()
        with pytest.raises(FailedPrecondition):
            await container.kill(signal.SIGKILL)

    in_loop(main())


def test_a_module_that_cannot_be_instantiated_fails_its_start(guests: Guests) -> None:
    async def main() -> None:
        container = guests.container("hello", limits=Limits(memories=0))
        with pytest.raises(ModuleError, match="its instance could not be made: "):
            await container.start()
        assert (await container.exit).reason is Reason.FAILED

    in_loop(main())


def test_kill_reaches_a_start_function_that_spins(guests: Guests, wat: Callable[..., Path]) -> None:
    path = wat(SPINS_FIRST)

    async def main() -> None:
        container = guests.container(path)
        starting = asyncio.ensure_future(container.start())
        await until(lambda: container.pid)
        assert (container.state, starting.done()) == (State.CREATED, False)
        await container.kill(signal.SIGTERM)
        await starting
        end = await container.exit
        assert (container.state, end.code, end.reason) == (State.STOPPED, 143, Reason.STOPPED)

    in_loop(main())


def test_a_start_that_is_cancelled_stops_its_guest(guests: Guests, wat: Callable[..., Path]) -> None:
    path = wat(SPINS_FIRST)

    async def main() -> None:
        before = threads()
        container = guests.container(path)
        starting = asyncio.ensure_future(container.start())
        await until(lambda: container.pid)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert (await container.exit).code == 137
        assert container.state is State.STOPPED
        await until(lambda: threads() == before)

    in_loop(main())


def test_two_starts_are_one(guests: Guests) -> None:
    async def main() -> None:
        container = guests.container("sleep", "0.01")
        results = await asyncio.gather(container.start(), container.start(), return_exceptions=True)
        assert [type(result) for result in results] == [type(None), FailedPrecondition]
        assert (await container.exit).code == 0

    in_loop(main())


def test_a_guest_that_traps_says_so(guests: Guests) -> None:
    ran = guests.run("trap", "divide")
    assert (ran.code, ran.exit.reason) == (134, Reason.TRAPPED)
    assert ran.exit.message.startswith("trap: integer divide by zero\nwasm backtrace:\n    0: trap!divide")
    assert ran.stderr == f"wasm-sandboxer: trap: {ran.exit.message}\n"


# --- what is left


def test_nothing_is_left_after_many_have_ended(guests: Guests) -> None:
    async def main() -> None:
        await asyncio.gather(*(run_one(guests, number) for number in range(6)))  # what is made once
        gc.collect()
        before = threads(), descriptors()
        await asyncio.gather(*(run_one(guests, number) for number in range(60)))
        await until(lambda: (threads(), descriptors()) == before)

    async def run_one(guests: Guests, number: int) -> None:
        how = number % 6
        module, *arguments = [
            ("exit", "3"), ("trap", "stack"), ("sleep", "forever"), ("spin",), ("cat",), ("hello-component",)
        ][how]  # fmt: skip
        read, _write = guests.pipe() if module == "cat" else (None, None)
        container = guests.container(module, *arguments, stdio=Stdio(stdin=read))
        await container.start()
        if how in (2, 3, 4):
            await container.kill(signal.SIGKILL)
        await container.exit
        if read is not None:
            os.close(read)
            os.close(_write)

    in_loop(main())


def test_a_container_that_has_ended_can_be_collected(guests: Guests) -> None:
    async def main() -> weakref.ref[Container]:
        container = guests.container("exit", "0")
        await container.start()
        await container.exit
        return weakref.ref(container)

    left = in_loop(main())
    gc.collect()
    assert left() is None


def test_times_and_memory_are_told(guests: Guests) -> None:
    async def main() -> None:
        container = guests.container("spin")
        assert container.cpu_time() == 0
        await container.start()
        await until(lambda: container.cpu_time() > 0.02)
        await container.kill(signal.SIGKILL)
        end = await container.exit
        assert end.cpu_time > 0.02
        assert container.cpu_time() == end.cpu_time

    in_loop(main())
    assert guests.run("memhog", "2").exit.peak_memory > 2 << 20
    assert guests.run("memhog", "5", limits=Limits(memory=3 << 20)).lines[-1] == "refused at 2 MiB"


def test_the_thread_has_the_containers_name(guests: Guests, wat: Callable[..., Path]) -> None:
    path = wat('(module (func (export "_start") (loop (br 0))))', "a-very-long-name.wasm")

    async def main() -> None:
        container = guests.container(path)
        await container.start()
        assert thread_name(container) == "a-very-long-nam"
        await container.kill(signal.SIGKILL)
        await container.exit

    in_loop(main())
