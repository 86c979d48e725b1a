"""From Kill to Wait's return at the Task socket, among 500 other guests.

    ./dev bench kill

The floor is the same daemon with an engine that does nothing, whose guests are threads waiting on a lock.
"""

import asyncio
import time
from contextlib import AsyncExitStack

from benchmarks.node import FLOOR, OURS, Daemon, daemons
from benchmarks.report import Report, Target
from benchmarks.task_client import Bundles, TaskClient

_TARGET = Target(column="p99", at_most=10)  # milliseconds
_SLEEP, _SPIN = ("/sleep.wasm", "forever"), ("/spin.wasm",)
_SPINNING = 20  # of the others, in the tables where some spin


def bench(report: Report) -> None:
    with daemons() as (folder, running):
        bundles = Bundles(folder / "bundles")
        try:
            asyncio.run(_measure(report, running, bundles))
        finally:
            bundles.close()


async def _measure(report: Report, running: dict[str, Daemon], bundles: Bundles) -> None:
    others, count = report.rounds(500, 20), report.rounds(300, 10)
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(await TaskClient.connect(daemon.task_listen))
            for name, daemon in running.items()
        }
        ours = clients[OURS]
        for client in clients.values():
            await _fill(client, bundles, others)
        report.table(f"kill among {others} guests that sleep", "SIGKILL sent until Wait returns; victims one by one")
        sleepers: dict[str, list[float]] = {name: [] for name in clients}
        for _ in range(count):
            for name, client in clients.items():
                sleepers[name].append(await _kill(client, bundles, _SLEEP))
        report.row("a guest that sleeps", sleepers[OURS], target=_TARGET)
        report.row("  floor: a thread that waits on a lock", sleepers[FLOOR])
        spinners = [await _kill(ours, bundles, _SPIN) for _ in range(count)]
        report.row("a guest that spins", spinners, target=_TARGET)

        spinning = [bundles.make(*_SPIN) for _ in range(_SPINNING)]
        for bundle in spinning:
            await ours.create(bundle)
            await ours.start(bundle.id)
        report.table(f"kill among {others} guests that sleep and {_SPINNING} that spin", "else as above")
        for name, args in (("a guest that sleeps", _SLEEP), ("a guest that spins", _SPIN)):
            report.row(name, [await _kill(ours, bundles, args) for _ in range(count)], target=_TARGET)
        report.row(
            "  floor: a thread that waits on a lock, in the other daemon",
            [await _kill(clients[FLOOR], bundles, _SLEEP) for _ in range(count)],
        )
        for bundle in spinning:
            await ours.kill(bundle.id)


async def _fill(client: TaskClient, bundles: Bundles, count: int) -> None:
    for _ in range(count):
        await client.start(await client.create(bundles.make(*_SLEEP)))


async def _kill(client: TaskClient, bundles: Bundles, args: tuple[str, ...]) -> float:
    """Milliseconds from sending the signal to hearing of the end."""
    ident = await client.create(bundles.make(*args))
    await client.start(ident)
    waiting = asyncio.ensure_future(client.wait(ident))
    await asyncio.sleep(0.005)  # until it sleeps or spins
    begun = time.perf_counter()
    await client.kill(ident)
    await waiting
    took = (time.perf_counter() - begun) * 1e3
    await client.delete(ident)
    return took
