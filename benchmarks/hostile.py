"""Guests that mean harm beside one that means well: what it keeps of its speed, and how soon the daemon answers.

    ./dev bench hostile

Every guest has a sandbox of its own with an ordinary share, and all share one processor. The one that means well has
a quota of 40 % of it, less than its half. Its speed is the pieces of work it does in a stretch of time, alone and
beside the other in turns. All the while State, List and Kill (of another guest, until Wait returns) are asked over
the daemon's sockets, without a containerd. Needs root.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wasmtime

from benchmarks.fairness import last_cpu
from benchmarks.fresh import CHECKOUT
from benchmarks.guests import set_nice
from benchmarks.node import OURS, Daemon, daemons
from benchmarks.report import Report, Target
from benchmarks.sandboxes import PERIOD, Guest, Sandboxes, sandboxes
from wasm_sandboxer.rpc.ttrpc import RpcError

GUESTS = Path(__file__).with_name("hostile_guests")
_KEEPS = Target(column="p50", at_least=90)
_ANSWERS = Target(column="max", at_most=50)
_QUOTA = 40  # percent of a processor
_MIB = 1 << 20
_NICE = -15  # the benchmark's own
_RESTART = 0.2  # seconds after which one is killed that does not end by itself


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A guest that means harm: how it is run, and whether it is started again whenever it has ended."""

    what: str
    module: str
    resources: dict[str, Any] = field(default_factory=dict)
    again: int = 0  # how many of it are started and ended side by side
    reader: bool = False  # of its output; without one it stalls
    stdin: bool = False


_LITTLE = {"cpu": {"quota": 1000, "period": 1_000_000}}
_MEMORY = {"memory": {"limit": 256 * _MIB}}
_SMALL_MEMORY = {"memory": {"limit": 64 * _MIB}}
HOSTILES = (
    Hostile(what="spins", module="spin"),
    Hostile(what="takes memory up to 256 MiB, and fills it", module="memory_hog", resources=_MEMORY),
    Hostile(
        what="takes memory, four at once, killed and restarted", module="memory_hog", again=4, resources=_SMALL_MEMORY
    ),
    Hostile(what="grows and fills tables", module="table_hog"),
    Hostile(what="recurses until it traps, restarted", module="recursion", again=2),
    Hostile(what="floods a log that nobody reads", module="flood"),
    Hostile(what="floods a log that is read", module="flood", reader=True),
    Hostile(what="opens files without end", module="open_files"),
    Hostile(what="reads files without end", module="read_files"),
    Hostile(what="reads and polls its stdin without end", module="stdin_abuse", stdin=True),
    Hostile(what="ends at once, ten at a time, restarted", module="quick", again=10),
    Hostile(what="ends at once, ten at a time, with 1 ms a second", module="quick", again=10, resources=_LITTLE),
    Hostile(
        what="computes 1 ms and ends, ten at a time, with 1 ms a second", module="brief", again=10, resources=_LITTLE
    ),
)


def bench(report: Report) -> None:
    with daemons((OURS,)) as (folder, running):
        asyncio.run(_measure(report, running[OURS], folder))


async def _measure(report: Report, daemon: Daemon, folder: Path) -> None:
    set_nice(_NICE)
    rounds, seconds = report.rounds(3, 1), 2.0 if not report.quick else 0.7
    async with sandboxes(daemon, folder / "bundles") as made:
        for path in GUESTS.glob("*.wat"):
            made.bundles.add(f"{path.stem}.wasm", bytes(wasmtime.wat2wasm(path.read_text())))
        alone, asked = [], Answers()
        async with _worker(made) as worker:
            await asyncio.sleep(seconds)
            async with _asking(made, asked):
                alone += [await worker.speed(seconds) for _ in range(rounds)]
        report.table(
            "a guest that means well, alone", f"{rounds} times {seconds:g} s; held to {_QUOTA} % of a processor"
        )
        report.row("pieces of work", alone, "1/s")
        _answers(report, asked, None)
        for hostile in HOSTILES:
            await _beside(report, made, hostile, rounds, seconds)


async def _beside(report: Report, made: Sandboxes, hostile: Hostile, rounds: int, seconds: float) -> None:
    kept, asked = [], Answers()
    before = _holdings(made.daemon.pid)
    async with _worker(made) as worker:
        await asyncio.sleep(seconds)
        for _ in range(rounds):
            alone = await worker.speed(seconds)
            async with _asking(made, asked), _running(made, hostile):
                await asyncio.sleep(0.2)
                kept.append(100 * await worker.speed(seconds) / alone)
                most = _holdings(made.daemon.pid)
    report.table(f"beside one that {hostile.what}", "each in a sandbox of its own, on one processor")
    report.row("speed of the one that means well, of its own alone", kept, "%", _KEEPS)
    _answers(report, asked, _ANSWERS)
    report.row("descriptors of the daemon more than before", [most[0] - before[0]], "")
    report.row("threads of the daemon more than before", [most[1] - before[1]], "")


def _answers(report: Report, asked: "Answers", target: Target | None) -> None:
    for name, took in asked.took.items():
        report.row("Kill of another, until Wait returns" if name == "Kill" else name, took, target=target)


def _holdings(pid: int) -> tuple[int, int]:
    """How many descriptors and threads a process has."""
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208


@dataclass
class Answers:
    """How long answers took, in milliseconds, by what was asked."""

    took: dict[str, list[float]] = field(default_factory=dict)


class Worker:
    """The guest that means well: each piece of its work is a byte of its output."""

    def __init__(self, guest: Guest, output: int) -> None:
        self.guest = guest
        self._done = 0
        asyncio.get_running_loop().add_reader(output, self._count, output)

    async def speed(self, seconds: float) -> float:
        """Pieces of work a second, from now on for so long; judged by when pieces came, not by when we look."""
        begun, before = time.monotonic(), self._done
        await asyncio.sleep(seconds)
        return (self._done - before) / (time.monotonic() - begun)

    def _count(self, output: int) -> None:
        self._done += len(os.read(output, 1 << 12))


@asynccontextmanager
async def _worker(made: Sandboxes) -> AsyncIterator[Worker]:
    sandbox = await made.sandbox(cpuset_cpus=last_cpu(), cpu_shares=1024)
    bounds = {"cpu": {"quota": PERIOD * _QUOTA // 100, "period": PERIOD}}
    guest = await made.guest(sandbox, "/worker.wasm", resources=bounds, fifos=True)
    output = os.open(guest.stdout, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield Worker(guest, output)
    finally:
        asyncio.get_running_loop().remove_reader(output)
        os.close(output)
        await made.remove(sandbox)


@asynccontextmanager
async def _running(made: Sandboxes, hostile: Hostile) -> AsyncIterator[None]:
    """The hostile guest, or so many of it that are started again whenever they have ended."""
    sandbox = await made.sandbox(cpuset_cpus=last_cpu(), cpu_shares=1024)
    options: dict[str, Any] = {
        "resources": hostile.resources,
        "fifos": hostile.reader or hostile.stdin or not hostile.again,
    }
    async with AsyncExitStack() as stack:
        stack.push_async_callback(made.remove, sandbox)
        if hostile.again:
            ending = asyncio.Event()
            again = [_again(made, sandbox, hostile, options, ending) for _ in range(hostile.again)]
            running = asyncio.gather(*again)
            stack.push_async_callback(_finish, running, ending)
        else:
            guest = await made.guest(sandbox, f"/{hostile.module}.wasm", stdin=hostile.stdin, **options)
            if hostile.reader:
                reader = await asyncio.create_subprocess_exec("cat", guest.stdout, stdout=asyncio.subprocess.DEVNULL)
                stack.push_async_callback(reader.wait)
                stack.callback(reader.kill)
        yield


async def _again(
    made: Sandboxes, sandbox: str, hostile: Hostile, options: dict[str, Any], ending: asyncio.Event
) -> None:
    while not ending.is_set():
        guest = await made.guest(sandbox, f"/{hostile.module}.wasm", **options)
        waiting = asyncio.ensure_future(made.tasks.wait(guest.id))
        if not (await asyncio.wait([waiting], timeout=_RESTART))[0]:
            with contextlib.suppress(RpcError):  # it has just ended by itself
                await made.tasks.kill(guest.id)
        await waiting
        await made.tasks.delete(guest.id)


async def _finish(running: "asyncio.Future[Any]", ending: asyncio.Event) -> None:
    ending.set()
    await running


@asynccontextmanager
async def _asking(made: Sandboxes, answers: Answers) -> AsyncIterator[None]:
    """Have another process ask all the while."""
    with tempfile.TemporaryDirectory(prefix="wsq-", dir="/tmp") as folder:
        command = [sys.executable, "-m", "benchmarks.asking", str(made.daemon.task_listen), f"{folder}/bundles"]
        pipe = asyncio.subprocess.PIPE
        asker = await asyncio.create_subprocess_exec(*command, cwd=CHECKOUT, limit=1 << 24, stdin=pipe, stdout=pipe)
        assert asker.stdin is not None
        assert asker.stdout is not None
        await asker.stdout.readline()  # it has begun
        yield
        asker.stdin.close()
        said = await asker.stdout.read()
        await asker.wait()
    for name, took in json.loads(said).items():
        answers.took.setdefault(name, []).extend(took)
