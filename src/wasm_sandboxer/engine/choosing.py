"""Both engines as one: wasmtime runs what it can, WasmEdge what only that can or what is said to run there."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, Union

from wasm_sandboxer.choices import EngineChoice
from wasm_sandboxer.engine import wasm
from wasm_sandboxer.engine.protocol import ImportItem, Kind, Program
from wasm_sandboxer.engine.source import Stored, read_again, read_source
from wasm_sandboxer.engine.wasmedge.imports import only_wasmedge
from wasm_sandboxer.engine.wasmtime.engine import WasmtimeEngine
from wasm_sandboxer.errors import ModuleError, Unavailable, UnknownFeature

if TYPE_CHECKING:
    from wasm_sandboxer.engine.wasmedge.engine import WasmEdgeEngine

_MOST_IMPORTS = 10_000  # that are looked at before an engine has seen the module
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
    ) -> None:
        """`wasmedge` makes that engine when it is needed; `preferred` is for those who leave the choice."""
        self.wasmtime = wasmtime
        self._make_wasmedge = wasmedge
        self._preferred = preferred

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
        name = name or str(path)
        choice = self._preferred if choice is EngineChoice.AUTO else choice

        with read_again(path, name) as source:

            def load(engine: Either) -> Program:
                return engine.load(source, name=name, waiting=waiting)

            chosen = self._choose(source, name, choice, load)
            if choice is EngineChoice.AUTO and chosen.engine is EngineChoice.WASMTIME:
                found = only_wasmedge(chosen.what.imports)  # of one in text, or by a type that wasmtime does not have
                if found is not None:
                    return self._on_wasmedge(name, _because_of(found), load)
            return chosen

    def compile(
        self, path: Path, *, choice: EngineChoice = EngineChoice.AUTO, waiting: Waiting = None
    ) -> Chosen[Stored]:
        """See that the module is in the store, for the engine that would run it; raises as `load`."""
        choice = self._preferred if choice is EngineChoice.AUTO else choice
        with read_again(path, str(path)) as source:
            return self._choose(source, str(path), choice, lambda engine: engine.compile(source, waiting=waiting))

    @cached_property
    def _wasmedge(self) -> "WasmEdgeEngine":
        return self._make_wasmedge()

    def _choose(self, path: Path, name: str, choice: EngineChoice, act: Callable[[Either], T]) -> Chosen[T]:
        if choice is EngineChoice.WASMEDGE:
            return Chosen(what=act(self._wasmedge), engine=choice, reason="it is asked for")
        if choice is EngineChoice.WASMTIME:
            return Chosen(what=act(self.wasmtime), engine=choice)
        found = only_wasmedge(_imports(path, name))
        if found is not None:
            return self._on_wasmedge(name, _because_of(found), act)
        try:
            return Chosen(what=act(self.wasmtime), engine=EngineChoice.WASMTIME)
        except UnknownFeature as error:
            try:
                reason = str(error).removeprefix(f"{name}: ")
                return self._on_wasmedge(name, reason, act)
            except ModuleError:  # which need not be told: few have the feature at all
                raise error from None

    def _on_wasmedge(self, name: str, reason: str, act: Callable[[Either], T]) -> Chosen[T]:
        try:
            return Chosen(what=act(self._wasmedge), engine=EngineChoice.WASMEDGE, reason=reason)
        except Unavailable as error:
            raise Unavailable(f"{name}: {reason}: {error}") from None


def _because_of(item: ImportItem) -> str:
    return f"it imports {item.module}::{item.name}, which only WasmEdge offers"


def _imports(path: Path, name: str) -> tuple[ImportItem, ...]:
    """The names of what a binary module imports; none where that cannot be told, which an engine will explain."""
    try:
        source = read_source(path, name)
        if wasm.looks_like_text(source) or wasm.kind_of(source) is Kind.COMPONENT:
            return ()
        return wasm.imports(source, at_most=_MOST_IMPORTS)
    except ModuleError:
        return ()
