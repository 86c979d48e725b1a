"""A thousand guests in one process: what each costs, how fast they start and stop, what is left of them.

    ./dev bench density

The loop's thread runs at the daemon's priority where that is allowed; guests at 0.
"""

import _thread
import asyncio
import collections
import contextlib
import functools
import gc
import os
import random
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.fresh import fresh, quietest
from benchmarks.guests import Guests, in_loop, set_nice, stop, stop_all
from benchmarks.report import Report, Target, summary
from wasm_sandboxer.core.container import Container
from wasm_sandboxer.executor.thread import STACK_SIZE

LOOP_NICE = -10
_SETTLE = 0.3  # seconds for started guests to reach what they wait in


def bench(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="wasm-sandboxer-bench-") as root:
        fresh(compile_all, root=root)
        sleeping(report, root)
        spinning(report, root)
        leftovers(report, root)


def compile_all(root: str) -> None:
    Guests(root, "sleep", "spin", "hello")


# ---- sleeping guests ----


def sleeping(report: Report, root: str) -> None:
    count = report.rounds(1000, 50)
    found = [fresh(measure_sleeping, root=root, count=count) for _ in range(report.rounds(5, 1))]
    report.table(f"{count} sleeping guests in one process", "a fresh process each time; per guest")
    for measure, label, target in (
        ("rss", "memory, resident (RSS)", Target(column="max", at_most=80)),
        ("pss", "memory, its share (PSS)", Target(column="max", at_most=80)),
        ("page_tables", "page tables, which neither counts", None),
    ):
        report.row(label, [one[measure] for one in found], "KiB", target)
    report.row("  floor: a bare Python thread that waits, RSS", _bare(report, count, "rss"), "KiB")
    report.row("  floor: a bare Python thread that waits, page tables", _bare(report, count, "page_tables"), "KiB")
    report.row("  rival: a process of sleep(1), PSS", _processes(count // 10), "KiB")
    quiet = min(found, key=lambda one: summary(one["floor"])["p99"])
    report.note("times are of the process whose floor was least disturbed")
    report.row("starting them, one after the other", quiet["starts"])
    report.row("  a second", [quiet["rate"]], "1/s")
    report.row("  rival: spawning sleep(1)", _spawns(report.rounds(300, 10)))
    at_most_10 = Target(column="p99", at_most=10)
    report.row("stopping any one of them", quiet["stops"], target=at_most_10)
    report.row("  floor: a bare thread that is released", quiet["floor"])
    report.row("  rival: SIGKILL to a process of sleep(1), until it is reaped", _kills(report.rounds(300, 10)))
    report.row("stopping all that are left, at once, per guest", [quiet["all"]])


def measure_sleeping(root: str, count: int) -> dict[str, Any]:
    return in_loop(_measure_sleeping(root, count))


async def _measure_sleeping(root: str, count: int) -> dict[str, Any]:
    set_nice(LOOP_NICE)
    guests = Guests(root, "sleep", nice=0)
    await stop_all(await guests.start("sleep", "forever", count=3))  # warm
    before = memory()
    begun = time.perf_counter()
    starts: list[float] = []
    running = [await timed_start(guests.container("sleep", "forever"), starts) for _ in range(count)]
    rate = count / (time.perf_counter() - begun)
    await asyncio.sleep(_SETTLE)
    after = memory()
    stops, floor = [], []
    random.shuffle(running)
    for container in running[: count // 3]:
        stops.append(await stop(container))
        floor.append(await _release_thread())
    left = running[count // 3 :]
    begun = time.perf_counter()
    await stop_all(left)
    at_once = (time.perf_counter() - begun) * 1e3 / len(left)
    each = {name: (after[name] - before[name]) / count for name in before}
    return {**each, "starts": starts, "rate": rate, "stops": stops, "floor": floor, "all": at_once}


async def timed_start(container: Container, times: list[float]) -> Container:
    begun = time.perf_counter()
    await container.start()
    times.append((time.perf_counter() - begun) * 1e3)
    return container


async def _release_thread() -> float:
    """Milliseconds from releasing a thread that waits until the loop has heard of its end."""
    loop = asyncio.get_running_loop()
    lock = _thread.allocate_lock()
    lock.acquire()
    ended: asyncio.Future[None] = loop.create_future()
    threading.stack_size(STACK_SIZE)
    _thread.start_new_thread(_wait_and_tell, (lock, loop, ended))
    await asyncio.sleep(0.002)
    begun = time.perf_counter()
    lock.release()
    await ended
    return (time.perf_counter() - begun) * 1e3


def _wait_and_tell(lock: Any, loop: asyncio.AbstractEventLoop, ended: "asyncio.Future[None]") -> None:
    lock.acquire()
    loop.call_soon_threadsafe(ended.set_result, None)


# ---- spinning guests ----


def spinning(report: Report, root: str) -> None:
    rounds = report.rounds(200, 5)
    target = Target(column="p99", at_most=10)
    note = f"the loop's thread at nice {LOOP_NICE}, guests at 0, {len(os.sched_getaffinity(0))} CPUs"
    report.table("stopping one spinner among 100 guests", f"{note}; of three processes the one least disturbed")
    for others in ("sleeping", "spinning"):
        arguments = {"root": root, "rounds": rounds, "others": others}
        found = quietest(report.rounds(3, 1), "lag", "p99", measure_spinning, **arguments)
        report.row(f"a spinner among {others} guests: kill to exit", found["stops"], target=target)
        report.row("  floor: the loop's own delay at the same time", found["lag"])
        report.row(f"  rival: SIGKILL to one of as many processes, {others}", _process_kills(rounds, others))


def measure_spinning(root: str, rounds: int, others: str, count: int = 100) -> dict[str, list[float]]:
    return in_loop(_measure_spinning(root, rounds, others, count))


async def _measure_spinning(root: str, rounds: int, others: str, count: int) -> dict[str, list[float]]:
    set_nice(LOOP_NICE)
    guests = Guests(root, "sleep", "spin", nice=0)
    kind = ("sleep", "forever") if others == "sleeping" else ("spin",)
    running = await guests.start(*kind, count=count - 1)
    found: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(rounds):
        (spinner,) = await guests.start("spin")
        await asyncio.sleep(0.01)
        found["stops"].append(await stop(spinner))
        found["lag"].append(await loop_lag())
    await stop_all(running)
    return found


async def loop_lag() -> float:
    """Milliseconds by which the loop wakes too late from a short sleep."""
    begun = time.perf_counter()
    await asyncio.sleep(0.002)
    return (time.perf_counter() - begun - 0.002) * 1e3


# ---- what is left ----


def leftovers(report: Report, root: str) -> None:
    count, rounds = report.rounds(400, 16), report.rounds(16, 3)
    found = fresh(measure_leftovers, root=root, count=count, rounds=rounds)
    report.table(
        f"what is left after {rounds} rounds of {count} guests",
        "half end by themselves, three eighths sleep until stopped, one eighth spins until stopped",
    )
    nothing = Target(column="max", at_most=0)
    for what in ("threads", "descriptors", "mappings"):
        report.row(f"{what}, beyond those after the second round", found[what], "", nothing)
    slope = found["slope"]
    report.row(
        "memory: RSS gained per guest, over the second half", [slope], "KiB", Target(column="max", at_most=0.1)
    )
    report.row("RSS after each round", [rss / 1024 for rss in found["rss"]], "MiB")


def measure_leftovers(root: str, count: int, rounds: int) -> dict[str, Any]:
    return in_loop(_measure_leftovers(root, count, rounds))


async def _measure_leftovers(root: str, count: int, rounds: int) -> dict[str, Any]:
    set_nice(LOOP_NICE)
    guests = Guests(root, "sleep", "spin", "hello", nice=0)
    seen: dict[str, list[int]] = collections.defaultdict(list)
    for _ in range(rounds):
        running = await guests.start("sleep", "forever", count=3 * count // 8)
        running += await guests.start("hello", count=count // 2)
        running += await guests.start("spin", count=count - len(running))
        await stop_all(running)
        running.clear()
        await asyncio.sleep(_SETTLE)
        gc.collect()
        for what, number in left().items():
            seen[what].append(number)
    base = min(2, rounds - 1)
    beyond = {what: [number - numbers[base - 1] for number in numbers[base:]] for what, numbers in seen.items()}
    late = seen["rss"][rounds // 2 :]
    return {**beyond, "rss": seen["rss"], "slope": _slope(late) / count}


def left() -> dict[str, int]:
    """What this process has: threads, descriptors, mappings, KiB of memory."""
    tasks, files = (sum(1 for _ in Path(f"/proc/self/{what}").iterdir()) for what in ("task", "fd"))
    mappings = len(Path("/proc/self/maps").read_text().splitlines())
    return {"threads": tasks, "descriptors": files, "mappings": mappings, "rss": int(memory()["rss"])}


def _slope(numbers: list[int]) -> float:
    """The line of least squares, per round."""
    middle = (len(numbers) - 1) / 2
    mean = sum(numbers) / len(numbers)
    square = sum((at - middle) ** 2 for at in range(len(numbers)))
    return sum((at - middle) * (number - mean) for at, number in enumerate(numbers)) / (square or 1)


# ---- memory ----


def memory() -> dict[str, float]:
    """KiB of this process: resident, its share, page tables."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    status = Path("/proc/self/status").read_text()
    wanted = {"rss": (rollup, "Rss"), "pss": (rollup, "Pss"), "page_tables": (status, "VmPTE")}
    return {name: _kib(text, line) for name, (text, line) in wanted.items()}


def _kib(text: str, line: str) -> float:
    found = re.search(rf"^{line}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


# ---- floors and rivals ----


def _bare(report: Report, count: int, what: str) -> list[float]:
    return [fresh(measure_bare_threads, count=count)[what] for _ in range(report.rounds(3, 1))]


def measure_bare_threads(count: int) -> dict[str, float]:
    threading.stack_size(STACK_SIZE)
    lock = threading.Lock()
    lock.acquire()
    before = memory()
    for _ in range(count):
        _thread.start_new_thread(lock.acquire, ())
    time.sleep(_SETTLE)
    after = memory()
    return {name: (after[name] - before[name]) / count for name in before}


def _processes(count: int) -> list[float]:
    with contextlib.ExitStack() as undo:
        running = [_sleep_process(undo) for _ in range(count)]
        time.sleep(_SETTLE)
        return [_kib(Path(f"/proc/{one.pid}/smaps_rollup").read_text(), "Pss") for one in running]


def _spawns(rounds: int) -> list[float]:
    with contextlib.ExitStack() as undo:
        return [_timed(lambda: _sleep_process(undo)) for _ in range(rounds)]


def _kills(rounds: int) -> list[float]:
    with contextlib.ExitStack() as undo:
        running = [_sleep_process(undo) for _ in range(rounds)]
        time.sleep(_SETTLE)
        return [_timed(functools.partial(_kill, process)) for process in running]


def _process_kills(rounds: int, others: str) -> list[float]:
    """As measure_spinning, with processes: this one at the loop's priority, those at 0."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.ExitStack() as undo, _as_the_loop(before):
        command = ["sleep", "3600"] if others == "sleeping" else _SPIN
        for _ in range(99):
            _process(command, undo)
        samples = []
        for _ in range(rounds):
            process = _process(_SPIN, undo)
            time.sleep(0.01)
            samples.append(_timed(functools.partial(_kill, process)))
        return samples


_SPIN = ["sh", "-c", "while :; do :; done"]


@contextlib.contextmanager
def _as_the_loop(before: int) -> Iterator[None]:
    set_nice(LOOP_NICE)
    try:
        yield
    finally:
        set_nice(before)


def _sleep_process(undo: contextlib.ExitStack) -> "subprocess.Popen[bytes]":
    return _process(["sleep", "3600"], undo)


def _process(command: list[str], undo: contextlib.ExitStack) -> "subprocess.Popen[bytes]":
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    process = subprocess.Popen(["nice", "-n", str(-nice), *command] if nice else command, stdin=subprocess.DEVNULL)
    undo.callback(_kill, process)
    return process


def _kill(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def _timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return (time.perf_counter() - begun) * 1e3
