"""The registry's own order of things, where only a race would show it from outside."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from wasm_sandboxer.core.records import Records
from wasm_sandboxer.core.sandboxer import Sandboxer
from wasm_sandboxer.core.task import dead_task
from wasm_sandboxer.core.workers import Workers
from wasm_sandboxer.engine.pool import MemoryPool


def test_a_delete_while_the_daemon_stops_takes_down_what_there_is_once(tmp_path: Path) -> None:
    steps: list[str] = []

    def step(name: str) -> None:
        steps.append(f"begin {name}")
        time.sleep(0.05)
        steps.append(f"end {name}")

    async def main() -> None:
        workers = Workers(4)
        tools: Any = SimpleNamespace(workers=workers, pool=MemoryPool("the node's"), groups=None, publish=print)
        sandboxer = Sandboxer(tools, Records(tmp_path), tmp_path)
        task = dead_task("test", "c", {"bundle": "/b", "sandbox": "", "streams": {}}, tools)
        for name in ("mount", "volume"):
            task.undo.callback(step, name)
        sandboxer._tasks["test", "c"] = task
        await asyncio.gather(sandboxer.end_all(), sandboxer.delete_task("test", "c"))
        workers.stop(1)

    asyncio.run(main())
    assert steps == ["begin volume", "end volume", "begin mount", "end mount"]
