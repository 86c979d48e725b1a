"""An engine as the verbs use it: over the user's module store, with progress on a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wasm_sandboxer.cli import interrupts
from wasm_sandboxer.cli.params import default_root
from wasm_sandboxer.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from wasm_sandboxer.engine.choosing import ChoosingEngine
    from wasm_sandboxer.engine.store import ModuleStore
    from wasm_sandboxer.engine.wasmedge.engine import WasmEdgeEngine

_PATIENCE = 0.5  # seconds before a compilation shows that it is under way


def open_store(root: Path | None, capacity: int | None = None) -> "ModuleStore":
    """The module store at this root."""
    from wasm_sandboxer.cli.log import log_to_stderr  # noqa: PLC0415  # start-up time
    from wasm_sandboxer.engine.store import DEFAULT_CAPACITY, ModuleStore  # noqa: PLC0415
    from wasm_sandboxer.engine.wasmtime.engine import store_key  # noqa: PLC0415

    log_to_stderr()
    capacity = DEFAULT_CAPACITY if capacity is None else capacity
    return ModuleStore(root or default_root(), store_key(), capacity=capacity)


def open_engine(root: Path | None, compile_memory: int, compile_timeout: float, store_size: int) -> "ChoosingEngine":
    """The engines over that store. The process must still have one thread when it compiles."""
    from wasm_sandboxer.engine.choosing import ChoosingEngine  # noqa: PLC0415
    from wasm_sandboxer.engine.source import CompileBounds  # noqa: PLC0415
    from wasm_sandboxer.engine.wasmtime.engine import WasmtimeEngine  # noqa: PLC0415

    bounds = CompileBounds(memory=compile_memory, seconds=compile_timeout)

    def wasmedge() -> "WasmEdgeEngine":
        from wasm_sandboxer.engine.wasmedge.compiling import JOBS  # noqa: PLC0415
        from wasm_sandboxer.engine.wasmedge.engine import WasmEdgeEngine  # noqa: PLC0415
        from wasm_sandboxer.forking.job import LocalRunner  # noqa: PLC0415

        return WasmEdgeEngine(root or default_root(), LocalRunner(JOBS), bounds=bounds, capacity=store_size)

    return ChoosingEngine(WasmtimeEngine(open_store(root, store_size), bounds=bounds), wasmedge)


@contextmanager
def progress(what: str) -> "Iterator[Callable[[float], None]]":
    """A callback that shows on a terminal how long something takes; elsewhere one that only minds Ctrl-C."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: interrupts.check()
        return
    shown = False

    def show(seconds: float) -> None:
        nonlocal shown
        interrupts.check()
        if seconds >= _PATIENCE:
            shown = True
            click.echo(f"\r{what} … {format_duration(seconds)}", nl=False, err=True)

    try:
        yield show
    finally:
        if shown:
            click.echo("\r\033[K", nl=False, err=True)
