"""What the benchmarks share: the examples, an engine over a store of their own, containers to start and stop."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from wasm_sandboxer.core.container import Container
from wasm_sandboxer.engine.protocol import ANYWHERE, Control, Program, Within
from wasm_sandboxer.engine.source import read_source
from wasm_sandboxer.engine.store import ModuleStore
from wasm_sandboxer.engine.wasmtime.engine import WasmtimeEngine, store_key
from wasm_sandboxer.errors import FailedPrecondition
from wasm_sandboxer.executor.thread import ThreadExecutor
from wasm_sandboxer.guest import Exit, Guest, Stdio

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "wasm"
GO = EXAMPLES.parents[1] / ".cache" / "examples" / "hello-go.wasm"


def example(name: str) -> Path:
    """The built example of this name."""
    return EXAMPLES / f"{name}.wasm"


def module_store(root: str) -> ModuleStore:
    """The store at this root."""
    return ModuleStore(Path(root), store_key())


def engine(root: str) -> WasmtimeEngine:
    """An engine over that store."""
    return WasmtimeEngine(module_store(root))


class Guests:
    """Containers of the examples on threads of this process, with their descriptors at /dev/null."""

    def __init__(self, root: str, *names: str, loader: WasmtimeEngine | None = None, nice: int | None = None) -> None:
        """Load (and compile, where the store lacks them) the examples; `nice` is for the guests' threads."""
        loader = loader or engine(root)
        self.programs: dict[str, Program] = {name: loader.load(read_source(example(name))) for name in names}
        if nice is not None:
            self.programs = {
                name: Prepared(program, lambda: set_nice(nice)) for name, program in self.programs.items()
            }
        self.executor = ThreadExecutor(nice=nice)
        null = os.open(os.devnull, os.O_RDWR)
        self.stdio = Stdio(stdin=null, stdout=null, stderr=null)
        self._made = 0

    def container(self, name: str, *arguments: str) -> Container:
        """A container that has not started."""
        self._made += 1
        guest = Guest(module=example(name), argv=(name, *arguments))
        return Container(f"{name}-{self._made}", self.programs[name], guest, self.stdio, self.executor)

    async def start(self, name: str, *arguments: str, count: int = 1) -> list[Container]:
        """So many running guests, one started after the other."""
        containers = [self.container(name, *arguments) for _ in range(count)]
        for container in containers:
            await container.start()
        return containers


class Prepared:
    """A Program whose threads first do something of the benchmark's."""

    def __init__(self, program: Program, prepare: Callable[[], object]) -> None:
        self._program = program
        self._prepare = prepare

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)

    def run(
        self, guest: Guest, stdio: Stdio, control: Control, ready: Callable[[], None], within: Within = ANYWHERE
    ) -> Exit:
        """See Program."""
        self._prepare()
        return self._program.run(guest, stdio, control, ready, within)


def set_nice(nice: int) -> None:
    """Give the calling thread this priority, where we may; threads that it starts inherit it."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


async def stop(container: Container) -> float:
    """Milliseconds from the kill to the exit."""
    begun = time.perf_counter()
    await container.kill(signal.SIGKILL)
    await container.exit
    return (time.perf_counter() - begun) * 1e3


async def stop_all(containers: list[Container]) -> None:
    """Stop every guest, all at once."""
    await asyncio.gather(*(_kill(container) for container in containers))
    await asyncio.gather(*(container.exit for container in containers))


async def _kill(container: Container) -> None:
    with contextlib.suppress(FailedPrecondition):  # it has ended by itself
        await container.kill(signal.SIGKILL)


def in_loop(main: Coroutine[Any, Any, Any]) -> Any:
    """The coroutine's result."""
    return asyncio.run(main)
