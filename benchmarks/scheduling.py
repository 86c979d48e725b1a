"""How long a spinning guest takes to die, and how late the loop wakes, by who gets the processor.

    ./dev bench scheduling

A hundred guests spin on few CPUs. A killed one must run a little to die: to find its error, to unwind, to free
its store. So the time it takes is the time until the kernel lets it run, which is what is varied here.
"""

import asyncio
import collections
import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks.cpu_group import CpuGroup, available, cpu_group
from benchmarks.density import compile_all, loop_lag
from benchmarks.fresh import fresh
from benchmarks.guests import Guests, Prepared, in_loop, set_nice, stop
from benchmarks.report import Report, Target
from wasm_sandboxer.executor import thread

SPINNERS = 100
_BATCH = 20  # guests killed one by one before as many are started
_LONGEST = 8.0  # seconds for one variant
_PODS = "wasm-sandboxer-bench-pods"
_TARGET = Target(column="p99", at_most=10)


def bench(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="wasm-sandboxer-bench-") as root:
        fresh(compile_all, root=root)
        priorities(report, root)
        groups(report, root)
        python_in_groups(report, root)


# What is done for a guest that has been told to stop, after the epoch was bumped: given its thread's id and the
# loop's group.


def nothing(_tid: int, _ours: CpuGroup) -> None:
    pass


def raised(tid: int, _ours: CpuGroup) -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, tid, -20)


def fifo(tid: int, _ours: CpuGroup) -> None:
    with contextlib.suppress(OSError):  # the kernel refuses it in a group without a real-time budget
        os.sched_setscheduler(tid, os.SCHED_FIFO, os.sched_param(1))


def fetched(tid: int, ours: CpuGroup) -> None:
    ours.move(tid)


def fetched_and_raised(tid: int, ours: CpuGroup) -> None:
    fetched(tid, ours)
    raised(tid, ours)


def fetched_and_fifo(tid: int, ours: CpuGroup) -> None:
    fetched(tid, ours)
    fifo(tid, ours)


LAST_HELP: dict[str, Callable[[int, CpuGroup], None]] = {
    "nothing": nothing,
    "nice -20": raised,
    "SCHED_FIFO": fifo,
    "to the loop's group": fetched,
    "to the loop's group, nice -20": fetched_and_raised,
    "to the loop's group, SCHED_FIFO": fetched_and_fifo,
}


# ---- priorities ----


def priorities(report: Report, root: str) -> None:
    report.table(
        f"{SPINNERS} spinning guests on {len(os.sched_getaffinity(0))} CPUs, no groups: killing one",
        "by the loop's nice, the guests' nice, and what is done for the dying one after its epoch was bumped",
    )
    kills = report.rounds(60, 5)
    for loop_nice in (0, -10, -20):
        for guest_nice in (0, 5, 10, 19) if not report.quick else (0,):
            label = f"loop {loop_nice}, guests {guest_nice}"
            for last_help in ("nothing", "nice -20", "SCHED_FIFO"):
                variant = {"loop_nice": loop_nice, "guest_nice": guest_nice, "last_help": last_help}
                found = fresh(measure, root=root, kills=kills, **variant)
                report.row(f"{label}, {last_help}: kill to exit", found["stops"], target=_TARGET)
            report.row(f"{label}: the loop's own delay", found["lag"])
            report.row(f"{label}: starting one more", found["starts"])


# ---- groups ----

SHAPES: dict[str, dict[str, Any]] = {
    "all in one group": {"count": 1},
    "all in one group of 0.2 CPU": {"count": 1, "quota": 0.2},
    "a group each": {"count": SPINNERS},
    "a group of 0.05 CPU each": {"count": SPINNERS, "quota": 0.05},
}
LOOP_SHARES = {"": 1024, ", the loop's group with 100 times the shares": 102_400}


def groups(report: Report, root: str) -> None:
    report.table(
        f"{SPINNERS} spinning guests in cpu cgroups below one for all pods: killing one",
        "the loop at nice -10 in a group of its own beside that, guests at 0",
    )
    if not available():
        report.note("NOT RUN: it takes root and cgroup v1's cpu controller")
        return
    kills = report.rounds(60, 5)
    for shape, wanted in SHAPES.items():
        for about, shares in LOOP_SHARES.items():
            for last_help in LAST_HELP if not about else list(LAST_HELP)[-2:]:
                found = measure_groups(root, kills, last_help, shares, **wanted)
                report.row(f"{shape}{about}; {last_help}", found["stops"], target=_TARGET)
            report.row(f"{shape}{about}: the loop's own delay", found["lag"])
            report.row(f"{shape}{about}: starting one more", found["starts"])


def measure_groups(
    root: str, kills: int, last_help: str, shares: int, count: int, quota: float | None = None
) -> dict[str, list[float]]:
    with contextlib.ExitStack() as undo:
        cpus = len(os.sched_getaffinity(0))
        pods = undo.enter_context(cpu_group(_PODS, shares=1024 * cpus))
        made = [undo.enter_context(cpu_group(f"{n}", quota=quota, parent=pods.folder)) for n in range(count)]
        ours = undo.enter_context(cpu_group("wasm-sandboxer-bench-loop", shares=shares))
        variant = {"loop_nice": -10, "guest_nice": 0, "last_help": last_help}
        folders = {"ours": str(ours.folder), "theirs": [str(one.folder) for one in made]}
        found: dict[str, list[float]] = fresh(measure, root=root, kills=kills, **variant, **folders)
        return found


# ---- both ----


def measure(
    root: str,
    kills: int,
    loop_nice: int,
    guest_nice: int,
    last_help: str,
    ours: str = "",
    theirs: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Kill spinners one by one, starting others for them; the guests are in `theirs`, the loop in `ours`."""
    our_group = CpuGroup(ours) if ours else CpuGroup()
    if ours:
        our_group.join()
    help_it = LAST_HELP[last_help]
    hurry = lambda execution: help_it(execution.pid, our_group)  # noqa: E731
    thread.ThreadExecution._hurry = hurry  # type: ignore[method-assign]
    set_nice(-20)  # until all have started
    return in_loop(_measure(root, kills, loop_nice, guest_nice, [CpuGroup(folder) for folder in theirs]))


async def _measure(
    root: str, kills: int, loop_nice: int, guest_nice: int, theirs: list[CpuGroup]
) -> dict[str, list[float]]:
    guests = Guests(root, "spin", nice=19)
    running = await guests.start("spin", count=SPINNERS)
    for number, container in enumerate(running):
        os.setpriority(os.PRIO_PROCESS, container.pid, guest_nice)
        if theirs:
            theirs[number % len(theirs)].move(container.pid)
    set_nice(loop_nice)
    guests = Guests(root, "spin", nice=guest_nice)
    found: dict[str, list[float]] = collections.defaultdict(list)
    began = time.monotonic()
    killed = 0
    while killed < kills and time.monotonic() - began < _LONGEST:
        await asyncio.sleep(0.1)
        batch = min(_BATCH, kills - killed)
        for _ in range(batch):
            found["stops"].append(await stop(running.pop(0)))
            found["lag"].append(await loop_lag())
        for number in range(killed, killed + batch):
            begun = time.perf_counter()
            running += await guests.start("spin")
            found["starts"].append((time.perf_counter() - begun) * 1e3)
            if theirs:
                theirs[number % len(theirs)].move(running[-1].pid)
        killed += batch
    return found  # the process ends, and with it who still spins


# ---- Python on a guest's thread ----


def python_in_groups(report: Report, root: str) -> None:
    report.table(
        "the loop's delay while guests come and go, beside a spinner in a group of 0.05 CPU",
        "a guest's thread that runs Python when the quota is used up holds the GIL until the next period",
    )
    if not available():
        report.note("NOT RUN: it takes root and cgroup v1's cpu controller")
        return
    seconds = 20.0 if not report.quick else 2.0
    for when, label in JOINING.items():
        with cpu_group("wasm-sandboxer-bench-pod", quota=0.05) as group:
            found = fresh(measure_python, root=root, seconds=seconds, when=when, folder=str(group.folder))
        report.row(f"{label}: the loop's delay", found["lag"])
        report.row("  hello, start to exit", found["hello"])


JOINING = {
    "never": "none of them in the group",
    "ready": "each moved there once its instance is made",
    "first": "each joins as its thread starts",
}


def measure_python(root: str, seconds: float, when: str, folder: str) -> dict[str, list[float]]:
    set_nice(-10)
    return in_loop(_measure_python(root, seconds, when, CpuGroup(folder)))


async def _measure_python(root: str, seconds: float, when: str, group: CpuGroup) -> dict[str, list[float]]:
    guests = Guests(root, "spin", "hello", nice=0)
    (spinner,) = await guests.start("spin")
    group.move(spinner.pid)
    if when == "first":
        guests.programs["hello"] = Prepared(guests.programs["hello"], group.join)
    found: dict[str, list[float]] = {"lag": [], "hello": []}
    coming = asyncio.ensure_future(_come_and_go(guests, group if when == "ready" else None, found["hello"]))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found["lag"].append(await loop_lag())
    coming.cancel()
    return found


async def _come_and_go(guests: Guests, group: CpuGroup | None, times: list[float]) -> None:
    while True:
        container = guests.container("hello")
        begun = time.perf_counter()
        await container.start()
        if group is not None:
            group.move(container.pid)
        await container.exit
        times.append((time.perf_counter() - begun) * 1e3)
