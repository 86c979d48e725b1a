"""A core guest's instances: the trampoline, the guest itself, and the shim between it and WASI.

All belong to one store and are used by its thread only.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import wasmtime

from wasm_sandboxer.engine.wasmtime import binding
from wasm_sandboxer.engine.wasmtime.binding import WASI, ffi
from wasm_sandboxer.engine.wasmtime.control import CellControl
from wasm_sandboxer.engine.wasmtime.runtime import Runtime
from wasm_sandboxer.guest import Stdio

_NONE = (ffi.wasmtime_val_t * 0)()

_WASI = WASI.encode()
SHIM_IMPORTS = (
    b"poll_oneoff", b"fd_read", b"fd_write", b"fd_fdstat_get", b"fd_close", b"fd_renumber", b"random_get",
    b"clock_time_get", b"path_open", b"path_filestat_get",
)  # fmt: skip  # of WASI, in shim.wat's order
_SHIMMED = frozenset(SHIM_IMPORTS) - {b"clock_time_get", b"path_filestat_get"}
_TRAMPOLINE = _SHIMMED | {b"proc_exit"}
_SERVED = 8  # the shim's flag of descriptor 0; those of 1 and 2 follow


@dataclass(frozen=True)
class Import:
    """What a module imports, as the C API takes names."""

    module: bytes
    name: bytes

    @property
    def is_shimmed(self) -> bool:
        """Whether the shim implements it."""
        return self.module == _WASI and self.name in _SHIMMED

    @property
    def is_trampoline(self) -> bool:
        """Whether the guest gets it from the trampoline."""
        return self.module == _WASI and self.name in _TRAMPOLINE


@dataclass
class Instances:
    """What was instantiated; valid as long as the store."""

    context: Any
    trampoline: Any
    guest: Any = None
    memory: Any = None  # the guest's, as an extern, if it exports one

    def export(self, name: bytes) -> Any:
        """The guest's export as an extern, or None."""
        return binding.instance_export(self.context, self.guest, name)

    def exit_code(self) -> int | None:
        """What the guest gave to proc_exit; None if it did not call it."""
        return self._global(b"exit_code") & 0xFFFFFFFF if self._global(b"exited") else None

    def _global(self, name: bytes) -> int:
        item = binding.instance_export(self.context, self.trampoline, name)
        value = ffi.wasmtime_val_t()
        ffi.wasmtime_global_get(self.context, ctypes.byref(item.of.global_), ctypes.byref(value))
        number: int = value.of.i32
        return number


def instantiate(
    runtime: Runtime,
    context: Any,
    module: wasmtime.Module,
    imports: list[Import],
    control: CellControl,
    stdio: Stdio,
) -> Instances:
    """Instantiate a module whose imports are all WASI's, with the shim if `stdio` or a wait may need it.

    Nothing of the guest's runs: its start function is an export (engine/starting.py). Raises EngineError.
    """
    made = Instances(context, binding.instantiate(context, runtime.trampoline.ptr(), None, 0))
    externs = binding.externs(
        [
            binding.instance_export(context, made.trampoline, item.name)
            if item.is_trampoline
            else _wasi(runtime, context, item.name)
            for item in imports
        ]
    )
    made.guest = binding.instantiate(context, module.ptr(), externs, len(imports))
    memory = made.export(b"memory")
    if memory is not None and memory.kind == binding.MEMORY:
        made.memory = memory
    if made.memory is not None and any(item.is_shimmed for item in imports):
        _add_shim(runtime, made, memory, control, stdio)
    return made


def _add_shim(runtime: Runtime, made: Instances, memory: Any, control: CellControl, stdio: Stdio) -> None:
    context = made.context
    # A 32-bit memory never moves: the engine reserves its whole range at once.
    base = ffi.wasmtime_memory_data(context, ctypes.byref(memory.of.memory))
    control.set_memory(ctypes.cast(base, ctypes.c_void_p).value or 0)
    imports = [
        *(_wasi(runtime, context, name) for name in SHIM_IMPORTS),
        memory,
        _host_function(context, runtime.transfer_type, runtime.transfer, control),
        _host_function(context, runtime.wait_type, runtime.wait, control),
        _host_function(context, runtime.count_type, runtime.count, control),
        _flags(runtime, context, stdio),
        binding.instance_export(context, made.trampoline, b"table"),
    ]
    shim = binding.instantiate(context, runtime.shim.ptr(), binding.externs(imports), len(imports))
    binding.call(context, binding.instance_export(context, shim, b"begin").of.func, _NONE, _NONE)


def _wasi(runtime: Runtime, context: Any, name: bytes) -> Any:
    item = binding.Extern()
    found = ffi.wasmtime_linker_get(
        runtime.linker.ptr(), context, _WASI, len(_WASI), name, len(name), ctypes.byref(item)
    )
    assert found, name  # checked when the program was loaded
    return item


def _host_function(context: Any, ty: wasmtime.FuncType, callback: Any, control: CellControl) -> Any:
    function = ffi.wasmtime_func_t()
    # Safe: the cell outlives the store, and the thunk takes the values that the type says.
    ffi.wasmtime_func_new_unchecked(
        context, ty.ptr(), callback, control.address, binding.NO_FINALIZER, ctypes.byref(function)
    )
    return binding.Extern(binding.FUNC, ffi.wasmtime_extern_union(func=function))


def _flags(runtime: Runtime, context: Any, stdio: Stdio) -> Any:
    item = ffi.wasmtime_global_t()
    value = binding.value("i32", flags_of(stdio))
    error = ffi.wasmtime_global_new(context, runtime.flags_type.ptr(), ctypes.byref(value), ctypes.byref(item))
    binding.check(error)
    return binding.Extern(binding.GLOBAL, ffi.wasmtime_extern_union(global_=item))


def flags_of(stdio: Stdio) -> int:
    """What the shim is told of the guest's streams; see shim.wat."""
    served = (stdio.stdin, stdio.stdout, stdio.stderr)
    flags = sum(1 << number for number in stdio.terminals)
    return flags | sum(_SERVED << number for number, fd in enumerate(served) if fd is not None)
