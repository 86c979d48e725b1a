"""How many compile at a time, and what those who wait hold meanwhile."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cli import PATIENCE
from wasm_sandboxer.engine import choosing
from wasm_sandboxer.engine.choosing import ChoosingEngine
from wasm_sandboxer.engine.source import CompileBounds, ModuleSource, read_source
from wasm_sandboxer.engine.store import ModuleStore
from wasm_sandboxer.engine.turns import Turns
from wasm_sandboxer.engine.wasmedge import tool
from wasm_sandboxer.engine.wasmedge.engine import WasmEdgeEngine
from wasm_sandboxer.engine.wasmtime.engine import WasmtimeEngine
from wasm_sandboxer.errors import ModuleError
from wasm_sandboxer.forking.jobs import Bounds, JobEnd, JobFailed

LARGE = "(module (func))"


class SlowRunner:
    """Compiles nothing, and takes until it is let; knows how many jobs it had at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self.most = self.begun = 0
        self.go = threading.Event()

    def run(
        self,
        name: str,
        argument: bytes,  # noqa: ARG002
        fds: tuple[int, ...],  # noqa: ARG002
        bounds: Bounds,  # noqa: ARG002
        waiting: Callable[[float], None] | None = None,  # noqa: ARG002
    ) -> bytes:
        if name == tool.JOB:  # is asked for its version
            return json.dumps({"code": 0, "output": "wasmedge version 0.14.1"}).encode()
        with self._lock:
            self.begun += 1
            self._running += 1
            self.most = max(self.most, self._running)
        assert self.go.wait(PATIENCE)
        with self._lock:
            self._running -= 1
        raise JobFailed(JobEnd.CRASH, "it never does")


def test_both_engines_take_turns_to_compile(tmp_path: Path) -> None:
    runner, bounds, pool = SlowRunner(), CompileBounds(turns=Turns(3)), ThreadPoolExecutor(12)
    engines = (
        WasmtimeEngine(ModuleStore(tmp_path, "key"), bounds=bounds, runner=runner),
        WasmEdgeEngine(tmp_path, runner, binary=Path("/bin/true"), bounds=bounds, capacity=1 << 20),
    )
    with pool:
        sources = [ModuleSource(name="m.wasm", data=b"%d" % number) for number in range(12)]
        calls = [pool.submit(engines[number % 2].compile, source) for number, source in enumerate(sources)]
        while runner.begun < 3:
            assert not any(call.done() for call in calls)
        time.sleep(0.1)  # for one too many to begin
        runner.go.set()
        for call in calls:
            with pytest.raises(ModuleError, match="it never does"):
                call.result(PATIENCE)
    assert (runner.begun, runner.most) == (12, 3)


def test_large_sources_leave_a_turn_for_small_ones() -> None:
    turns, held, go = Turns(1), threading.Semaphore(0), threading.Event()

    def compile_large() -> None:
        with turns.take(2 << 20):
            held.release()
            assert go.wait(PATIENCE)

    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(compile_large) for _ in range(3)]
        assert held.acquire(timeout=PATIENCE)
        with turns.take(1 << 20):
            assert not held.acquire(timeout=0.1)
        go.set()
        for call in calls:
            call.result(PATIENCE)


def test_few_large_sources_are_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "_LARGE", len(LARGE) - 1)
    monkeypatch.setattr(choosing, "_LARGE_ONES", 2)
    runner = SlowRunner()
    wasmtime = WasmtimeEngine(ModuleStore(tmp_path / "root", "key"), runner=runner)
    engine = ChoosingEngine(wasmtime, NotImplemented)
    read: list[str] = []
    monkeypatch.setattr(choosing, "read_source", lambda path, name: read.append(path.name) or read_source(path, name))
    for number in range(6):
        (tmp_path / f"large{number}.wat").write_text(LARGE)
        (tmp_path / f"small{number}.wat").write_text(LARGE[:-1])
    with ThreadPoolExecutor(12) as pool:
        calls = [pool.submit(engine.load, path) for path in sorted(tmp_path.glob("*.wat"))]
        while len(read) < 8:
            assert not any(call.done() for call in calls)
        time.sleep(0.1)  # for one too many to be read
        assert sum(name.startswith("large") for name in read) == 2
        runner.go.set()
        for call in calls:
            with pytest.raises(ModuleError, match="it never does"):
                call.result(PATIENCE)
    assert len(read) == 12
