"""Asks a daemon over its Task socket until its stdin ends, in a process of its own; how long answers took, as JSON.

    python -m benchmarks.asking SOCKET FOLDER

For benchmarks that keep the daemon, and themselves, busy meanwhile. Says `asking` once it has begun. Needs root.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from benchmarks.guests import set_nice
from benchmarks.task_client import Bundles, TaskClient

_NICE = -15  # it measures the daemon's waiting, not its own
_BETWEEN = 0.02  # seconds between questions


async def ask(socket: Path, folder: Path) -> dict[str, list[float]]:
    """Milliseconds of each State, List, and Kill of a guest of its own, until Wait returns."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    took: dict[str, list[float]] = {"State": [], "List": [], "Kill": []}
    bundles = Bundles(folder, prefix=f"asked-{os.getpid()}-")
    try:
        async with await TaskClient.connect(socket) as client:
            print("asking", flush=True)
            while not ended.is_set():
                await _round(client, bundles, took)
    finally:
        bundles.close()
    return took


async def _round(client: TaskClient, bundles: Bundles, took: dict[str, list[float]]) -> None:
    victim = await client.create(bundles.make("/sleep.wasm", "forever"))
    await client.start(victim)
    for _ in range(4):
        took["State"].append(await _timed(client.state(victim)))
        took["List"].append(await _timed(client.list()))
        await asyncio.sleep(_BETWEEN)
    waiting = asyncio.ensure_future(client.wait(victim))
    await asyncio.sleep(_BETWEEN)
    took["Kill"].append(await _timed(asyncio.gather(client.kill(victim), waiting)))
    await client.delete(victim)


async def _timed(question: Awaitable[Any]) -> float:
    begun = time.perf_counter()
    await question
    return (time.perf_counter() - begun) * 1e3


if __name__ == "__main__":
    set_nice(_NICE)
    print(json.dumps(asyncio.run(ask(Path(sys.argv[1]), Path(sys.argv[2])))), flush=True)
