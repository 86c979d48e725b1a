"""Pods through the real containerd, beside two floors: an engine that does nothing, and a daemon that does nothing.

    ./dev bench pods

One containerd drives all three, a runtime handler each, and their pods take turns, so that what the machine does at
the time does it to all. Exits are seen by CRI's events, not by asking. In the end the same calls come without
containerd (benchmarks.replay).
"""

import asyncio
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.node import BARE, FLOOR, OURS, Node, PodTimes, node, pod
from benchmarks.replay import Replay
from benchmarks.report import Report, Target
from benchmarks.task_client import Bundles

AT_ONCE = 10
_ALL = (OURS, FLOOR, BARE)
_CPU = 5.0  # milliseconds a pod
_SLOWER = 1.2  # times the floor
_STEPS = ("RunPodSandbox", "CreateContainer", "StartContainer", "exit seen", "StopPodSandbox", "RemovePodSandbox")


def bench(report: Report) -> None:
    count = report.rounds(200, 10)
    with node(_ALL) as running:
        for handler in _ALL:
            _batch(running, handler, AT_ONCE, AT_ONCE)  # threads, arenas, caches of many at once
        _sequential(report, running, count)
        _concurrent(report, running, count)
        asyncio.run(_replayed(report, running, count))


def _sequential(report: Report, running: Node, count: int) -> None:
    times: dict[str, list[PodTimes]] = {name: [] for name in _ALL}
    cpu: dict[str, list[float]] = {name: [] for name in _ALL}
    for _ in range(count):
        for handler, daemon in running.daemons.items():
            before = daemon.cpu()
            times[handler].append(pod(running, handler))
            cpu[handler].append((daemon.cpu() - before) * 1e3)
    report.table(f"{count} pods one after another, and as many of the others' in between", "milliseconds a pod")
    _rows(report, times, cpu)
    for step in _STEPS:
        report.row(f"  {step}", [each.steps[step] for each in times[OURS]])
        report.row("    floor", [each.steps[step] for each in times[FLOOR]])


def _concurrent(report: Report, running: Node, count: int) -> None:
    times: dict[str, list[PodTimes]] = {name: [] for name in _ALL}
    cpu: dict[str, list[float]] = {name: [] for name in _ALL}
    rates: dict[str, list[float]] = {name: [] for name in _ALL}
    rounds = report.rounds(5, 1)
    for _ in range(rounds):
        for handler, daemon in running.daemons.items():
            before, begun = daemon.cpu(), time.perf_counter()
            times[handler] += _batch(running, handler, count // rounds, AT_ONCE)
            rates[handler].append(count // rounds / (time.perf_counter() - begun))
            cpu[handler].append((daemon.cpu() - before) * 1e3 / (count // rounds))
    note = f"in {rounds} batches that take turns with the others'; CPU and rate are a batch's means"
    report.table(f"{count} pods, {AT_ONCE} at a time", note)
    _rows(report, times, cpu)
    report.row("pods a second, start to removal", rates[OURS], "1/s")
    report.row("  floor", rates[FLOOR], "1/s")


async def _replayed(report: Report, running: Node, count: int) -> None:
    """The same calls without containerd."""
    cpu: dict[str, list[float]] = {name: [] for name in _ALL}
    with tempfile.TemporaryDirectory(prefix="wsb-", dir="/tmp") as folder:
        bundles = Bundles(Path(folder, "bundles"))
        try:
            async with AsyncExitStack() as stack:
                players = {
                    name: await stack.enter_async_context(Replay(daemon, bundles))
                    for name, daemon in running.daemons.items()
                }
                for number in range(report.rounds(6, 2)):
                    for name, player in players.items():
                        made = [player.bundle() for _ in range(max(10, count // 5))]
                        before = running.daemons[name].cpu()
                        for sandbox, bundle in made:
                            await player.pod(sandbox, bundle)
                        if number:  # the first warms up
                            cpu[name].append((running.daemons[name].cpu() - before) * 1e3 / len(made))
        finally:
            bundles.close()
    report.table(
        "the same calls one upon the other, from a client that does nothing else",
        "milliseconds of the daemon's CPU a pod; means of batches that take turns. The tables above have more, since "
        "between two of its calls containerd has the processor and its caches",
    )
    report.row("CPU of the daemon, the guest's own included", cpu[OURS], target=Target(column="p50", at_most=_CPU))
    report.row("  floor: the engine does nothing", cpu[FLOOR])
    report.row("  answering the calls and doing nothing else", cpu[BARE])


def _rows(report: Report, times: dict[str, list[PodTimes]], cpu: dict[str, list[float]]) -> None:
    floor = statistics.median(each.start for each in times[FLOOR])
    target = Target(column="p50", at_most=round(_SLOWER * floor, 2))
    ours = report.row(
        "RunPodSandbox until the container's exit is seen", [each.start for each in times[OURS]], target=target
    )
    report.row("  floor: the engine does nothing", [each.start for each in times[FLOOR]])
    report.row("StopPodSandbox and RemovePodSandbox", [each.remove for each in times[OURS]])
    report.row("  floor", [each.remove for each in times[FLOOR]])
    report.row("CPU of the daemon, the guest's own included", cpu[OURS], target=Target(column="p50", at_most=_CPU))
    report.row("  floor", cpu[FLOOR])
    report.row("  answering containerd's calls and doing nothing else", cpu[BARE])
    means = {handler: statistics.fmean(samples) for handler, samples in cpu.items()}
    report.note(
        f"p50 is {ours.p50 / floor:.2f} times the floor's; CPU a pod, mean: {means[OURS]:.2f} ms; all but the engine "
        f"and the guest: {means[FLOOR]:.2f} ms; the calls alone: {means[BARE]:.2f} ms."
    )


def _batch(running: Node, handler: str, count: int, at_once: int) -> list[PodTimes]:
    """So many pods, so many of them at any time."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda number: pod(running, handler, f"bench-{number}"), range(count)))
