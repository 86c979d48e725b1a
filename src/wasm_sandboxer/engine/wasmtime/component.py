"""A component (preview 2) as a Program: linking it to wasmtime's own WASI, running its command or a function.

A component waits in native code that nothing outside can interrupt, so a stop reaches it only while it runs
Wasm. Whoever needs it dead at once runs it in a process.
"""

import ctypes
import dataclasses
import functools
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any

import wasmtime
from wasmtime import component as api

from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.protocol import ANYWHERE, Carried, Control, ExportItem, ImportItem, Kind, Within
from wasm_sandboxer.engine.store import Held
from wasm_sandboxer.engine.wasmtime import binding, component_values, results, traps, wasi
from wasm_sandboxer.engine.wasmtime.binding import EngineError, ffi
from wasm_sandboxer.engine.wasmtime.control import CellControl
from wasm_sandboxer.engine.wasmtime.holding import held as store_of
from wasm_sandboxer.engine.wasmtime.holding import not_made
from wasm_sandboxer.engine.wasmtime.limits import check_memory
from wasm_sandboxer.engine.wasmtime.missing import hint
from wasm_sandboxer.engine.wasmtime.runtime import Runtime, store_context
from wasm_sandboxer.errors import ModuleError
from wasm_sandboxer.guest import Exit, Guest, Network, Reason, Stdio

_RUN = re.compile(r"wasi:cli/run@0\.2\.\d+")
_OFFERED = re.compile(r"wasi:(cli|clocks|filesystem|io|random|sockets)/[a-z0-9-]+@0\.2\.\d+")
_OFFERED_WITH_NETWORK = re.compile(r"wasi:http/(types|outgoing-handler)@0\.2\.\d+")

_RESULT = ffi.WASMTIME_COMPONENT_RESULT.value
_NEEDED = (api.ComponentInstanceType, api.FuncType)  # imports that must be given; types need not be


class ComponentProgram:
    """See Program. Made by the loader from a compiled file; may be used by many threads at once."""

    kind = Kind.COMPONENT

    def __init__(
        self, runtime: Runtime, component: api.Component, digest: str, held: Held, command: str | None = None
    ) -> None:
        """`command` is its wasi:cli/run, if that is known."""
        if command is not None:
            self._command = command
        self.digest = digest
        self.spaces = held.facts.spaces
        self._held = held
        self._runtime = runtime
        self._component = component

    @functools.cached_property
    def _imports(self) -> Mapping[str, Any]:
        return self._component.type.imports(self._runtime.engine)

    @functools.cached_property
    def _exports(self) -> Mapping[str, Any]:
        return self._component.type.exports(self._runtime.engine)

    @functools.cached_property
    def _command(self) -> str | None:
        return next((name for name in self._exports if _RUN.fullmatch(name)), None)

    def carry(self) -> Carried:
        """See Program; with the name that takes longest to find."""
        return self._carried

    @functools.cached_property
    def _carried(self) -> Carried:
        return Carried(about=pickle.dumps((self.digest, self._held.facts, self._command)), code=self._held.fd)

    @functools.cached_property
    def imports(self) -> tuple[ImportItem, ...]:
        """See Program."""
        return tuple(
            ImportItem(module=name, name=inner, type=component_values.item_text(ty))
            for name, item in self._imports.items()
            for inner, ty in component_values.members(item, self._runtime.engine)
        )

    @functools.cached_property
    def exports(self) -> tuple[ExportItem, ...]:
        """See Program."""
        return tuple(
            ExportItem(name=f"{name}#{inner}" if inner else name, type=component_values.item_text(ty))
            for name, item in self._exports.items()
            for inner, ty in component_values.members(item, self._runtime.engine)
        )

    def needs(self) -> list[str]:
        """See Program."""
        packages = sorted({name.split("/")[0] for name in self._imports if name.startswith("wasi:")})
        lines = [f"WASI preview 2 ({', '.join(packages)})" if packages else "no WASI"]
        lines += [
            f"missing import {name}: {hint(ImportItem(module=name, name='', type=''))}"
            for name, item in self._imports.items()
            if isinstance(item, _NEEDED) and not self._is_offered(name, Network.HOST)
        ]
        if any(name.startswith(("wasi:sockets/", "wasi:http/")) for name in self._imports):
            lines.append("--network host, to reach anything with its sockets or requests")
        if self._command is None:
            lines.append(f"a function to call{self._what_it_exports()}")
        else:
            lines.append(f"nothing more: it is a command ({self._command})")
        return lines

    def check(self, guest: Guest) -> None:
        """See Program."""
        for name, item in self._imports.items():
            if isinstance(item, _NEEDED) and not self._is_offered(name, guest.network):
                raise ModuleError(f"missing import {name}: {hint(ImportItem(module=name, name='', type=''))}")
        check_memory(self.spaces, guest.limits)
        if guest.function is not None:
            component_values.parse_arguments(guest.function, self._function_type(guest.function), guest.argv[1:])
        elif self._command is None:
            raise ModuleError(f"it exports no wasi:cli/run{self._what_it_exports()}")

    def control(self, guest: Guest, stdio: Stdio, pool: MemoryPool | None) -> CellControl:
        """See Program."""
        own = MemoryPool.of_guest(guest.limits.memory, pool)
        return CellControl(self._runtime, stdio, own, files=guest.limits.files)

    def run(
        self, guest: Guest, stdio: Stdio, control: Control, ready: Callable[[], None], within: Within = ANYWHERE
    ) -> Exit:
        """See Program."""
        assert isinstance(control, CellControl)  # from control()
        with store_of(self._runtime, self.spaces, guest, control) as store:
            context = store_context(store)
            binding.check(ffi.wasmtime_context_set_wasi(context, wasi.build(guest, stdio)))
            linker = self._runtime.component_linker(http=guest.network is Network.HOST)
            if guest.network is Network.HOST:
                ffi.wasmtime_context_set_wasi_http(context)
            instance = None
            try:
                instance = _instantiate(linker, store, self._component, within)
                ready()
                end = self._call(store, instance, guest, stdio, within)
            except EngineError as error:
                if instance is None and error.exit_status is None and not control.stopped:
                    raise not_made(error, control) from None
                end = traps.exit_of(error, control)
            return dataclasses.replace(end, peak_memory=control.memory())

    def _is_offered(self, name: str, network: Network) -> bool:
        with_network = network is Network.HOST and _OFFERED_WITH_NETWORK.fullmatch(name)
        return bool(_OFFERED.fullmatch(name) or with_network)

    def _call(self, store: wasmtime.Store, instance: Any, guest: Guest, stdio: Stdio, within: Within) -> Exit:
        if guest.function is None:
            return self._call_command(store, instance, within)
        ty = self._function_type(guest.function)
        arguments = component_values.parse_arguments(guest.function, ty, guest.argv[1:])
        result = _invoke(store, _find(store, instance, guest.function), arguments, within)
        text = "" if ty.result is None else f"{component_values.format_result(result)}\n"
        return results.write(stdio.stdout, text)

    def _call_command(self, store: wasmtime.Store, instance: Any, within: Within) -> Exit:
        """Call its wasi:cli/run; not by the package, which first makes objects of its type and all types of that."""
        assert self._command is not None  # by check()
        function = _find(store, instance, f"{self._command}#run")
        result = ffi.wasmtime_component_val_t()
        given = (ctypes.byref(function), store_context(store), None, 0, ctypes.byref(result), 1)
        with within.entered():
            error = ffi.wasmtime_component_func_call(*given)
        binding.check(error)
        failed = result.kind == _RESULT and not result.of.result.is_ok
        ffi.wasmtime_component_val_delete(ctypes.byref(result))
        return Exit(code=1 if failed else 0, reason=Reason.EXITED)

    def _function_type(self, function: str) -> api.FuncType:
        outer, _, inner = function.rpartition("#")
        item: Any = self._exports.get(outer or function)
        if outer and isinstance(item, api.ComponentInstanceType):
            item = item.exports(self._runtime.engine).get(inner)
        if not isinstance(item, api.FuncType):
            raise ModuleError(f"it exports no function {function!r}{self._what_it_exports()}")
        return item

    def _what_it_exports(self) -> str:
        names = [item.name for item in self.exports if item.type.startswith("func")]
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        return f"; name one as MODULE#FUNCTION: {shown}" if names else "; it exports no function at all"


def _instantiate(linker: api.Linker, store: wasmtime.Store, component: api.Component, within: Within) -> Any:
    instance = ffi.wasmtime_component_instance_t()
    given = (linker.ptr(), store_context(store), component.ptr(), ctypes.byref(instance))
    with within.entered():
        error = ffi.wasmtime_component_linker_instantiate(*given)
    binding.check(error)
    return instance


def _find(store: wasmtime.Store, instance: Any, path: str) -> Any:
    """A function that check() has seen among the exports."""
    outer, _, inner = path.rpartition("#")
    index = _index(store, instance, outer, None) if outer else None
    try:
        found = _index(store, instance, inner, index)
    finally:
        if index is not None:
            ffi.wasmtime_component_export_index_delete(index)
    function = ffi.wasmtime_component_func_t()
    is_one = ffi.wasmtime_component_instance_get_func(
        ctypes.byref(instance), store_context(store), found, ctypes.byref(function)
    )
    ffi.wasmtime_component_export_index_delete(found)
    assert is_one, path
    return function


def _index(store: wasmtime.Store, instance: Any, name: str, within: Any) -> Any:
    encoded = name.encode()
    found = ffi.wasmtime_component_instance_get_export_index(
        ctypes.byref(instance), store_context(store), within, binding.name_buffer(encoded), len(encoded)
    )
    assert found, name
    return found


def _invoke(store: wasmtime.Store, function: Any, arguments: list[Any], within: Within) -> Any:
    try:
        with within.entered():
            return api.Func._from_raw(function)(store, *arguments)  # noqa: SLF001  # private; the version is pinned
    except wasmtime.ExitTrap as end:
        raise EngineError(str(end), exit_status=end.code) from None
    except wasmtime.WasmtimeError as error:
        raise EngineError(str(error)) from None
