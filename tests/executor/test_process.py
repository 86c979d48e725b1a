"""Guests in processes of their own: children of a real fork server, driven by the core."""

import asyncio
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guests import Guests, content, in_loop, until
from tests.support.processes import Processes, Shell, descriptors, fork_server, gone
from tests.support.wat import STUCK_START
from wasm_sandboxer.engine.wasmtime.engine import WasmtimeEngine
from wasm_sandboxer.errors import ModuleError, Unavailable, WasmSandboxerError
from wasm_sandboxer.executor import assignment
from wasm_sandboxer.forking.client import ForkServer
from wasm_sandboxer.guest import Exit, Limits, Network, Preopen, Reason, Stdio


@pytest.fixture(scope="module")
def forks(engine: WasmtimeEngine) -> Iterator[ForkServer]:
    with fork_server(engine) as server:
        yield server


@pytest.fixture
def processes(guests: Guests, forks: ForkServer) -> Processes:
    return Processes(guests, forks)


# ---- what a guest is and has


def test_a_guest_that_is_paused_before_it_has_a_process_is_held_in_it(processes: Processes) -> None:
    async def main() -> None:
        container = processes.container("hello")
        starting = asyncio.ensure_future(container.start())
        await asyncio.sleep(0)  # it has been asked for
        assert container.pid == 0
        await container.pause()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(starting), 0.5)
        await container.resume()
        await starting
        assert (await container.exit).code == 0

    in_loop(main())


def test_a_component_runs_in_a_process(processes: Processes) -> None:
    ran = processes.run("hello-component", "one", env=(("K", "V"),))
    assert (ran.code, ran.exit.reason, ran.stderr) == (0, Reason.EXITED, "")
    assert ran.lines == ["Hello from a component!", "one", "K=V"]
    assert ran.exit.cpu_time > 0


def test_a_component_that_ends_with_an_error_exits_with_1(processes: Processes) -> None:
    assert processes.run("hello-component", "exit").code == 1


def test_every_process_has_random_numbers_of_its_own(processes: Processes) -> None:
    """Not those that the process they were forked from would have drawn next."""
    found = [processes.run("client", "random", network=Network.HOST).stdout for _ in range(4)]
    assert len({number for number in found if len(number) == 17}) == 4


def test_a_core_module_runs_in_a_process(processes: Processes) -> None:
    ran = processes.run("cat", stdin=b"some input")
    assert (ran.code, ran.stdout, ran.stderr) == (0, b"some input", "")


def test_a_guest_has_its_folders(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    ran = processes.run("cat", "/data/file", preopens=(Preopen(host=tmp_path, guest="/data"),))
    assert (ran.code, ran.stdout) == (0, b"content")


def test_arguments_of_any_size_come_whole(processes: Processes) -> None:
    many = tuple("x" * 1000 for _ in range(500))
    assert processes.run("hello-component", *many).lines[1:] == list(many)


def test_a_trap_is_told_as_on_a_thread(processes: Processes, guests: Guests) -> None:
    here, there = guests.run("trap"), processes.run("trap")
    assert there.exit.reason is Reason.TRAPPED
    assert (there.code, there.exit.message, there.stderr) == (here.code, here.exit.message, here.stderr)


def test_what_cannot_begin_raises_the_engines_own_error(processes: Processes) -> None:
    with pytest.raises(ModuleError, match="its instance could not be made"):
        processes.run("hello", limits=Limits(memory=1 << 16))


# ---- stopping and pausing


def test_a_component_that_waits_in_native_code_is_killed(processes: Processes) -> None:
    async def main() -> tuple[Exit, int]:
        container = processes.container("sleep-component")
        await container.start()
        await asyncio.sleep(0.1)  # it is in its wait
        await container.kill(signal.SIGTERM)
        return await container.exit, container.pid

    end, pid = in_loop(main())
    assert (end.code, end.reason) == (143, Reason.STOPPED)
    assert pid != os.getpid()
    assert gone(pid)


def test_a_guest_is_killed_while_it_begins(processes: Processes, wat: type) -> None:
    path = wat(STUCK_START)

    async def main() -> Exit:
        container = processes.container(path)
        starting = asyncio.ensure_future(container.start())
        await asyncio.sleep(0.2)
        await container.kill(signal.SIGKILL)
        await starting
        return await container.exit

    assert in_loop(main()).code == 137


def test_a_guest_is_killed_before_a_child_has_it(processes: Processes) -> None:
    async def main() -> Exit:
        container = processes.container("sleep-component")
        starting = asyncio.ensure_future(container.start())
        await asyncio.sleep(0)
        await container.kill(signal.SIGKILL)
        await starting
        return await container.exit

    assert in_loop(main()).code == 137


def test_a_paused_guest_uses_no_processor_and_dies_when_it_is_told(processes: Processes) -> None:
    async def main() -> tuple[float, float, float, Exit]:
        container = processes.container("spin")
        await container.start()
        await container.pause()
        await asyncio.sleep(0.05)
        before = container.cpu_time()
        await asyncio.sleep(0.2)
        paused = container.cpu_time() - before
        await container.resume()
        await asyncio.sleep(0.2)
        running = container.cpu_time() - before
        await container.pause()
        await container.kill(signal.SIGKILL)
        return before, paused, running, await container.exit

    _, paused, running, end = in_loop(main())
    assert paused < 0.01 < running
    assert (end.code, end.reason) == (137, Reason.STOPPED)
    assert end.cpu_time >= running


@pytest.mark.parametrize(
    ("number", "code", "reason", "said"),
    [
        (signal.SIGKILL, 137, Reason.STOPPED, ""),
        (signal.SIGABRT, 134, Reason.TRAPPED, "its process was ended by signal 6"),
    ],
)
def test_a_process_that_somebody_else_ends_is_no_riddle(
    processes: Processes, number: int, code: int, reason: Reason, said: str
) -> None:
    async def main() -> Exit:
        container = processes.container("sleep-component")
        await container.start()
        os.kill(container.pid, number)
        return await container.exit

    end = in_loop(main())
    assert (end.code, end.reason, end.message) == (code, reason, said)


# ---- the fork server's own end


def test_the_death_of_the_fork_server_ends_its_guests_and_no_more(engine: WasmtimeEngine, guests: Guests) -> None:
    async def main(processes: Processes) -> tuple[Exit, bool, Exit]:
        container = processes.container("sleep-component")
        await container.start()
        os.kill(processes.forks.pid, signal.SIGKILL)
        first = await container.exit
        left = not gone(container.pid)
        again = processes.container("hello-component")
        await again.start()
        return first, left, await again.exit

    with fork_server(engine) as forks:
        end, left, again = in_loop(main(Processes(guests, forks)))
    assert (end.code, end.reason) == (137, Reason.FAILED)
    assert "ended with the fork server, which died" in end.message
    assert not left
    assert again.code == 0


def test_fifty_starts_work_or_fail_with_one_line_while_the_fork_server_dies(
    engine: WasmtimeEngine, guests: Guests
) -> None:
    async def start(processes: Processes, number: int) -> str:
        container = processes.container("hello-component", str(number))
        try:
            await container.start()
        except WasmSandboxerError as error:
            return f"failed: {error}"
        end = await container.exit
        return "ended" if end.code == 0 else f"killed: {end.message}"

    async def main(processes: Processes) -> list[str]:
        starting = [asyncio.ensure_future(start(processes, number)) for number in range(50)]
        await until(lambda: sum(each.done() for each in starting) >= 10)
        os.kill(processes.forks.pid, signal.SIGKILL)
        return await asyncio.gather(*starting)

    with fork_server(engine) as forks:
        processes = Processes(guests, forks)
        told = in_loop(main(processes))
        assert processes.run("hello-component").code == 0
    assert told.count("ended") >= 10
    for each in told:
        assert each == "ended" or ("fork server" in each and "\n" not in each), each


def test_nothing_is_left_of_a_hundred_guests(processes: Processes) -> None:
    async def run() -> None:
        container = processes.container("hello-component")
        await container.start()
        await container.exit

    async def main() -> tuple[set[str], set[str]]:
        await run()
        before = descriptors()
        for _ in range(10):
            await asyncio.gather(*(run() for _ in range(10)))
        return before, descriptors()

    before, after = in_loop(main())
    assert after == before
    server = processes.forks.pid
    children = Path(f"/proc/{server}/task/{server}/children")
    in_loop(until(lambda: len(children.read_text().split()) <= 1))  # the spare one
    assert len(list(Path(f"/proc/{server}/fd").iterdir())) < 15


# ---- native commands


def test_a_native_command_runs_a_guest(processes: Processes, tmp_path: Path) -> None:
    program = Shell('read line; echo "$0 $1 $line $K $FOLDER0"; echo oops >&2; exit 7')
    ran = processes.run(
        program, "one", stdin=b"in\n", env=(("K", "V"),), preopens=(Preopen(host=tmp_path, guest="/data"),)
    )
    assert (ran.code, ran.stdout.decode(), ran.stderr) == (7, f"external one in V {tmp_path}\n", "oops\n")


def test_a_native_command_has_its_descriptors_and_no_others(processes: Processes, guests: Guests) -> None:
    one, two = guests.file(b"first"), guests.file(b"second")
    program = Shell("cat <&3; cat <&4; ls /proc/self/fd | wc -l", descriptors=(one, two))
    assert processes.run(program).stdout.split(b"\n")[0] == b"firstsecond6"  # and the one that ls has of the folder


def test_a_native_command_is_held_to_its_memory(processes: Processes) -> None:
    allocate = "exec /usr/bin/env python3 -c 'bytearray(300 << 20); print(1)'"
    path = (("PATH", os.environ["PATH"]),)
    assert processes.run(Shell(allocate), env=path).code == 0
    assert processes.run(Shell(allocate, data=100 << 20), env=path).code != 0


def test_a_native_command_without_streams_has_empty_ones(processes: Processes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f"readlink /proc/self/fd/0 /proc/self/fd/2 > {out}"

    async def main() -> Exit:
        container = processes.container(Shell(script))
        await container.start()
        return await container.exit

    assert in_loop(main()).code == 0
    assert out.read_text().split() == ["/dev/null", "/dev/null"]


def test_a_native_command_is_killed_with_all_it_has_started(processes: Processes, guests: Guests) -> None:
    out = guests.file()

    async def main() -> Exit:
        container = processes.container(Shell("sleep 600 & echo $!; wait"), stdio=Stdio(stdout=out))
        await container.start()
        await until(lambda: content(out))
        await container.kill(signal.SIGTERM)
        return await container.exit

    end = in_loop(main())
    assert (end.code, end.reason) == (143, Reason.STOPPED)
    inner = int(content(out))
    in_loop(until(lambda: gone(inner)))


def test_a_signal_of_a_native_commands_own_is_for_the_program_to_explain(processes: Processes) -> None:
    end = processes.run(Shell("kill -ABRT $$")).exit
    assert (end.code, end.message) == (134, "killed by itself: 134")


def test_a_native_command_that_is_not_there_fails_the_start(processes: Processes) -> None:
    with pytest.raises(Unavailable, match="cannot execute /no/such/program: No such file or directory"):
        processes.run(Shell("", executable="/no/such/program"))


# ---- what a child may say


@pytest.mark.parametrize(
    "message",
    [
        b"", b"\xff", b"{", b"[]", b"null", b'{"what": "ended"}', b'{"what": "ended", "code": "0"}',
        b'{"what": "ended", "code": 0, "reason": "unheard-of", "message": "", "peak_memory": 0}',
        b'{"what": "failed", "kind": 1, "message": ""}', b"[" * 100_000,
        b'{"what": "ended", "code": 0, "reason": "exited", "message": "", "peak_memory": 1e300}',
        b'{"what": "ended", "code": 0, "reason": "exited", "message": "", "peak_memory": 1180591620717411303424}',
        b'{"what": "ended", "code": 0, "reason": "exited", "message": "", "peak_memory": -1}',
    ],
)  # fmt: skip
def test_nonsense_of_a_childs_is_no_more_than_that(message: bytes) -> None:
    with pytest.raises(ValueError):
        assignment.read(message)


def test_a_child_cannot_name_a_class_of_its_own_choice() -> None:
    told = assignment.read(b'{"what": "failed", "kind": "annotations", "message": "no"}')
    assert (type(told), str(told)) == (WasmSandboxerError, "no")


def test_half_a_surrogate_pair_is_told_on_as_text() -> None:
    told = assignment.read(b'{"what": "failed", "kind": "Unavailable", "message": "a\\ud800b"}')
    assert (type(told), str(told)) == (Unavailable, "a?b")


def test_a_start_fails_that_runs_out_of_descriptors_while_it_would_wait(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise BlockingIOError

    def full(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(processes.forks, "begin", busy)
    stdin = processes.guests.file()

    async def main() -> None:
        container = processes.container("hello-component", stdio=Stdio(stdin=stdin))
        monkeypatch.setattr(os, "dup", full)
        await asyncio.wait_for(container.start(), 10)

    with pytest.raises(WasmSandboxerError, match="Too many open files"):
        in_loop(main())
