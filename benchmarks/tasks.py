"""The Task socket without containerd: how many containers a second, from Create to Delete.

    ./dev bench tasks

Bundles are made beforehand. The floor is the same daemon with an engine that does nothing; they take turns.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from benchmarks.node import FLOOR, OURS, Daemon, daemons
from benchmarks.report import Report, Target
from benchmarks.task_client import Bundle, Bundles, TaskClient

AT_ONCE = 10
_TARGET = Target(column="p50", at_most=3.33)  # milliseconds a container: 300 a second


@dataclass
class _Figures:
    """A sample is a round's mean, in milliseconds a container."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    guest: list[float] = field(default_factory=list)


def bench(report: Report) -> None:
    with daemons() as (folder, running):
        bundles = Bundles(folder / "bundles")
        try:
            asyncio.run(_measure(report, running, bundles))
        finally:
            bundles.close()


async def _measure(report: Report, running: dict[str, Daemon], bundles: Bundles) -> None:
    count = report.rounds(300, 20)
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(await TaskClient.connect(daemon.task_listen))
            for name, daemon in running.items()
        }
        for under_containerd in (False, True):
            for at_once in (1, AT_ONCE):
                figures = {name: _Figures() for name in running}
                for number in range(report.rounds(7, 1) + 1):
                    for name, daemon in running.items():
                        made = [
                            bundles.make("/hello.wasm", overlay=under_containerd, fifos=under_containerd)
                            for _ in range(count)
                        ]
                        await _round(daemon, clients[name], made, at_once, figures[name] if number else _Figures())
                _rows(report, figures, under_containerd=under_containerd, at_once=at_once, count=count)


async def _round(daemon: Daemon, client: TaskClient, made: list[Bundle], at_once: int, figures: _Figures) -> None:
    count = len(made)
    left = iter(made[1:])
    figures.guest.append(await _one(client, made[0]) * 1e3)
    before, begun = daemon.cpu(), time.perf_counter()
    await asyncio.gather(*(_several(client, left) for _ in range(at_once)))
    figures.wall.append((time.perf_counter() - begun) * 1e3 / (count - 1))
    figures.cpu.append((daemon.cpu() - before) * 1e3 / (count - 1))


async def _several(client: TaskClient, left: Iterator[Bundle]) -> None:
    for bundle in left:
        ident = await client.create(bundle)
        await client.start(ident)
        await client.wait(ident)
        await client.delete(ident)


async def _one(client: TaskClient, bundle: Bundle) -> float:
    """Seconds of CPU of one guest's own thread."""
    ident = await client.create(bundle)
    await client.start(ident)
    await client.wait(ident)
    cpu = await client.cpu(ident)
    await client.delete(ident)
    return cpu


def _rows(report: Report, figures: dict[str, _Figures], *, under_containerd: bool, at_once: int, count: int) -> None:
    what = "overlay and FIFOs, as under containerd" if under_containerd else "a plain folder, no streams"
    how = f"{at_once} at a time" if at_once > 1 else "one after another"
    report.table(f"create, start, wait, delete: {what}; {how}", f"means of {count} containers")
    ours, floor = figures[OURS], figures[FLOOR]
    report.row("wall time a container (300 a second is 3.33 ms)", ours.wall, target=_TARGET)
    report.row("  floor: the engine does nothing", floor.wall)
    report.row("containers a second", [1000 / wall for wall in ours.wall], "1/s")
    report.row("  floor", [1000 / wall for wall in floor.wall], "1/s")
    report.row("CPU of the daemon a container, the guest's own included", ours.cpu)
    report.row("  the guest's own thread", ours.guest)
    report.row("  floor", floor.cpu)
