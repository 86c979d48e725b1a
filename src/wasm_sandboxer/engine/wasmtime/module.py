"""A core module (preview 1) as a Program: what it needs, how it is entered, running its guests."""

import dataclasses
import functools
import pickle
from collections.abc import Callable
from typing import Any

import wasmtime

from wasm_sandboxer.engine.entry import COMMAND, REACTOR, describe_entry, entry_of
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.protocol import ANYWHERE, Carried, Control, ExportItem, ImportItem, Kind, Within
from wasm_sandboxer.engine.starting import EXPORT
from wasm_sandboxer.engine.store import Held
from wasm_sandboxer.engine.values import format_result
from wasm_sandboxer.engine.wasmtime import binding, results, traps, wasi
from wasm_sandboxer.engine.wasmtime.binding import Caller, EngineError, ffi
from wasm_sandboxer.engine.wasmtime.control import CellControl
from wasm_sandboxer.engine.wasmtime.holding import held as store_of
from wasm_sandboxer.engine.wasmtime.holding import not_made
from wasm_sandboxer.engine.wasmtime.inside import caller
from wasm_sandboxer.engine.wasmtime.instances import Import, Instances, instantiate
from wasm_sandboxer.engine.wasmtime.limits import check_memory
from wasm_sandboxer.engine.wasmtime.memories import MappedImage
from wasm_sandboxer.engine.wasmtime.missing import describe_missing
from wasm_sandboxer.engine.wasmtime.runtime import Runtime, store_context
from wasm_sandboxer.errors import ModuleError
from wasm_sandboxer.guest import Exit, Guest, Stdio


class CoreProgram:
    """See Program. Made by the engine from a compiled file; may be used by many threads at once."""

    kind = Kind.MODULE

    def __init__(self, runtime: Runtime, module: wasmtime.Module, digest: str, held: Held) -> None:
        facts = held.facts
        assert facts.interface is not None  # a component has none
        self._image = MappedImage(held.fd, facts.image) if facts.image is not None else None
        self.digest = digest
        self._held = held
        self.spaces = facts.spaces
        self.imports: tuple[ImportItem, ...] = facts.interface.imports
        self.exports: tuple[ExportItem, ...] = facts.interface.exports
        self._functions = facts.interface.functions
        self._starts = facts.interface.starts
        self._runtime = runtime
        self._module = module
        self._imports = [Import(item.module.encode(), item.name.encode()) for item in self.imports]

    def carry(self) -> Carried:
        """See Program."""
        return self._carried

    @functools.cached_property
    def _carried(self) -> Carried:
        """With what it takes to run, and nothing that is there to be described."""
        facts = self._held.facts
        assert facts.interface is not None
        interface = dataclasses.replace(
            facts.interface,
            imports=tuple(dataclasses.replace(item, type="") for item in self.imports),
            exports=(),
        )
        about = pickle.dumps((self.digest, dataclasses.replace(facts, interface=interface), None))
        return Carried(about=about, code=self._held.fd)

    def needs(self) -> list[str]:
        """See Program."""
        if self._missing:
            return [self._missing]
        lines = [f"WASI preview 1 ({len(self._imports)} functions)" if self._imports else "no WASI"]
        lines.append(describe_entry(self._functions))
        return lines

    def check(self, guest: Guest) -> None:
        """See Program."""
        if self._missing:
            raise ModuleError(self._missing)
        check_memory(self.spaces, guest.limits)
        entry_of(self._functions, guest)

    def control(self, guest: Guest, stdio: Stdio, pool: MemoryPool | None) -> CellControl:
        """See Program."""
        own = MemoryPool.of_guest(guest.limits.memory, pool)
        return CellControl(self._runtime, stdio, own, files=guest.limits.files)

    def run(
        self, guest: Guest, stdio: Stdio, control: Control, ready: Callable[[], None], within: Within = ANYWHERE
    ) -> Exit:
        """See Program."""
        assert isinstance(control, CellControl)  # from control()
        name, arguments = entry_of(self._functions, guest)
        into_guest = caller(control, within)
        with store_of(self._runtime, self.spaces, guest, control, self._image) as store:
            context = store_context(store)
            binding.check(ffi.wasmtime_context_set_wasi(context, wasi.build(guest)))
            try:
                made = instantiate(self._runtime, context, self._module, self._imports, control, stdio)
                self._start(made, into_guest)
            except EngineError as error:
                if error.exit_status is None and not (error.trap or control.stopped):
                    raise not_made(error, control) from None
                return traps.exit_of(error, control)
            ready()
            try:
                end = self._enter(made, name, arguments, stdio.stdout, into_guest)
            except EngineError as error:
                error.exit_status = made.exit_code()
                end = traps.exit_of(error, control)
            return dataclasses.replace(end, peak_memory=control.memory())

    @functools.cached_property
    def _missing(self) -> str:
        """Which imports nobody here defines; for people, and empty for none."""
        try:
            self._runtime.linker.instantiate_pre(self._module)
        except wasmtime.WasmtimeError as error:
            return describe_missing(self._runtime, self.imports, str(error))
        return ""

    def _start(self, made: Instances, into_guest: Caller) -> None:
        """Call the guest's start function, if it has one."""
        if not self._starts:
            return
        function = made.export(EXPORT.encode()).of.func
        none = (ffi.wasmtime_val_t * 0)()
        try:
            binding.call(made.context, function, none, none, into_guest)
        except EngineError as error:
            error.exit_status = made.exit_code()
            raise

    def _enter(
        self, made: Instances, name: str, arguments: list[int | float], out: int | None, into_guest: Caller
    ) -> Exit:
        """Call the guest's function, after `_initialize` in a reactor."""
        if name not in (COMMAND, REACTOR) and REACTOR in self._functions:
            self._call(made, REACTOR, [], None, into_guest)
        return self._call(made, name, arguments, out, into_guest)

    def _call(
        self, made: Instances, name: str, arguments: list[int | float], out: int | None, into_guest: Caller
    ) -> Exit:
        signature = self._functions[name]
        raw = [binding.value(kind, number) for kind, number in zip(signature.params, arguments, strict=True)]
        given = (ffi.wasmtime_val_t * len(raw))(*raw)
        returned = (ffi.wasmtime_val_t * len(signature.results))()
        function = made.export(name.encode()).of.func
        binding.call(made.context, function, given, returned, into_guest)
        lines = [f"{_result(kind, value)}\n" for kind, value in zip(signature.results, returned, strict=True)]
        return results.write(out, "".join(lines))


def _result(kind: str, value: Any) -> str:
    known = kind in {"i32", "i64", "f32", "f64"}
    return format_result(kind, getattr(value.of, kind)) if known else f"({kind})"
