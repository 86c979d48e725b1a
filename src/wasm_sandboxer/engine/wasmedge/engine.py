"""The WasmEdge engine: from a file to a Program that WasmEdge runs, through the module store."""

import functools
import hashlib
import os
import platform
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from wasm_sandboxer.engine.programs import Programs
from wasm_sandboxer.engine.protocol import Kind, LoadObserver, Source
from wasm_sandboxer.engine.source import CompileBounds, ModuleSource, Stored, in_memory, processor_features
from wasm_sandboxer.engine.store import Facts, Held, ModuleStore
from wasm_sandboxer.engine.wasmedge import compiling, tool
from wasm_sandboxer.engine.wasmedge.binary import Binary, Finder
from wasm_sandboxer.engine.wasmedge.files import Files
from wasm_sandboxer.engine.wasmedge.names import Names
from wasm_sandboxer.engine.wasmedge.program import WasmEdgeProgram
from wasm_sandboxer.errors import ModuleError, ResourceExhausted
from wasm_sandboxer.forking.jobs import Bounds, JobFailed, Runner

_TRY_SECONDS = 30
Waiting = Callable[[float], None] | None


class WasmEdgeEngine:
    """See Engine. Any thread; WasmEdge is looked for with each module, so that it may come and go."""

    def __init__(
        self,
        root: Path,
        runner: Runner,
        *,
        binary: Path | None = None,
        bounds: CompileBounds | None = None,
        capacity: int,
        observe: LoadObserver | None = None,
    ) -> None:
        """`root` and `capacity` are the module store's, `binary` a WasmEdge that goes before any other."""
        self._root = root
        self._runner = runner
        self._bounds = bounds or CompileBounds()
        self._capacity = capacity
        self._finder = Finder(runner, binary)
        self._observe: LoadObserver = observe or (lambda source, seconds: None)  # noqa: ARG005  # nobody counts
        self._lock = threading.Lock()
        self._stores: dict[str, ModuleStore] = {}
        self._programs: Programs[WasmEdgeProgram] = Programs()

    def binary(self) -> Binary:
        """The WasmEdge that would be used; raises Unavailable, saying what is wrong and what to do."""
        return self._finder.find()

    def load(self, source: ModuleSource, *, waiting: Waiting = None) -> WasmEdgeProgram:
        """The source's program. Raises as WasmtimeEngine.load, and Unavailable where there is no WasmEdge."""
        made = False

        def make() -> WasmEdgeProgram:
            nonlocal made
            made = True
            return self._make(binary, source, waiting)

        try:
            binary = self.binary()
            program = self._programs.get(f"{source.digest} {binary.path} {binary.version}", make)
        except (ModuleError, ResourceExhausted) as error:
            self._observe(Source.FAILED, 0.0)
            raise type(error)(f"{source.name}: {error}") from None
        if not made:
            self._observe(Source.MEMORY, 0.0)
        return program

    def compile(self, source: ModuleSource, *, waiting: Waiting = None) -> Stored:
        """See that the module is in the store, without loading it. Raises as `load`."""
        try:
            held = self._held(self.binary(), source, waiting)
        except (ModuleError, ResourceExhausted) as error:
            raise type(error)(f"{source.name}: {error}") from None
        held.close()
        return Stored(digest=source.digest, new=held.new)

    @functools.cached_property
    def _names(self) -> Names:
        return Names(self._root / "names")

    def _make(self, binary: Binary, source: ModuleSource, waiting: Waiting) -> WasmEdgeProgram:
        held = self._held(binary, source, waiting)
        self._observe(Source.COMPILED if held.new else Source.STORE, held.facts.compile_seconds)
        files = Files(held)
        link = functools.partial(self._link, binary, files)
        program = WasmEdgeProgram(binary, source.digest, held.facts, files, self._names, link)
        weakref.finalize(program, files.close)
        return program

    def _held(self, binary: Binary, source: ModuleSource, waiting: Waiting) -> Held:
        store = self._store(binary)
        held = store.find(source.digest)
        if held is None:
            with store.compiling(source.digest):
                held = store.find(source.digest) or self._prepare(store, binary, source, waiting)
        return held

    def _prepare(self, store: ModuleStore, binary: Binary, source: ModuleSource, waiting: Waiting) -> Held:
        with (
            self._bounds.turns.take(len(source.data)),
            in_memory(source.data) as file,
            store.new_file(source.digest) as target,
            tempfile.TemporaryDirectory(prefix="wasm-sandboxer-") as scratch,
        ):
            request = compiling.prepare_request(binary, scratch, self._bounds.memory)
            bounds = Bounds(memory=tool.ADDRESSES, seconds=self._bounds.seconds)
            try:
                answer = self._runner.run(compiling.PREPARE, request, (file, target), bounds, waiting)
            except JobFailed as failure:
                raise self._bounds.explain(failure) from None
            prepared = compiling.read_prepared(answer)
            os.fchmod(target, 0o644)  # the process that reads it may be another user's; nobody else gets to it
            facts = Facts(
                kind=Kind.MODULE,
                spaces=prepared.spaces,
                interface=prepared.interface,
                image=None,
                source=source.file,
                source_size=len(source.data),
                compile_seconds=prepared.seconds,
            )
            return store.publish(source.digest, target, facts)

    def _link(self, binary: Binary, files: Files, plugins: Path | None, models: bool) -> None:  # noqa: FBT001
        """Raise ModuleError if the module does not find its imports, or models nobody to load them."""
        bounds = Bounds(memory=tool.ADDRESSES, seconds=_TRY_SECONDS)
        request = compiling.try_request(binary, plugins, models=models)
        try:
            answer = self._runner.run(compiling.TRY, request, (files.descriptor(None),), bounds)
        except JobFailed as failure:
            raise ModuleError(f"cannot find out whether it links: {failure}") from None
        compiling.read_tried(answer)

    def _store(self, binary: Binary) -> ModuleStore:
        with self._lock:
            if binary.version not in self._stores:
                key = _store_key(binary.version)
                self._stores[binary.version] = ModuleStore(self._root, key, capacity=self._capacity)
            return self._stores[binary.version]


def _store_key(version: str) -> str:
    """The part of the store that holds what this version compiled for this processor, as we have it compile."""
    about = " ".join((version, *compiling.COMPILE, platform.machine(), processor_features()))
    return f"wasmedge-{version}-{hashlib.sha256(about.encode()).hexdigest()[:12]}"
