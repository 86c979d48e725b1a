"""Guests in processes of their own: children of a real fork server, driven by the core."""

import asyncio
import errno
import os
import re
import resource
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.guests import Guests, content, in_loop, until
from tests.support.proc import gone, links
from tests.support.processes import Processes, Shell, descriptors, fork_server
from tests.support.wat import STUCK_START
from wasm_sandboxer.core.container import Container
from wasm_sandboxer.engine.wasmtime.engine import WasmtimeEngine
from wasm_sandboxer.errors import InvalidArgument, OutOfMemory, Unavailable, WasmSandboxerError
from wasm_sandboxer.executor import words
from wasm_sandboxer.executor.confinement import Confinement
from wasm_sandboxer.executor.process import ProcessExecutor
from wasm_sandboxer.forking.client import ForkServer
from wasm_sandboxer.guest import Exit, Guest, Limits, Network, Preopen, Reason, Stdio
from wasm_sandboxer.linux import seccomp
from wasm_sandboxer.linux.privileges import Privileges


@pytest.fixture(scope="module")
def forks(engine: WasmtimeEngine) -> Iterator[ForkServer]:
    with fork_server(engine) as server:
        yield server


@pytest.fixture
def processes(guests: Guests, forks: ForkServer) -> Processes:
    return Processes(guests, forks)


# ---- what a guest is and has


def test_a_guest_that_is_paused_before_it_has_a_process_is_held_in_it(processes: Processes) -> None:
    async def main() -> tuple[float, Exit]:
        container = processes.container("spin")
        starting = asyncio.ensure_future(container.start())
        await asyncio.sleep(0)  # it has been asked for
        assert container.pid == 0
        await container.pause()
        await until(lambda: container.pid and ") T " in Path(f"/proc/{container.pid}/stat").read_text())
        before = container.cpu_time()
        await asyncio.sleep(0.2)
        used = container.cpu_time() - before
        await container.resume()
        await starting
        await container.kill(signal.SIGKILL)
        return used, await container.exit

    used, end = in_loop(main())
    assert used == 0
    assert end.code == 137


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


@pytest.mark.parametrize("module", ["hello-component", "hello"])
def test_a_folder_that_is_not_there_is_named(processes: Processes, module: str, tmp_path: Path) -> None:
    folder = Preopen(host=tmp_path / "none", guest="/data")
    what = f"cannot open the directory {folder.host} for the guest's /data: No such file or directory"
    with pytest.raises(InvalidArgument, match=f"^{re.escape(what)}$"):
        processes.run(module, preopens=(folder,))


@pytest.mark.parametrize("module", ["hello-component", "hello"])
def test_what_a_process_cannot_enter_is_named(processes: Processes, module: str) -> None:
    guest = Guest(module=Path(module), argv=(module,))

    async def main(network: int) -> None:
        executor = ProcessExecutor(processes.forks).within(Confinement(guest=guest, network=network))
        await Container(module, processes.guests.program(module), guest, Stdio(), executor).start()

    with Path("/dev/null").open() as file, pytest.raises(WasmSandboxerError) as raised:
        in_loop(main(file.fileno()))
    assert str(raised.value) == "cannot set its process up: setns: Invalid argument"


RUNAWAY = """(module
  (memory (export "memory") 1)
  (func (export "_start") (call $f))
  (func $f (@name "NAME") (call $f)))"""


@pytest.mark.parametrize(
    "name",
    ["a" * 9000, "a" * 30_000, r"\n" * 30_000, " " * 30_000, r"\nCaused by:\n" * 2000],
    ids=lambda name: name[:9],
)
def test_a_long_report_of_a_trap_is_told_at_once(processes: Processes, wat: type, name: str) -> None:
    module = wat(RUNAWAY.replace("NAME", name))
    begun = time.process_time()
    ran = processes.run(module)
    assert time.process_time() - begun < 2  # seconds of this process, which stands for the daemon
    assert (ran.code, ran.exit.reason) == (134, Reason.TRAPPED)
    assert ran.stderr.startswith("wasm-sandboxer: ")
    if len(name) < 10_000:
        assert "call stack exhausted" in ran.exit.message


@pytest.mark.parametrize("size", [1 << 10, 100 << 10, 300 << 10, 2 << 20])
def test_what_a_guest_is_given_may_be_long(processes: Processes, size: int) -> None:
    server = processes.forks.pid
    ran = processes.run("hello-component", env=(("K", "V" * size),))
    assert (ran.code, len(ran.stdout) > size, processes.forks.pid) == (0, True, server)


@pytest.mark.usefixtures("superuser")
@pytest.mark.parametrize(("module", "code"), [("hello", 0), ("hello-component", 0), ("trap", 134)])
@pytest.mark.parametrize("refused", ["sendmsg", "recvfrom", "getppid"])
def test_a_filter_does_not_keep_the_end_from_being_told(
    processes: Processes, module: str, code: int, refused: str
) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [refused], "action": "SCMP_ACT_ERRNO"}]}
    guest = Guest(module=Path(module), argv=(module,))
    privileges = Privileges(seccomp=seccomp.compile_profile(profile))

    async def main() -> Exit:
        executor = ProcessExecutor(processes.forks).within(Confinement(guest=guest, privileges=privileges))
        container = Container(module, processes.guests.program(module), guest, Stdio(), executor)
        await container.start()
        return await container.exit

    end = in_loop(main())
    assert (end.code, end.reason) == (code, Reason.TRAPPED if code else Reason.EXITED)


@pytest.mark.usefixtures("superuser")
def test_a_filter_that_refuses_to_close_leaves_nothing_open(processes: Processes) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["close_range"], "action": "SCMP_ACT_ERRNO"}, {"names": ["getpid"], "action": "SCMP_ACT_KILL"},
    ]}  # fmt: skip
    guest = Guest(module=Path("sleep-component"), argv=("sleep-component",))
    privileges = Privileges(seccomp=seccomp.compile_profile(profile))

    async def main() -> dict[int, str]:
        executor = ProcessExecutor(processes.forks).within(Confinement(guest=guest, privileges=privileges))
        container = Container("sleep", processes.guests.program("sleep-component"), guest, Stdio(), executor)
        await container.start()
        found = links(container.pid)
        await container.kill(signal.SIGKILL)
        await container.exit
        return found

    found = {number: link for number, link in in_loop(main()).items() if number > 2 and "eventpoll" not in link}
    its_own = [link for number, link in found.items() if link.startswith("socket:")]
    assert len(its_own) == 1  # for what it tells
    assert [link for link in found.values() if link not in its_own and "eventfd" not in link] == []


def test_much_data_is_there_at_the_start(processes: Processes, wat: type) -> None:
    """As an image that is mapped, where the memory is made without Python."""
    module = wat(f"""(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 4)
      (data (i32.const 1024) "{"x" * 100_000}the end")
      (func (export "_start")
        (i32.store (i32.const 0) (i32.const {1024 + 100_000}))
        (i32.store (i32.const 4) (i32.const 7))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))""")
    ran = processes.run(module)
    assert (ran.code, ran.stdout) == (0, b"the end")


def test_arguments_of_any_size_come_whole(processes: Processes) -> None:
    many = tuple("x" * 1000 for _ in range(500))
    assert processes.run("hello-component", *many).lines[1:] == list(many)


def test_a_trap_is_told_as_on_a_thread(processes: Processes, guests: Guests) -> None:
    here, there = guests.run("trap"), processes.run("trap")
    assert there.exit.reason is Reason.TRAPPED
    assert (there.code, there.exit.message, there.stderr) == (here.code, here.exit.message, here.stderr)


def test_what_cannot_begin_raises_the_engines_own_error(processes: Processes) -> None:
    with pytest.raises(OutOfMemory, match="its instance could not be made"):
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


def test_the_death_of_the_mould_ends_nobody_and_another_is_made(processes: Processes) -> None:
    async def main() -> tuple[list[Exit], Exit]:
        before = processes.container("sleep-component")
        await before.start()
        ends = []
        for _ in range(5):
            os.kill(mould_of(processes.forks), signal.SIGKILL)
            starting = [processes.container("hello-component") for _ in range(4)]
            await asyncio.gather(*(each.start() for each in starting))
            ends += [await each.exit for each in starting]
        assert not before.exit.done()
        await before.kill(signal.SIGKILL)
        return ends, await before.exit

    ends, end = in_loop(main())
    assert [each.code for each in ends] == [0] * 20
    assert end.code == 137


def mould_of(forks: ForkServer) -> int:
    found = Path(f"/proc/{forks.pid}/task/{forks.pid}/children").read_text().split()
    return next(int(pid) for pid in found if "wasm-mould" in Path(f"/proc/{pid}/comm").read_text())


def test_a_fork_server_without_descriptors_refuses_and_lives_on(engine: WasmtimeEngine, guests: Guests) -> None:
    with fork_server(engine) as forks:
        processes, server = Processes(guests, forks), forks.pid
        assert processes.run("hello-component").code == 0
        resource.prlimit(server, resource.RLIMIT_NOFILE, (48, 48))

        async def main() -> tuple[int, set[str], list[int]]:
            running, refused = [], set()
            for _ in range(40):
                container = processes.container("sleep-component")
                try:
                    await container.start()
                    running.append(container)
                except Unavailable as error:
                    refused.add(str(error).rpartition(": ")[2])
            assert all(not each.exit.done() for each in running)
            for each in running:
                await each.kill(signal.SIGKILL)
            return len(running), refused, [(await each.exit).code for each in running]

        count, refused, codes = in_loop(main())
        assert 5 < count < 40
        assert refused == {"Too many open files"}
        assert codes == [137] * count
        assert processes.run("hello-component").code == 0
        assert forks.pid == server


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
    in_loop(until(lambda: len(children.read_text().split()) <= 2))  # the mould and the spare one
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
        b"\2", struct.pack("=B3xIQQ", 2, 0, 1 << 60, 0), struct.pack("=B3xIQQ", 3, 0, 1 << 60, 0) + b"trap",
        struct.pack("=B3xIQQ", 7, 0, 0, 0),
    ],
)  # fmt: skip
def test_nonsense_of_a_childs_is_no_more_than_that(message: bytes) -> None:
    with pytest.raises(ValueError):
        words.read(message)


def test_words_without_python_are_made_sentences_of() -> None:
    def read(what: int, code: int, first: int = 0, second: int = 0, text: bytes = b"") -> Any:
        return words.read(struct.pack("=B3xIQQ", what, code, first, second) + text)

    assert read(1, 0) is None
    assert read(2, 7, 65536) == Exit(code=7, reason=Reason.EXITED, peak_memory=65536)
    trapped = b"error\n\nCaused by:\n    wasm trap: wasm `unreachable` instruction executed"
    assert read(3, 0, 1 << 20, 0, trapped).reason is Reason.TRAPPED
    ended = read(3, 0, 1 << 20, 1, trapped)
    assert (ended.code, ended.reason, ended.peak_memory) == (137, Reason.OUT_OF_MEMORY, 1 << 20)
    assert str(read(4, 0, 0, 0, b"no such import\nmore\0")) == "its instance could not be made: no such import"
    assert isinstance(read(4, 0, 0, 1, b"GC heap out of memory\0"), OutOfMemory)
    assert read(4, 0, 4711).size == 4711
    told = read(5, errno.ENOENT, 0, 0, b"cannot open the directory /a")
    assert (type(told), str(told)) == (InvalidArgument, "cannot open the directory /a: No such file or directory")
    told = read(6, 0xFFFFFFFF, 0, 0, b"setns\xff")
    assert str(told).startswith("cannot set its process up: setns\ufffd: Unknown error")


def test_a_child_cannot_name_a_class_of_its_own_choice() -> None:
    told = words.read(b'{"what": "failed", "kind": "annotations", "message": "no"}')
    assert (type(told), str(told)) == (WasmSandboxerError, "no")


def test_half_a_surrogate_pair_is_told_on_as_text() -> None:
    told = words.read(b'{"what": "failed", "kind": "Unavailable", "message": "a\\ud800b"}')
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
