"""The wasmtime engine: from a file to a Program, through the module store.

A module is compiled once per content, and its program shared.
"""

import functools
import hashlib
import logging
import platform
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import wasmtime

from wasm_sandboxer.engine.programs import Programs
from wasm_sandboxer.engine.protocol import LoadObserver, Source
from wasm_sandboxer.engine.source import CompileBounds, ModuleSource, Stored, in_memory, processor_features
from wasm_sandboxer.engine.store import Facts, Held, ModuleStore
from wasm_sandboxer.engine.wasmtime import compiling
from wasm_sandboxer.engine.wasmtime.binding import VERSION
from wasm_sandboxer.engine.wasmtime.loading import OWN_MODULES, load_program
from wasm_sandboxer.engine.wasmtime.module import CoreProgram
from wasm_sandboxer.engine.wasmtime.runtime import CONFIGURATION, Runtime, own_source
from wasm_sandboxer.errors import ModuleError, ResourceExhausted
from wasm_sandboxer.forking.job import LocalRunner
from wasm_sandboxer.forking.jobs import JobFailed, Runner
from wasm_sandboxer.guest import Guest, Stdio

if TYPE_CHECKING:
    from wasm_sandboxer.engine.wasmtime.component import ComponentProgram

ENGINE_THREAD = "tokio-rt-worker"  # what the engine's own threads are called, in wasmtime 47
_log = logging.getLogger(__name__)
_FORM = 2  # what we make of modules before they are compiled; counted on, so that none in another form is loaded
# A call about files starts the engine's runtime, also one about a file that is not there.
_WARM_UP = b"""(module
  (import "wasi_snapshot_preview1" "fd_filestat_get" (func $fd_filestat_get (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (drop (call $fd_filestat_get (i32.const 99) (i32.const 0)))))"""


class WasmtimeEngine:
    """See Engine. Any thread may load; one compilation per content at a time, across processes too."""

    def __init__(
        self,
        store: ModuleStore,
        *,
        bounds: CompileBounds | None = None,
        runner: Runner | None = None,
        observe: LoadObserver | None = None,
    ) -> None:
        self._store = store
        self._bounds = bounds or CompileBounds()
        self._runner: Runner = runner or LocalRunner(compiling.JOBS)
        self._programs: Programs[CoreProgram | ComponentProgram] = Programs()
        self._observe: LoadObserver = observe or (lambda source, seconds: None)  # noqa: ARG005  # nobody counts

    @functools.cached_property
    def runtime(self) -> Runtime:
        """The engine proper, made at first use: a module that does not compile never needs it."""
        return Runtime(self._load_own)

    def own_code(self) -> list[Held]:
        """The files that another process makes an engine like this one of; for the caller to close."""
        return [self._held(_own(name)) for name in OWN_MODULES]

    def warm_up(self) -> None:
        """Make the engine and its threads now, on the calling thread: they belong to whoever makes them first.

        Born of a guest, they would stay in that guest's control group, and serve all others from there.
        """
        held = self._held(ModuleSource(name="warm-up.wat", data=_WARM_UP))
        program = load_program(self.runtime, "warm-up", held)
        guest, stdio = Guest(module=Path("warm-up"), argv=("warm-up",)), Stdio()
        control = program.control(guest, stdio, None)
        program.run(guest, stdio, control, lambda: None)
        control.close()
        held.close()

    def load(
        self, source: ModuleSource, *, waiting: Callable[[float], None] | None = None
    ) -> "CoreProgram | ComponentProgram":
        """The source's program; `waiting` is told while it compiles how long that takes.

        Raises ModuleError, UnknownFeature or ResourceExhausted that names the source.
        """
        made = False

        def make() -> "CoreProgram | ComponentProgram":
            nonlocal made
            made = True
            return self._make(source, waiting)

        try:
            program = self._programs.get(source.digest, make)
        except (ModuleError, ResourceExhausted) as error:
            self._observe(Source.FAILED, 0.0)
            raise type(error)(f"{source.name}: {error}") from None
        if not made:
            self._observe(Source.MEMORY, 0.0)
        return program

    def compile(self, source: ModuleSource, *, waiting: Callable[[float], None] | None = None) -> Stored:
        """See that the module is in the store, without loading it. Raises as `load`."""
        try:
            held = self._held(source, waiting)
        except (ModuleError, ResourceExhausted) as error:
            raise type(error)(f"{source.name}: {error}") from None
        held.close()
        return Stored(digest=source.digest, new=held.new)

    def _make(
        self, source: ModuleSource, waiting: Callable[[float], None] | None
    ) -> "CoreProgram | ComponentProgram":
        digest, held = source.digest, self._held(source, waiting)
        try:
            program = load_program(self.runtime, digest, held)
        except wasmtime.WasmtimeError as error:
            # Ours by owner, mode and digest, yet of another version: never run, always made anew.
            held.close()
            problem = compiling.one_line(str(error))
            _log.warning("module store: %s… is thrown away and will be compiled anew: %s", digest[:12], problem)
            self._store.discard(digest)
            held = self._held(source, waiting)
            program = load_program(self.runtime, digest, held)
        self._observe(Source.COMPILED if held.new else Source.STORE, held.facts.compile_seconds)
        weakref.finalize(program, held.close)
        return program

    def _held(self, source: ModuleSource, waiting: Callable[[float], None] | None = None) -> Held:
        held = self._store.find(source.digest)
        if held is None:
            with self._store.compiling(source.digest):
                held = self._store.find(source.digest) or self._compile(source, waiting)
        return held

    def _compile(self, source: ModuleSource, waiting: Callable[[float], None] | None) -> Held:
        with (
            self._bounds.turns.take(len(source.data)),
            in_memory(source.data) as file,
            self._store.new_file(source.digest) as target,
        ):
            try:
                answer = self._runner.run(compiling.JOB, b"", (file, target), self._bounds.of_job, waiting)
            except JobFailed as failure:
                raise self._bounds.explain(failure) from None
            with self._store.writing():
                compiled = compiling.read_answer(answer)
            facts = Facts(
                kind=compiled.kind,
                spaces=compiled.spaces,
                image=compiled.image,
                interface=compiled.interface,
                source=source.file,
                source_size=len(source.data),
                compile_seconds=compiled.seconds,
            )
            return self._store.publish(source.digest, target, facts)

    def _load_own(self, runtime: Runtime, name: str) -> wasmtime.Module:
        held = self._held(_own(name))
        try:
            return runtime.load_module(held.path)
        finally:
            held.close()


def _own(name: str) -> ModuleSource:
    return ModuleSource(name=f"{name}.wat", data=own_source(name).encode())


def store_key() -> str:
    """The part of the store that holds what this engine, configuration and processor compiled."""
    about = f"wasmtime {VERSION} {CONFIGURATION} {_FORM} {platform.machine()} {processor_features()}"
    return f"wasmtime-{VERSION}-{hashlib.sha256(about.encode()).hexdigest()[:12]}"
