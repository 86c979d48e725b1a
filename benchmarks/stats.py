"""Asking what a thousand containers use: Task.Stats one by one, as containerd asks, and the daemon's own listing.

    ./dev bench stats

containerd 2.4 asks for each running container once a second, so this is what it costs to be watched.
"""

import asyncio
import re
import time
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.node import OURS, Daemon, daemons
from benchmarks.report import Report, Target
from benchmarks.task_client import Bundles, TaskClient

CONTAINERS = 1000
_AT_ONCE = 10
_TARGET = Target(column="p50", at_most=200)  # milliseconds of CPU for all of them


def bench(report: Report) -> None:
    with daemons((OURS,), ("--metrics-listen", "127.0.0.1:0")) as (folder, running):
        bundles = Bundles(folder / "bundles")
        try:
            asyncio.run(_measure(report, running[OURS], bundles))
        finally:
            bundles.close()


async def _measure(report: Report, daemon: Daemon, bundles: Bundles) -> None:
    count = report.rounds(CONTAINERS, 20)
    async with await TaskClient.connect(daemon.task_listen) as client:
        made = [bundles.make("/sleep.wasm", "forever") for _ in range(count)]
        idents: list[str] = []
        for at in range(0, count, _AT_ONCE):
            idents += await asyncio.gather(*(client.create(each) for each in made[at : at + _AT_ONCE]))
            await asyncio.gather(*(client.start(each) for each in idents[at : at + _AT_ONCE]))
        report.table(f"asking about {count} containers that sleep", "all of them, once")
        await _rows(report, daemon, "Task.Stats, one after another", lambda: _each(client, idents))
        await _rows(report, daemon, "Admin.List, one call", client.list)
        metrics = re.search(r"metrics at (\S+)", daemon.log_tail(5000))
        assert metrics is not None
        await _rows(report, daemon, "a scrape of Prometheus'", lambda: asyncio.to_thread(_scrape, metrics[1]), None)
        await _rows(report, daemon, "floor: Task.State, one after another", lambda: _states(client, idents), None)
        for ident in idents:
            await client.kill(ident)
        await asyncio.gather(*(client.wait(ident) for ident in idents))
        for ident in idents:
            await client.delete(ident)


async def _rows(
    report: Report,
    daemon: Daemon,
    label: str,
    ask: Callable[[], Awaitable[Any]],
    target: Target | None = _TARGET,
) -> None:
    wall, cpu = [], []
    for _ in range(report.rounds(7, 1)):
        before, begun = daemon.cpu(), time.perf_counter()
        await ask()
        wall.append((time.perf_counter() - begun) * 1e3)
        cpu.append((daemon.cpu() - before) * 1e3)
    report.row(f"{label}: CPU of the daemon", cpu, target=target)
    report.row("  wall time", wall)


def _scrape(url: str) -> int:
    with urllib.request.urlopen(url) as answer:
        return len(answer.read())


async def _each(client: TaskClient, idents: list[str]) -> None:
    for ident in idents:
        await client.stats(ident)


async def _states(client: TaskClient, idents: list[str]) -> None:
    for ident in idents:
        await client.state(ident)
