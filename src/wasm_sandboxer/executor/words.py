"""What a child says of its guest to the daemon.

It may be in the hands of that guest, so what it says is read strictly, and says nothing of anybody but itself. Python
says it in JSON; a child without Python has words of a fixed layout, and leaves it to the daemon to make sentences of.
"""

import json
import os
import struct
from dataclasses import replace
from enum import IntEnum
from typing import Any

from wasm_sandboxer import errors
from wasm_sandboxer.engine.wasmtime import traps
from wasm_sandboxer.engine.wasmtime.binding import EngineError
from wasm_sandboxer.errors import InvalidArgument, ModuleError, OutOfMemory, WasmSandboxerError
from wasm_sandboxer.guest import Exit, Reason

MOST_TEXT = 32 << 10  # characters of a message
MOST_EXPLAINED = 4 * MOST_TEXT  # bytes
_MOST_MEMORY = 1 << 47  # bytes; all that a process can address
_READY = {"what": "ready"}
_WORD = struct.Struct("=B3xIQQ")
WORD_PARTS = (4, 8, 16)
WORD_SIZES = (4, 8, 8)
"""Where in a word its code and its two figures are, and how many bytes each has."""
WORD_SIZE = _WORD.size


class Refused(OutOfMemory):
    """The guest's pools have no room for so many bytes that it needs at the start."""

    def __init__(self, size: int) -> None:
        super().__init__("its instance could not be made: no room for its memory")
        self.size = size


class Word(IntEnum):
    """What a child says that runs no Python: a first byte that begins no JSON."""

    READY = 1
    EXITED = 2  # code, bytes of memory at the end
    TRAPPED = 3  # nothing, bytes of memory, whether the last growth was denied, and the engine's report
    UNMADE = 4  # nothing, bytes that were refused, whether the last growth was denied, and the engine's report
    NO_FOLDER = 5  # errno, and what was tried
    NOT_SET_UP = 6  # the same


def explanation(name: str, message: str) -> bytes:
    """What a guest's stderr is told of why it ended."""
    return f"wasm-sandboxer: {name}: {message}\n".encode(errors="replace")[:MOST_EXPLAINED]


def word(what: Word) -> bytes:
    """Its message, as far as it is the same each time; a text may follow."""
    return _WORD.pack(what, 0, 0, 0)


def wants_explanation(message: bytes) -> bool:
    """Whether whoever said this writes to the guest's stderr what is sent back."""
    return message[:1] == bytes([Word.TRAPPED])


def _read_word(message: bytes) -> Exit | WasmSandboxerError | None:
    what, code, first, second = _WORD.unpack_from(message)
    text = message[WORD_SIZE:].decode(errors="replace").rstrip("\0")
    if Word(what) is Word.READY:
        return None
    if Word(what) in (Word.EXITED, Word.TRAPPED):
        if first > _MOST_MEMORY:
            raise ValueError
        end = Exit(code=code, reason=Reason.EXITED)
        if what == Word.TRAPPED:
            end = traps.trapped(text, denied=bool(second), used=first)  # whose cause is at the end of it
        return replace(end, message=end.message[:MOST_TEXT], peak_memory=first)
    if what == Word.UNMADE:
        why = EngineError(text).first_line[:MOST_TEXT]
        if first:
            return Refused(first)
        return (OutOfMemory if second else ModuleError)(f"its instance could not be made: {why}")
    tried = f"{text[:MOST_TEXT]}: {os.strerror(code & 0xFFFF)}"
    return (
        InvalidArgument(tried)
        if what == Word.NO_FOLDER
        else WasmSandboxerError(f"cannot set its process up: {tried}")
    )


def ready() -> bytes:
    """The guest's instance is made, or its command about to be executed."""
    return json.dumps(_READY).encode()


def failed(error: WasmSandboxerError) -> bytes:
    """It cannot begin."""
    return json.dumps({"what": "failed", "kind": type(error).__name__, "message": str(error)[:MOST_TEXT]}).encode()


def ended(end: Exit) -> bytes:
    """The guest has ended."""
    told = {
        "what": "ended", "code": end.code, "reason": end.reason, "message": end.message[:MOST_TEXT],
        "peak_memory": end.peak_memory,
    }  # fmt: skip
    return json.dumps(told).encode()


def read(message: bytes) -> Exit | WasmSandboxerError | None:
    """A child's word: its guest's end, why it cannot begin, or None for "ready"; raises ValueError for nonsense."""
    if len(message) >= WORD_SIZE and message[0] in _WORDS:
        return _read_word(message)
    try:
        told = json.loads(message)
    except RecursionError:
        raise ValueError from None
    if told == _READY:
        return None
    match told:
        case {"what": "failed", "kind": str(kind), "message": str(text)}:
            return _error(kind, _clean(text))
        case {
            "what": "ended", "code": int(code), "reason": str(reason), "message": str(text), "peak_memory": int(peak),
        } if 0 <= peak <= _MOST_MEMORY:  # fmt: skip
            return Exit(code=code & 0xFFFFFFFF, reason=Reason(reason), message=_clean(text), peak_memory=peak)
    raise ValueError


_WORDS = frozenset(Word)


def _clean(text: str) -> str:
    """The text as any message takes it: JSON has escapes for halves of surrogate pairs, and paths may have them."""
    return text.encode(errors="replace").decode()


def _error(kind: str, text: str) -> WasmSandboxerError:
    known: Any = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, WasmSandboxerError):
        return known(text)
    return WasmSandboxerError(text)
