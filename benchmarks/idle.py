"""A thousand idle containers through the real containerd: what the daemon needs for each, and for itself.

    ./dev bench idle

The floor is the same daemon with an engine that does nothing, whose guests are threads waiting on a lock.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.node import FLOOR, IMAGE, OURS, Daemon, Node, node
from benchmarks.report import Report, Target

PODS, EACH = 50, 20
_AT_ONCE = 4
_EACH_KIB, _BASE_MIB = 100, 80
_SETTLE = 2.0


def bench(report: Report) -> None:
    pods, each = report.rounds(PODS, 4), report.rounds(EACH, 5)
    with node() as running:
        report.table("the daemon by itself", "before its first idle container; MiB")
        memory = {name: daemon.memory() for name, daemon in running.daemons.items()}
        for kind in ("rss", "pss"):
            target = Target(column="max", at_most=_BASE_MIB) if kind == "rss" else None
            report.row(f"memory ({kind.upper()}), the engine loaded", [memory[OURS][kind] / 1024], "MiB", target)
            report.row("  floor: no engine in it", [memory[FLOOR][kind] / 1024], "MiB")
        _fill(report, running, pods, each)


def _fill(report: Report, running: Node, pods: int, each: int) -> None:
    count = pods * each
    grown: dict[str, dict[str, float]] = {}
    took: dict[str, float] = {}
    for name, daemon in running.daemons.items():
        before, begun = daemon.memory(), time.perf_counter()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda number, name=name: _pod(running, name, number, each), range(pods)))
        took[name] = (time.perf_counter() - begun) * 1e3 / count
        time.sleep(_SETTLE)
        after = daemon.memory()
        grown[name] = {kind: (after[kind] - before[kind]) / count for kind in after}
        if name == OURS:
            held = daemon.holdings()
    report.table(f"{count} containers that sleep, in {pods} pods", "per container")
    target = Target(column="max", at_most=_EACH_KIB)
    for kind in ("rss", "pss"):
        report.row(f"memory of the daemon ({kind.upper()})", [grown[OURS][kind]], "KiB", target)
        report.row("  floor: threads that wait on a lock", [grown[FLOOR][kind]], "KiB")
    report.row(f"starting them through containerd, {_AT_ONCE} pods at a time", [took[OURS]])
    report.row("  floor", [took[FLOOR]])
    report.note(", ".join(f"{number} {what}" for what, number in held.items()) + " in the daemon")
    _asking(report, running, count)


def _pod(running: Node, handler: str, number: int, each: int) -> None:
    made = running.cri.run_pod(f"idle-{number}", handler=handler)
    for index in range(each):
        running.cri.run(made, IMAGE, name=f"c{index}", command=["/sleep.wasm"], args=["forever"], log=False)


def _asking(report: Report, running: Node, count: int) -> None:
    """What listings cost while all of them run, the floor's too."""
    report.table(
        f"asking containerd about {2 * count} containers, half of them the floor's", "a call; CPU of ours only"
    )
    daemon = running.daemons[OURS]
    calls: dict[str, Callable[[], Any]] = {
        "ListContainers": running.cri.containers,
        "ListPodSandbox": running.cri.pods,
        "ListContainerStats": running.cri.all_stats,
    }
    for name, call in calls.items():
        wall, cpu = _timed(daemon, call, report.rounds(5, 2))
        report.row(name, wall)
        report.row("  CPU of the daemon", cpu)
    before, begun = daemon.cpu(), time.perf_counter()
    time.sleep(report.rounds(10, 1))
    idle = (daemon.cpu() - before) / (time.perf_counter() - begun)
    report.row("CPU of the daemon while nobody asks, milliseconds a second", [idle * 1e3])


def _timed(daemon: Daemon, call: Callable[[], Any], rounds: int) -> tuple[list[float], list[float]]:
    wall, cpu = [], []
    for _ in range(rounds):
        before, begun = daemon.cpu(), time.perf_counter()
        call()
        wall.append((time.perf_counter() - begun) * 1e3)
        cpu.append((daemon.cpu() - before) * 1e3)
    return wall, cpu
