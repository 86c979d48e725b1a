"""The C API of wasmtime, with its errors as exceptions; the only importer of the `wasmtime` package.

The package's classes cover half of what is needed and keep global tables that are not safe for threads (a
trampoline's last exception, for one, may be raised in another thread), so the calls on a guest's path go to
the C functions, whose declarations the package generates. The version is pinned for that reason too.

Ownership follows the C API's headers: a config or error that is passed on is consumed; everything made by
`*_new` here is deleted by its owner's close().
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import wasmtime
from wasmtime import _ffi

from wasm_sandboxer.errors import WasmSandboxerError

ffi: Any = _ffi  # generated ctypes declarations, which no checker can follow

VERSION = "47.0.1"  # as pinned; asking importlib.metadata costs more than a start may
WASI = "wasi_snapshot_preview1"

Finalizer = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
NO_FINALIZER = ctypes.cast(0, Finalizer)
EpochCallback = ctypes.CFUNCTYPE(
    ctypes.c_size_t,
    ctypes.POINTER(ffi.wasmtime_context_t),
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ctypes.c_uint8),
)
HostFunction = ffi.wasmtime_func_unchecked_callback_t

FUNC = ffi.WASMTIME_EXTERN_FUNC.value
MEMORY = ffi.WASMTIME_EXTERN_MEMORY.value
GLOBAL = ffi.WASMTIME_EXTERN_GLOBAL.value

_LEAST_ARRAY = 16  # items
_NAMES = 64  # of exports, kept as the calls take them: the same few for nearly all guests

Extern = ffi.wasmtime_extern_t
Caller = Callable[..., Any]  # takes a function's name and its arguments, gives its error: how guests are called


class EngineError(WasmSandboxerError):
    """What the engine reported, in its words; `exit_status` if it is a guest's own exit."""

    def __init__(self, message: str, *, exit_status: int | None = None, trap: bool = False) -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.trap = trap

    @property
    def first_line(self) -> str:
        """The report's first line, for messages of one line."""
        return str(self).strip().split("\n", 1)[0] or "the engine gave no reason"


def _take_error(pointer: Any) -> EngineError:
    status = ctypes.c_int(0)
    exited = ffi.wasmtime_error_exit_status(pointer, ctypes.byref(status))
    message = ffi.wasm_byte_vec_t()
    ffi.wasmtime_error_message(pointer, ctypes.byref(message))
    text = bytes(ffi.to_bytes(message)).decode(errors="replace")
    ffi.wasm_byte_vec_delete(ctypes.byref(message))
    ffi.wasmtime_error_delete(pointer)
    return EngineError(text, exit_status=status.value if exited else None)


def _take_trap(pointer: Any) -> EngineError:
    message = ffi.wasm_byte_vec_t()
    ffi.wasm_trap_message(pointer, ctypes.byref(message))
    text = bytes(ffi.to_bytes(message)).decode(errors="replace").rstrip("\0")
    ffi.wasm_byte_vec_delete(ctypes.byref(message))
    ffi.wasm_trap_delete(pointer)
    return EngineError(text, trap=True)


def check(error: Any, trap: Any = None) -> None:
    """Raise EngineError for what a call returned as its error or left in its trap out-parameter."""
    if trap:
        raise _take_trap(trap)
    if error:
        raise _take_error(error)


def address_of(thing: Any) -> int:
    """Where what an object of the package stands for is: an engine, a linker."""
    return ctypes.cast(thing.ptr(), ctypes.c_void_p).value or 0


def null_trap() -> Any:
    """An out-parameter for a trap."""
    return ctypes.POINTER(ffi.wasm_trap_t)()


def func_type(*params: str, result: str) -> wasmtime.FuncType:
    """A core function type of i32 and i64 parameters and one result."""
    types = {"i32": wasmtime.ValType.i32, "i64": wasmtime.ValType.i64}
    return wasmtime.FuncType([types[param]() for param in params], [types[result]()])


def value(kind: str, number: float) -> Any:
    """A core value of kind i32, i64, f32 or f64."""
    kinds = {"i32": 0, "i64": 1, "f32": 2, "f64": 3}
    return ffi.wasmtime_val_t(kind=kinds[kind], of=ffi.wasmtime_valunion_t(**{kind: number}))


def new_stop_error() -> int:
    """The address of an error that stops a guest; consumed by the engine or by `delete_error`."""
    error = ffi.wasmtime_error_new(name_buffer(b"stopped"))
    return ctypes.cast(error, ctypes.c_void_p).value or 0


def delete_error(address: int) -> None:
    """Free an error nobody has consumed."""
    # Safe: the address came from new_stop_error and was never handed to the engine.
    ffi.wasmtime_error_delete(ctypes.cast(address, ctypes.POINTER(ffi.wasmtime_error_t)))


def externs(items: list[Any]) -> Any:
    """An array of externs as the instantiating calls take it."""
    return array(Extern, items)


def array(kind: Any, items: Sequence[Any]) -> Any:
    """An array that begins with these items.

    It may be longer, so that all are of few types, which are kept: Python would make them anew, which takes longer
    than a call into the engine.
    """
    return _array_type(kind, max(_LEAST_ARRAY, 1 << (len(items) - 1).bit_length()))(*items)


@functools.cache
def _array_type(kind: Any, length: int) -> Any:
    return kind * length


def directly(function: str, *arguments: Any) -> Any:
    """Call a function of the C API by its name; a Caller."""
    return getattr(ffi, function)(*arguments)


def instantiate(context: Any, module: Any, imports: Any, count: int) -> Any:
    """An instance of the module in the store; raises EngineError."""
    instance = ffi.wasmtime_instance_t()
    trap = null_trap()
    check(directly("wasmtime_instance_new", context, module, imports, count, instance, trap), trap)
    return instance


def instance_export(context: Any, instance: Any, name: bytes) -> Any:
    """The instance's export as an extern, or None."""
    item = Extern()
    found = ffi.wasmtime_instance_export_get(
        context, ctypes.byref(instance), name_buffer(name), len(name), ctypes.byref(item)
    )
    return item if found else None


@functools.lru_cache(_NAMES)
def name_buffer(name: bytes) -> Any:
    """A name as the calls take it, to be read only: bytes with a length, here with a NUL that is not counted."""
    return ctypes.create_string_buffer(name)


def call(context: Any, func: Any, values: Any, results: Any, caller: Caller = directly) -> None:
    """Call a function in its store with arrays of values; raises EngineError for a trap, an exit or a stop."""
    trap = null_trap()
    error = caller("wasmtime_func_call", context, func, values, len(values), results, len(results), trap)
    check(error, trap)
