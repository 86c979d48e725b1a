"""Calls into a guest within its bounds: the thread enters and leaves them in machine code, without the GIL.

What a thread holds when its group has used its quota up, it holds until the group's next period: if that were the
GIL, a guest with next to no quota would stop the daemon by ending again and again.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

from wasm_sandboxer.engine.protocol import Passage, Within
from wasm_sandboxer.engine.wasmtime import thunks
from wasm_sandboxer.engine.wasmtime.binding import Caller, directly, ffi
from wasm_sandboxer.engine.wasmtime.control import CellControl

_WORD = 8
_Block = ctypes.c_uint64 * (thunks.BLOCK_SIZE // _WORD)  # kept: Python makes the type of an array anew each time
_CALL = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)


def caller(control: CellControl, within: Within) -> Caller:
    """Calls functions of the C API that run the guest of this control; on its thread."""

    def call(function: str, *arguments: Any) -> Any:
        with within.passage() as passage:
            if passage is None:
                return directly(function, *arguments)
            with control.entering(passage):
                # The first check then is the guest's first instruction, and brings it in; see thunks.on_epoch.
                ffi.wasmtime_context_set_epoch_deadline(arguments[0], 0)
                return _call_and_leave(function, arguments, passage)

    return call


def _call_and_leave(function: str, arguments: tuple[Any, ...], passage: Passage) -> Any:
    block = _Block()
    words = [_address(getattr(ffi.dll, function)), *map(_word, arguments)]
    assert len(words) <= 1 + thunks.ARGUMENTS
    for index, word in enumerate(words):
        block[index] = word
    thunks.put_doors(block, thunks.BLOCK_DOORS, passage.leave)
    block[thunks.BLOCK_TEXT // _WORD] = thunks.TEXT
    block[thunks.BLOCK_NICE // _WORD] = passage.nice[1]
    # Safe: the words are the function's arguments as its declaration has them, and what they point to is kept by
    # our caller; the block outlives the call. The GIL is not held meanwhile.
    error = _native()(ctypes.addressof(block))
    return ctypes.cast(error or 0, ctypes.POINTER(ffi.wasmtime_error_t))


@functools.cache
def _native() -> Callable[[int], int | None]:
    return _CALL(thunks.address("call"))


def _word(argument: Any) -> int:
    """An argument as a register takes it: a number, what a pointer points to, or where an array or structure is."""
    if argument is None or isinstance(argument, int):
        return argument or 0
    if isinstance(argument, ctypes.Array | ctypes.Structure) or _is_out(argument):
        return ctypes.addressof(argument)
    return _address(argument)


def _is_out(argument: Any) -> bool:
    """Whether a pointer is itself what the function fills in: a trap's."""
    return isinstance(argument, ctypes.POINTER(ffi.wasm_trap_t))


def _address(pointer: Any) -> int:
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0
