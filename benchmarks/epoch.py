"""Three ways to stop a running guest: which costs what, with a thousand of them.

    ./dev bench epoch

All three run the same guests on the same threads, wait in the same shim and are stopped by the same signal; they
differ in whose epoch is bumped and in what a guest then asks:

    own engines    an Engine for each guest: its epoch is bumped, and the guest traps
    Python         one Engine; every running guest asks a callback in Python whether it is meant
    machine code   one Engine; every running guest asks its cell by a few instructions (what the project does)
"""

import asyncio
import collections
import contextlib
import ctypes
import random
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wasmtime

from benchmarks.cpu_group import CpuGroup, available, cpu_group
from benchmarks.density import LOOP_NICE, compile_all, loop_lag, memory, timed_start
from benchmarks.fresh import fresh, quietest
from benchmarks.guests import Guests, engine, in_loop, module_store, set_nice, stop, stop_all
from benchmarks.report import Report, Target, summary
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.protocol import ANYWHERE, Control, Within
from wasm_sandboxer.engine.wasmtime import binding, thunks
from wasm_sandboxer.engine.wasmtime.control import CellControl
from wasm_sandboxer.engine.wasmtime.engine import WasmtimeEngine
from wasm_sandboxer.engine.wasmtime.loading import load_program
from wasm_sandboxer.engine.wasmtime.runtime import Runtime, configuration, own_source
from wasm_sandboxer.guest import Exit, Guest, Stdio

WAYS = {"own": "own engines", "python": "Python callback", "native": "machine code (the project's)"}


def bench(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="wasm-sandboxer-bench-") as root:
        fresh(compile_all, root=root)
        thousand(report, root)
        throttled(report, root)


# ---- a thousand guests ----


def thousand(report: Report, root: str) -> None:
    count = report.rounds(1000, 50)
    rounds = report.rounds(5, 1)
    found: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(fresh(measure_thousand, root=root, way=way, count=count, kills=report.rounds(200, 5)))
    report.table(
        f"{count} guests, of which one in a hundred spins",
        f"the loop at nice {LOOP_NICE}, guests at 0; {rounds} processes of each, times of the least disturbed",
    )
    for way, label in WAYS.items():
        runs = found[way]
        quiet = min(runs, key=lambda run: summary(run["lag"])["p99"])
        target = Target(column="p99", at_most=10) if way == "native" else None
        report.row(f"{label}: starting a guest", quiet["starts"])
        report.row("  memory each (RSS)", [run["rss"] for run in runs], "KiB")
        report.row("  page tables each", [run["page_tables"] for run in runs], "KiB")
        report.row("  mappings each", [run["mappings"] for run in runs], "")
        report.row("  stopping a sleeper", quiet["sleepers"], target=target)
        report.row("  stopping a spinner", quiet["spinners"], target=target)
        report.row("  floor: the loop's own delay at the same time", quiet["lag"])


def measure_thousand(root: str, way: str, count: int, kills: int) -> dict[str, Any]:
    return in_loop(_measure_thousand(root, way, count, kills))


async def _measure_thousand(root: str, way: str, count: int, kills: int) -> dict[str, Any]:
    set_nice(LOOP_NICE)
    guests = guests_by(way, root)
    await stop_all(await guests.start("sleep", "forever", count=3))  # warm
    before, mappings = memory(), _mappings()
    starts: list[float] = []
    spinning = max(1, count // 100)
    sleepers = [await timed_start(guests.container("sleep", "forever"), starts) for _ in range(count - spinning)]
    await asyncio.sleep(0.3)
    found: dict[str, Any] = {name: (kib - before[name]) / len(sleepers) for name, kib in memory().items()}
    found |= {"mappings": (_mappings() - mappings) / len(sleepers), "starts": starts}
    spinners = await guests.start("spin", count=spinning)
    random.shuffle(sleepers)
    samples: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(kills):
        samples["sleepers"].append(await stop(sleepers.pop()))
        samples["spinners"].append(await stop(spinners.pop(0)))
        samples["lag"].append(await loop_lag())
        spinners += await guests.start("spin")
        sleepers += await guests.start("sleep", "forever")
        await asyncio.sleep(0.005)
    await stop_all(sleepers + spinners)
    return {**found, **samples}


def _mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


# ---- the loop's delay beside guests that have used up their quota ----


def throttled(report: Report, root: str) -> None:
    report.table(
        "the loop's delay while eight spinners share a tenth of a CPU and others are stopped",
        "a guest with its quota used up stands where it is; every stop has all of them ask",
    )
    if not available():
        report.note("NOT RUN: it takes root and cgroup v1's cpu controller")
        return
    for way, label in WAYS.items():
        with cpu_group("wasm-sandboxer-bench-pod", quota=0.1) as group:
            arguments = {"way": way, "rounds": report.rounds(300, 10), "folder": str(group.folder)}
            found = quietest(report.rounds(3, 1), "lag", "p50", measure_throttled, root=root, **arguments)
        report.row(f"{label}: the loop's delay", found["lag"])
        report.row("  stopping a sleeper outside the group", found["stops"])


def measure_throttled(root: str, way: str, rounds: int, folder: str) -> dict[str, list[float]]:
    return in_loop(_measure_throttled(root, way, rounds, CpuGroup(folder)))


async def _measure_throttled(root: str, way: str, rounds: int, group: CpuGroup) -> dict[str, list[float]]:
    set_nice(LOOP_NICE)
    guests = guests_by(way, root)
    sleepers = await guests.start("sleep", "forever", count=rounds)
    spinners = await guests.start("spin", count=8)
    for spinner in spinners:
        group.move(spinner.pid)
    await asyncio.sleep(0.5)
    found: dict[str, list[float]] = collections.defaultdict(list)
    for sleeper in sleepers:
        found["stops"].append(await stop(sleeper))
        found["lag"].append(await loop_lag())
        await asyncio.sleep(random.uniform(0.005, 0.015))
    return found  # the process ends, and with it who still spins


# ---- the three ways ----


def guests_by(way: str, root: str) -> Guests:
    """Guests of the examples that are stopped this way."""
    loader = engine(root)
    if way == "python":
        loader.runtime.on_epoch = ON_EPOCH
    guests = Guests(root, "sleep", "spin", loader=loader, nice=0)
    if way == "own":
        guests.programs = {name: OwnEngines(root, program) for name, program in guests.programs.items()}
    return guests


@binding.EpochCallback  # type: ignore[untyped-decorator]
def ON_EPOCH(_context: Any, cell: int, delta: Any, kind: Any) -> int:  # noqa: N802  # a constant: never collected
    """What thunks.py does in machine code, here in Python: every guest that asks takes the GIL."""
    words = (ctypes.c_uint64 * (thunks.CELL_SIZE // 8)).from_address(cell)
    error, words[thunks.CELL_ERROR] = words[thunks.CELL_ERROR], 0
    delta[0], kind[0] = 1, 0
    return error


class OwnEngines:
    """A Program that gives each guest an engine, and whatever belongs to one, of its own."""

    def __init__(self, root: str, program: Any) -> None:
        self._store = module_store(root)
        self._program = program
        self._files = {name: _compiled(root, name) for name in ("trampoline", "shim")}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)

    def control(self, guest: Guest, stdio: Stdio, pool: MemoryPool | None) -> Control:
        """See Program; here with the guest's engine."""
        runtime = Runtime(lambda runtime, name: runtime.load_module(self._files[name]))
        return OwnControl(runtime, stdio, MemoryPool.of_guest(guest.limits.memory, pool))

    def run(
        self, guest: Guest, stdio: Stdio, control: Control, ready: Callable[[], None], within: Within = ANYWHERE
    ) -> Exit:
        """See Program."""
        assert isinstance(control, OwnControl)
        loader = WasmtimeEngine(self._store)
        loader.runtime = control.runtime
        held = self._store.find(self._program.digest)
        assert held is not None
        with contextlib.closing(held):
            program = load_program(loader.runtime, self._program.digest, held)
        return program.run(guest, stdio, control, ready, within)


class OwnControl(CellControl):
    """Stops its guest by the guest's own epoch."""

    def __init__(self, runtime: Runtime, stdio: Stdio, pool: MemoryPool) -> None:
        super().__init__(runtime, stdio, pool)
        self.runtime = runtime

    def guard(self, store: wasmtime.Store) -> None:
        """Have the guest trap at the next epoch."""
        store.set_epoch_deadline(1)

    def stop(self) -> None:
        """See Control."""
        self.stopped = True
        self.runtime.bump_epoch()


_lock = threading.Lock()


def _compiled(root: str, name: str) -> str:
    """A file with one of our own modules, compiled."""
    path = Path(root) / f"{name}.cwasm"
    with _lock:
        if not path.exists():
            path.write_bytes(wasmtime.Module(wasmtime.Engine(configuration()), own_source(name)).serialize())
    return str(path)
