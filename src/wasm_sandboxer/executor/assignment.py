"""What a child is given to do, and what it says of it: the two directions between daemon and child.

The daemon is trusted by its children, so what it sends is pickled. A child may be in the hands of its guest, so what
it says is JSON, read strictly, and says nothing of anybody but itself.
"""

import json
import pickle
from dataclasses import dataclass
from typing import Any

from wasm_sandboxer import errors
from wasm_sandboxer.engine.protocol import Command
from wasm_sandboxer.engine.shared_pool import Share
from wasm_sandboxer.errors import WasmSandboxerError
from wasm_sandboxer.executor.confinement import Enclosure
from wasm_sandboxer.guest import Exit, Guest, Reason

PROCESS, RUNTIME = "guest", "runtime"  # in the fork server's catalogue
MOST_WORDS = 32 << 10  # characters of a message of a child's
_MOST_MEMORY = 1 << 47  # bytes; all that a process can address
_READY = {"what": "ready"}


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One run of a guest, by the engine or by a native command; `doors` names the descriptors beside it."""

    name: str
    guest: Guest
    program: bytes | None
    command: Command | None
    terminals: frozenset[int]
    share: Share | None
    enclosure: Enclosure
    doors: tuple[str, ...]

    def pack(self) -> bytes:
        """As bytes."""
        return pickle.dumps(self)


def unpack(data: bytes) -> Assignment:
    """The assignment; only for what the daemon sent."""
    assignment: Assignment = pickle.loads(data)  # noqa: S301
    return assignment


def ready() -> bytes:
    """The guest's instance is made, or its command about to be executed."""
    return json.dumps(_READY).encode()


def failed(error: WasmSandboxerError) -> bytes:
    """It cannot begin."""
    return json.dumps({"what": "failed", "kind": type(error).__name__, "message": str(error)[:MOST_WORDS]}).encode()


def ended(end: Exit) -> bytes:
    """The guest has ended."""
    told = {
        "what": "ended", "code": end.code, "reason": end.reason, "message": end.message[:MOST_WORDS],
        "peak_memory": end.peak_memory,
    }  # fmt: skip
    return json.dumps(told).encode()


def read(message: bytes) -> Exit | WasmSandboxerError | None:
    """A child's word: its guest's end, why it cannot begin, or None for "ready"; raises ValueError for nonsense."""
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


def _clean(text: str) -> str:
    """The text as any message takes it: JSON has escapes for halves of surrogate pairs, and paths may have them."""
    return text.encode(errors="replace").decode()


def _error(kind: str, text: str) -> WasmSandboxerError:
    known: Any = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, WasmSandboxerError):
        return known(text)
    return WasmSandboxerError(text)
