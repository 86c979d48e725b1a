"""The wasmtime engine: from a file to a Program, through the module store.

A module is compiled once per content. Programs are shared and kept while anybody uses them; beyond that the
most recent ones stay, so that a restarted container finds its module mapped.
"""

import functools
import hashlib
import logging
import os
import platform
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import wasmtime

from wasm_sandboxer.engine import wasm
from wasm_sandboxer.engine.store import Facts, Held, ModuleStore
from wasm_sandboxer.engine.wasmtime import compiling
from wasm_sandboxer.engine.wasmtime.binding import VERSION
from wasm_sandboxer.engine.wasmtime.module import CoreProgram
from wasm_sandboxer.engine.wasmtime.runtime import CONFIGURATION, Runtime, own_source
from wasm_sandboxer.errors import ModuleError, ResourceExhausted
from wasm_sandboxer.forking.job import LocalRunner
from wasm_sandboxer.forking.jobs import Bounds, JobEnd, JobFailed, Runner
from wasm_sandboxer.guest import Guest, Stdio
from wasm_sandboxer.units import format_size

if TYPE_CHECKING:
    from wasm_sandboxer.engine.wasmtime.component import ComponentProgram

MAX_SOURCE = 512 << 20
ENGINE_THREAD = "tokio-rt-worker"  # what the engine's own threads are called, in wasmtime 47
_KEPT_PROGRAMS = 32
_log = logging.getLogger(__name__)
# A call about files starts the engine's runtime, also one about a file that is not there.
_WARM_UP = b"""(module
  (import "wasi_snapshot_preview1" "fd_filestat_get" (func $fd_filestat_get (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (drop (call $fd_filestat_get (i32.const 99) (i32.const 0)))))"""


@dataclass(frozen=True, kw_only=True)
class CompileBounds:
    """What compiling one module may use; bytes beyond the child's own, and seconds."""

    memory: int = 2 << 30
    seconds: float = 120


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A module that is in the store; `new` if it was compiled just now."""

    digest: str
    new: bool


class WasmtimeEngine:
    """See Engine. Any thread may load; one compilation per content at a time, across processes too."""

    def __init__(
        self, store: ModuleStore, *, bounds: CompileBounds | None = None, runner: Runner | None = None
    ) -> None:
        self._store = store
        self._bounds = bounds or CompileBounds()
        self._runner: Runner = runner or LocalRunner(compiling.JOBS)
        self._lock = threading.Lock()
        self._compiling: dict[str, threading.Lock] = {}
        self._programs: weakref.WeakValueDictionary[str, CoreProgram | ComponentProgram] = (
            weakref.WeakValueDictionary()
        )
        self._recent: OrderedDict[str, CoreProgram | ComponentProgram] = OrderedDict()

    @functools.cached_property
    def runtime(self) -> Runtime:
        """The engine proper, made at first use: a module that does not compile never needs it."""
        return Runtime(self._load_own)

    def warm_up(self) -> None:
        """Make the engine and its threads now, on the calling thread: they belong to whoever makes them first.

        Born of a guest, they would stay in that guest's control group, and serve all others from there.
        """
        held = self._held(hashlib.sha256(_WARM_UP).hexdigest(), _WARM_UP, "warm-up.wat")
        program = self._program("warm-up", held)
        guest, stdio = Guest(module=Path("warm-up"), argv=("warm-up",)), Stdio()
        control = program.control(guest, stdio, None)
        program.run(guest, stdio, control, lambda: None)
        control.close()
        held.close()

    def load(
        self, path: Path, *, name: str | None = None, waiting: Callable[[float], None] | None = None
    ) -> "CoreProgram | ComponentProgram":
        """See Engine; `waiting` is told while it compiles how long that takes."""
        name = name or str(path)
        try:
            source = _read(path, name)
            digest = hashlib.sha256(source).hexdigest()
            with self._lock:
                program = self._programs.get(digest)
            if program is None:
                with self._one_at_a_time(digest):
                    short = name.rpartition("/")[2]
                    program = self._programs.get(digest) or self._make(digest, source, short, waiting)
                    self._remember(program)  # before the next in line looks for it
        except (ModuleError, ResourceExhausted) as error:
            raise type(error)(f"{name}: {error}") from None
        self._remember(program)
        return program

    def compile(self, path: Path, *, waiting: Callable[[float], None] | None = None) -> "Stored":
        """See that the module is in the store, without loading it. Raises ModuleError that names the path."""
        try:
            source = _read(path, str(path))
            digest = hashlib.sha256(source).hexdigest()
            held = self._held(digest, source, path.name, waiting=waiting)
            held.close()
        except (ModuleError, ResourceExhausted) as error:
            raise type(error)(f"{path}: {error}") from None
        return Stored(digest=digest, new=held.new)

    def _remember(self, program: "CoreProgram | ComponentProgram") -> None:
        with self._lock:
            self._programs[program.digest] = program
            self._recent[program.digest] = program
            self._recent.move_to_end(program.digest)
            while len(self._recent) > _KEPT_PROGRAMS:
                self._recent.popitem(last=False)

    def _one_at_a_time(self, digest: str) -> threading.Lock:
        with self._lock:
            return self._compiling.setdefault(digest, threading.Lock())

    def _make(
        self, digest: str, source: bytes, name: str, waiting: Callable[[float], None] | None
    ) -> "CoreProgram | ComponentProgram":
        held = self._held(digest, source, name, waiting=waiting)
        try:
            program = self._program(digest, held)
        except wasmtime.WasmtimeError as error:
            # Ours by owner, mode and digest, yet of another version: never run, always made anew.
            held.close()
            problem = compiling.one_line(str(error))
            _log.warning("module store: %s… is thrown away and will be compiled anew: %s", digest[:12], problem)
            self._store.discard(digest)
            held = self._held(digest, source, name, waiting=waiting)
            program = self._program(digest, held)
        weakref.finalize(program, held.close)
        return program

    def _program(self, digest: str, held: Held) -> "CoreProgram | ComponentProgram":
        facts = held.facts
        if facts.interface is None:
            from wasm_sandboxer.engine.wasmtime.component import ComponentProgram  # noqa: PLC0415  # start-up time

            component = self.runtime.load_component(held.path)
            return ComponentProgram(self.runtime, component, digest, facts.spaces)
        return CoreProgram(self.runtime, self.runtime.load_module(held.path), digest, facts, held.fd)

    def _held(
        self,
        digest: str,
        source: bytes,
        name: str,
        *,
        waiting: Callable[[float], None] | None = None,
    ) -> Held:
        held = self._store.find(digest)
        if held is None:
            with self._store.compiling(digest):
                held = self._store.find(digest) or self._compile(digest, source, name, waiting)
        return held

    def _compile(self, digest: str, source: bytes, name: str, waiting: Callable[[float], None] | None) -> Held:
        bounds = Bounds(memory=self._bounds.memory, seconds=self._bounds.seconds)
        with _in_memory(source) as file, self._store.new_file(digest) as target:
            try:
                answer = self._runner.run(compiling.JOB, b"", (file, target), bounds, waiting)
            except JobFailed as failure:
                raise self._explain(failure) from None
            compiled = compiling.read_answer(answer)
            facts = Facts(
                kind=compiled.kind,
                spaces=compiled.spaces,
                image=compiled.image,
                interface=compiled.interface,
                source=name,
                source_size=len(source),
                compile_seconds=compiled.seconds,
            )
            return self._store.publish(digest, target, facts)

    def _explain(self, failure: JobFailed) -> ResourceExhausted | ModuleError:
        match failure.end:
            case JobEnd.MEMORY:
                bound = f"{format_size(self._bounds.memory)}; raise --compile-memory if you trust it"
                return ResourceExhausted(f"compiling it needs more memory than its bound of {bound}")
            case JobEnd.TIME:
                bound = f"{self._bounds.seconds:g} s; raise --compile-timeout if you trust it"
                return ResourceExhausted(f"compiling it takes longer than its bound of {bound}")
        return ModuleError(f"compiling it failed: {failure}")

    def _load_own(self, runtime: Runtime, name: str) -> wasmtime.Module:
        source = own_source(name).encode()
        digest = hashlib.sha256(source).hexdigest()
        held = self._held(digest, source, f"{name}.wat")
        try:
            return runtime.load_module(held.path)
        finally:
            held.close()


def store_key() -> str:
    """The part of the store that holds what this engine, configuration and processor compiled."""
    about = f"wasmtime {VERSION} {CONFIGURATION} {platform.machine()} {_cpu_features()}"
    return f"wasmtime-{VERSION}-{hashlib.sha256(about.encode()).hexdigest()[:12]}"


@contextmanager
def _in_memory(source: bytes) -> Iterator[int]:
    """A descriptor that another process can read the source from."""
    fd = os.memfd_create("module", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:  # closed below
            file.write(source)
        yield fd
    finally:
        os.close(fd)


def _cpu_features() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(("flags", "Features")):
                return " ".join(sorted(line.partition(":")[2].split()))
    return ""


def _read(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_SOURCE:
                raise ModuleError(f"the file has {format_size(size)}; at most {format_size(MAX_SOURCE)} are read")
            data = file.read(MAX_SOURCE)
    except FileNotFoundError:
        raise ModuleError("no such file") from None
    except IsADirectoryError:
        raise ModuleError("this is a folder, not a WebAssembly module") from None
    except OSError as error:
        raise ModuleError(f"cannot be read: {error.strerror}") from None
    if name.endswith(".cwasm"):
        raise ModuleError("compiled code is only trusted from the module store; give the .wasm it was made from")
    if not wasm.looks_like_text(data):
        wasm.kind_of(data)
    return data
