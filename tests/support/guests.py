"""Containers in this process: the core with a real engine, real threads and real descriptors."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.support.cli import PATIENCE, example
from wasm_sandboxer.core.container import Container
from wasm_sandboxer.engine.protocol import Program
from wasm_sandboxer.engine.source import read_source
from wasm_sandboxer.engine.store import ModuleStore
from wasm_sandboxer.engine.wasmtime import compiling
from wasm_sandboxer.engine.wasmtime.engine import WasmtimeEngine, store_key
from wasm_sandboxer.executor.thread import ThreadExecutor
from wasm_sandboxer.forking.jobs import Bounds
from wasm_sandboxer.guest import Exit, Guest, Stdio

T = TypeVar("T")


class HereRunner:
    """Runs jobs in this very process, unbounded: one with threads, as that of the tests, may not fork."""

    def __init__(self) -> None:
        self.jobs = 0

    def run(
        self,
        name: str,
        argument: bytes,
        fds: tuple[int, ...],
        bounds: Bounds,  # noqa: ARG002
        waiting: Callable[[float], None] | None = None,  # noqa: ARG002
    ) -> bytes:
        self.jobs += 1
        return compiling.JOBS[name](argument, fds)


def new_engine(root: Path) -> WasmtimeEngine:
    """An engine over the store at this root."""
    return WasmtimeEngine(ModuleStore(root, store_key()), runner=HereRunner())


def in_loop(main: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result; what does not come in time fails the test."""
    return asyncio.run(asyncio.wait_for(main, PATIENCE))


async def until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds."""
    while not condition():  # noqa: ASYNC110  # nobody could set an event for it
        await asyncio.sleep(0.002)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a guest ended and what it wrote."""

    exit: Exit
    stdout: bytes
    stderr: str

    @property
    def code(self) -> int:
        return self.exit.code

    @property
    def lines(self) -> list[str]:
        return self.stdout.decode().splitlines()


class Guests:
    """Makes containers; `undo` closes what they borrowed."""

    def __init__(self, engine: WasmtimeEngine, undo: ExitStack) -> None:
        self.engine = engine
        self._undo = undo

    def program(self, module: str | Path) -> Program:
        """An example by its name, or the module at a path."""
        return self.engine.load(read_source(example(module) if isinstance(module, str) else module))

    def container(self, module: str | Path, *arguments: str, stdio: Stdio | None = None, **guest: Any) -> Container:
        """A container that has not started; `guest` are fields of Guest."""
        name = module if isinstance(module, str) else module.stem
        made = Guest(module=Path(name), argv=(name, *arguments), **guest)
        return Container(name, self.program(module), made, stdio or Stdio(), ThreadExecutor())

    def pipe(self) -> tuple[int, int]:
        """A pipe's read and write ends."""
        ends = os.pipe2(os.O_CLOEXEC)
        for end in ends:
            self._undo.callback(close, end)
        return ends

    def file(self, content: bytes = b"") -> int:
        """A file in memory, read from its beginning."""
        fd = os.memfd_create("stream", os.MFD_CLOEXEC)
        self._undo.callback(close, fd)
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def run(self, module: str | Path, *arguments: str, stdin: bytes = b"", **guest: Any) -> Ran:
        """Run a guest to its end, with files for its streams."""
        stdio = Stdio(stdin=self.file(stdin), stdout=self.file(), stderr=self.file())

        async def main() -> Exit:
            container = self.container(module, *arguments, stdio=stdio, **guest)
            await container.start()
            return await container.exit

        end = in_loop(main())
        return Ran(exit=end, stdout=content(stdio.stdout), stderr=content(stdio.stderr).decode())


def content(fd: int | None) -> bytes:
    """All that a file in memory holds."""
    assert fd is not None
    return os.pread(fd, os.fstat(fd).st_size, 0)


def close(fd: int) -> None:
    """Close a descriptor that a test may have closed."""
    with suppress(OSError):
        os.close(fd)
