"""Both engines as one: wasmtime runs what it can, WasmEdge what only that can or what is said to run there."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, Union

from wasm_sandboxer.choices import EngineChoice
from wasm_sandboxer.engine import wasm
from wasm_sandboxer.engine.protocol import ImportItem, Kind, LoadObserver, Program, Source
from wasm_sandboxer.engine.source import ModuleSource, Stored, read_source
from wasm_sandboxer.engine.wasmedge.imports import only_wasmedge
from wasm_sandboxer.engine.wasmtime.engine import WasmtimeEngine
from wasm_sandboxer.errors import ModuleError, Unavailable, UnknownFeature

if TYPE_CHECKING:
    from wasm_sandboxer.engine.wasmedge.engine import WasmEdgeEngine

_MOST_IMPORTS = 10_000  # that are looked at before an engine has seen the module
_REMEMBERED = 1024  # modules whose imports were looked at
# Sources in memory at a time that are larger than so many bytes: many may wait to be compiled. A guess.
_LARGE, _LARGE_ONES = 16 << 20, 16
_log = logging.getLogger(__name__)
T = TypeVar("T")
Either: TypeAlias = Union[WasmtimeEngine, "WasmEdgeEngine"]
Waiting: TypeAlias = Callable[[float], None] | None


@dataclass(frozen=True, kw_only=True)
class Chosen(Generic[T]):
    """What an engine made of a module, which engine, and why it is not wasmtime."""

    what: T
    engine: EngineChoice
    reason: str = ""


class ChoosingEngine:
    """See Engine; any thread."""

    def __init__(
        self,
        wasmtime: WasmtimeEngine,
        wasmedge: "Callable[[], WasmEdgeEngine]",
        preferred: EngineChoice = EngineChoice.AUTO,
        observe: LoadObserver | None = None,
    ) -> None:
        """`wasmedge` makes that engine when it is needed; `preferred` is for those who leave the choice.

        `observe` is told of files that no engine was given.
        """
        self.wasmtime = wasmtime
        self._make_wasmedge = wasmedge
        self._preferred = preferred
        self._observe: LoadObserver = observe or (lambda source, seconds: None)  # noqa: ARG005  # nobody counts
        self._large = threading.Semaphore(_LARGE_ONES)
        self._lock = threading.Lock()  # of what follows
        self._looked_at: dict[str, ImportItem | None] = {}

    def load(self, path: Path, *, name: str | None = None, choice: EngineChoice = EngineChoice.AUTO) -> Program:
        """See Engine; raises Unavailable if only WasmEdge could run it and there is none."""
        chosen = self.choose(path, name=name, choice=choice)
        if chosen.reason:
            _log.info("%s runs on WasmEdge: %s", name or path, chosen.reason)
        return chosen.what

    def choose(
        self,
        path: Path,
        *,
        name: str | None = None,
        choice: EngineChoice = EngineChoice.AUTO,
        waiting: Waiting = None,
    ) -> Chosen[Program]:
        """The program with what runs it, and why; raises as `load`."""
        choice = self._preferred if choice is EngineChoice.AUTO else choice
        with self._source(path, name) as source:

            def load(engine: Either) -> Program:
                return engine.load(source, waiting=waiting)

            chosen = self._choose(source, choice, load)
            if choice is EngineChoice.AUTO and chosen.engine is EngineChoice.WASMTIME:
                found = only_wasmedge(chosen.what.imports)  # of one in text, or by a type that wasmtime does not have
                if found is not None:
                    return self._on_wasmedge(source.name, _because_of(found), load)
            return chosen

    def compile(
        self, path: Path, *, choice: EngineChoice = EngineChoice.AUTO, waiting: Waiting = None
    ) -> Chosen[Stored]:
        """See that the module is in the store, for the engine that would run it; raises as `load`."""
        choice = self._preferred if choice is EngineChoice.AUTO else choice
        with self._source(path, None) as source:
            return self._choose(source, choice, lambda engine: engine.compile(source, waiting=waiting))

    @contextmanager
    def _source(self, path: Path, name: str | None) -> Iterator[ModuleSource]:
        """The module's source for as long as it is needed; if it is large, once few enough others are."""
        with self._large if _is_large(path) else nullcontext():
            yield self._read(path, name)

    def _read(self, path: Path, name: str | None) -> ModuleSource:
        try:
            return read_source(path, name)
        except ModuleError:
            self._observe(Source.FAILED, 0.0)
            raise

    @cached_property
    def _wasmedge(self) -> "WasmEdgeEngine":
        return self._make_wasmedge()

    def _choose(self, source: ModuleSource, choice: EngineChoice, act: Callable[[Either], T]) -> Chosen[T]:
        if choice is EngineChoice.WASMEDGE:
            return Chosen(what=act(self._wasmedge), engine=choice, reason="it is asked for")
        if choice is EngineChoice.WASMTIME:
            return Chosen(what=act(self.wasmtime), engine=choice)
        found = self._foreign(source)
        if found is not None:
            return self._on_wasmedge(source.name, _because_of(found), act)
        try:
            return Chosen(what=act(self.wasmtime), engine=EngineChoice.WASMTIME)
        except UnknownFeature as error:
            try:
                reason = str(error).removeprefix(f"{source.name}: ")
                return self._on_wasmedge(source.name, reason, act)
            except ModuleError:  # which need not be told: few have the feature at all
                raise error from None

    def _foreign(self, source: ModuleSource) -> ImportItem | None:
        """What it imports that only WasmEdge offers; looked for once in each content."""
        with self._lock:
            if source.digest in self._looked_at:
                return self._looked_at[source.digest]
        found = only_wasmedge(_imports(source.data))
        with self._lock:
            self._looked_at[source.digest] = found
            while len(self._looked_at) > _REMEMBERED:
                del self._looked_at[next(iter(self._looked_at))]
        return found

    def _on_wasmedge(self, name: str, reason: str, act: Callable[[Either], T]) -> Chosen[T]:
        try:
            return Chosen(what=act(self._wasmedge), engine=EngineChoice.WASMEDGE, reason=reason)
        except Unavailable as error:
            raise Unavailable(f"{name}: {reason}: {error}") from None


def _is_large(path: Path) -> bool:
    with suppress(OSError):  # which reading it will say
        return os.stat(path).st_size > _LARGE  # noqa: PTH116  # the cheaper of the two
    return False


def _because_of(item: ImportItem) -> str:
    return f"it imports {item.module}::{item.name}, which only WasmEdge offers"


def _imports(data: bytes) -> tuple[ImportItem, ...]:
    """The names of what a binary module imports; none where that cannot be told, which an engine will explain."""
    try:
        if wasm.looks_like_text(data) or wasm.kind_of(data) is Kind.COMPONENT:
            return ()
        return wasm.imports(data, at_most=_MOST_IMPORTS)
    except ModuleError:
        return ()
