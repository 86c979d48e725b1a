"""Stopping and pausing a guest whatever it does, and nobody but it."""

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import PATIENCE
from tests.support.guests import Guests, content, in_loop, until
from tests.support.modules import wasi
from wasm_sandboxer.core.container import Container
from wasm_sandboxer.guest import Reason, Stdio
from wasm_sandboxer.lifecycle import State

AT_ONCE = PATIENCE / 30  # a benchmark holds what a stop really takes
DOING = {
    "spinning": ("spin",),
    "sleeping": ("sleep", "forever"),
    "sleeping till a time": ("poll", "abs", "100000"),
    "sleeping till a time of day": ("poll", "realtime-abs", "100000"),
    "polling stdin": ("poll", "stdin", "100000"),
    "reading stdin": ("cat",),
    "writing into a full pipe": ("flood",),
}
RANDOM = f"""(module {wasi("random_get")} (memory (export "memory") 32768)
  (func (export "_start") (loop (drop (call $random_get (i32.const 0) (i32.const 2147483647))) (br 0))))"""
RECURSION = """(module (func $deeper (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (call $deeper (i32.sub (local.get 0) (i32.const 1)))
                     (call $deeper (i32.sub (local.get 0) (i32.const 1)))))
      (else (i32.const 1))))
  (func (export "_start") (drop (call $deeper (i32.const 100)))))"""
FILLING = """(module (memory 4096) (func (export "_start")
  (loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x10000000)) (br 0))))"""
POLLING = f"""(module {wasi("poll_oneoff")} (memory (export "memory") 1)
  (func (export "_start") (loop (drop (call $poll_oneoff
    (i32.const 0) (i32.const 1024) (i32.const 1) (i32.const 2048))) (br 0))))"""

# Guests that are woken without a pause until their threads are gone: what is killed under load is, now and then.
WOKEN = """
import asyncio, sys, threading
from pathlib import Path
from tests.support.cli import example
from tests.support.guests import new_engine
from wasm_sandboxer.core.container import Container
from wasm_sandboxer.engine.source import read_source
from wasm_sandboxer.executor.thread import WAKE_SIGNAL, ThreadExecutor
from wasm_sandboxer.guest import Guest, Stdio
from wasm_sandboxer.linux.syscall import signal_thread

def wake(tid):
    while signal_thread(tid, WAKE_SIGNAL):
        pass

async def main():
    program, executor = new_engine(Path(sys.argv[1])).load(read_source(example("hello"))), ThreadExecutor()
    for _ in range(200):
        container = Container("woken", program, Guest(module=Path("hello"), argv=("hello",)), Stdio(), executor)
        await container.start()
        waker = threading.Thread(target=wake, args=(container.pid,))
        waker.start()
        await container.exit
        waker.join()

asyncio.run(main())
"""


class Started:
    """A guest that does what its name says, with pipes that nobody else reads or writes."""

    def __init__(self, guests: Guests, module: str | Path, *arguments: str) -> None:
        self.stdin, self._feed = guests.pipe()
        self._drain, self.stdout = guests.pipe()
        stdio = Stdio(stdin=self.stdin, stdout=self.stdout)
        self.container = guests.container(module, *arguments, stdio=stdio)

    async def begin(self) -> Container:
        await self.container.start()
        await asyncio.sleep(0.02)
        return self.container


async def stop(container: Container) -> float:
    """Kill it; the seconds until it has ended."""
    begun = time.monotonic()
    await container.kill(signal.SIGTERM)
    end = await container.exit
    assert (end.code, end.reason, end.message) == (143, Reason.STOPPED, "")
    return time.monotonic() - begun


@pytest.mark.parametrize("doing", DOING)
def test_a_guest_is_stopped_whatever_it_does(guests: Guests, doing: str) -> None:
    async def main() -> None:
        assert await stop(await Started(guests, *DOING[doing]).begin()) < AT_ONCE

    in_loop(main())


def test_stopping_many_tells_pythons_signal_handling_nothing(guests: Guests) -> None:
    """Each byte in the loop's wake-up socket is one that a SIGTERM may find no room for."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)

    async def main() -> None:
        containers = [guests.container("sleep", "forever") for _ in range(30)]
        for container in containers:
            await container.start()
        before = signal.set_wakeup_fd(theirs.fileno())
        try:
            await asyncio.gather(*(stop(container) for container in containers))
        finally:
            signal.set_wakeup_fd(before)
        with pytest.raises(BlockingIOError):
            ours.recv(1)

    with ours, theirs:
        in_loop(main())


@pytest.mark.parametrize("text", [RANDOM, RECURSION, FILLING, POLLING], ids=["random", "recursion", "fill", "poll"])
def test_a_guest_of_a_hostile_kind_is_stopped(guests: Guests, wat: Callable[..., Path], text: str) -> None:
    path = wat(text)

    async def main() -> None:
        assert await stop(await Started(guests, path).begin()) < AT_ONCE

    in_loop(main())


@pytest.mark.parametrize("doing", DOING)
def test_a_guest_is_stopped_as_soon_as_it_begins(guests: Guests, doing: str) -> None:
    async def main() -> None:
        started = Started(guests, *DOING[doing])
        await started.container.start()
        assert await stop(started.container) < AT_ONCE

    in_loop(main())


def test_a_component_that_runs_is_stopped(guests: Guests, tmp_path: Path) -> None:
    path = tmp_path / "spin.wat"
    path.write_text(
        """(component
          (core module $m (func (export "run") (result i32) (loop (br 0)) (i32.const 0)))
          (core instance $i (instantiate $m))
          (func $run (result (result)) (canon lift (core func $i "run")))
          (instance $r (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $r)))"""
    )

    async def main() -> None:
        assert await stop(await Started(guests, path).begin()) < AT_ONCE

    in_loop(main())


def test_stopping_one_disturbs_no_other(guests: Guests) -> None:
    async def main() -> None:
        others = [Started(guests, *command) for command in DOING.values()]
        for other in others:
            await other.begin()
        counting = guests.container("spin", "0.5", stdio=Stdio(stdout=guests.file()))
        await counting.start()
        for _ in range(20):
            await stop(await Started(guests, "spin").begin())
        assert [other.container.state for other in others] == [State.RUNNING] * len(others)
        assert (await counting.exit).code == 0
        for other in others:
            await stop(other.container)

    in_loop(main())


def test_many_are_stopped_at_once(guests: Guests) -> None:
    async def main() -> None:
        running = [Started(guests, *command).container for command in list(DOING.values()) * 5]
        await asyncio.gather(*(container.start() for container in running))
        begun = time.monotonic()
        await asyncio.gather(*(stop(container) for container in running))
        assert time.monotonic() - begun < 5 * AT_ONCE

    in_loop(main())


def test_what_was_written_before_a_stop_is_kept(guests: Guests) -> None:
    out = guests.file()

    async def main() -> None:
        container = guests.container("memhog", "1", "1", "hold", stdio=Stdio(stdout=out))
        await container.start()
        await until(lambda: content(out))
        await stop(container)

    in_loop(main())
    assert content(out) == b"1 MiB\n"


def test_a_full_pipe_that_is_read_again_lets_the_guest_go_on(guests: Guests) -> None:
    read, write = guests.pipe()
    room = fcntl.fcntl(write, fcntl.F_GETPIPE_SZ)

    async def main() -> None:
        container = guests.container("flood", str(room * 3), stdio=Stdio(stdout=write))
        await container.start()
        await asyncio.sleep(0.02)
        assert container.state is State.RUNNING
        got = 0
        os.set_blocking(read, False)
        while got < room * 3:
            try:
                got += len(os.read(read, 1 << 16))
            except BlockingIOError:
                await asyncio.sleep(0.001)
        assert (await container.exit).code == 0

    in_loop(main())


# --- pausing


async def stands_still(container: Container) -> bool:
    """Whether its CPU time does, once it has had time to come to a stop."""
    await asyncio.sleep(0.05)
    before = container.cpu_time()
    await asyncio.sleep(0.2)
    return container.cpu_time() == before


@pytest.mark.parametrize("doing", DOING)
def test_a_paused_guests_cpu_time_stands_still(guests: Guests, doing: str) -> None:
    async def main() -> None:
        container = await Started(guests, *DOING[doing]).begin()
        await container.pause()
        assert await stands_still(container)
        await container.resume()
        await stop(container)

    in_loop(main())


def test_a_resumed_spinner_spins_on(guests: Guests) -> None:
    async def main() -> None:
        container = await Started(guests, "spin").begin()
        for _ in range(3):
            await container.pause()
            await container.resume()
            before = container.cpu_time()
            await until(lambda before=before: container.cpu_time() > before)
        await container.pause()
        assert await stands_still(container)
        assert await stop(container) < AT_ONCE

    in_loop(main())


@pytest.mark.parametrize("doing", DOING)
def test_a_paused_guest_is_stopped(guests: Guests, doing: str) -> None:
    async def main() -> None:
        container = await Started(guests, *DOING[doing]).begin()
        await container.pause()
        await asyncio.sleep(0.02)
        assert await stop(container) < AT_ONCE

    in_loop(main())


def test_a_sleeper_whose_time_comes_while_it_is_paused_ends_after_it(guests: Guests) -> None:
    async def main() -> None:
        container = guests.container("sleep", "0.05")
        await container.start()
        await container.pause()
        await asyncio.sleep(0.2)
        assert (container.state, container.exit.done()) == (State.PAUSED, False)
        await container.resume()
        assert (await container.exit).code == 0

    in_loop(main())


def test_input_that_comes_while_a_guest_is_paused_waits_for_it(guests: Guests) -> None:
    async def main() -> None:
        started = Started(guests, "cat")
        container = await started.begin()
        await container.pause()
        os.write(started._feed, b"late")
        await asyncio.sleep(0.05)
        os.set_blocking(started._drain, False)
        with pytest.raises(BlockingIOError):
            os.read(started._drain, 10)
        await container.resume()
        os.set_blocking(started._drain, True)
        assert await asyncio.to_thread(os.read, started._drain, 10) == b"late"
        await stop(container)

    in_loop(main())


def test_pausing_one_holds_no_other(guests: Guests) -> None:
    async def main() -> None:
        one, other = Started(guests, "spin"), Started(guests, "spin")
        for started in (one, other):
            await started.begin()
        await one.container.pause()
        before = other.container.cpu_time()
        assert await stands_still(one.container)
        assert other.container.cpu_time() > before
        for started in (one, other):
            await stop(started.container)

    in_loop(main())


def test_a_signal_that_comes_when_the_thread_is_ending_harms_nobody(store_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WOKEN, store_root], cwd=Path(__file__).parents[2], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
