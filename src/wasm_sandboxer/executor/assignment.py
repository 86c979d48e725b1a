"""What a child is given to do. The daemon is trusted by its children, so what it sends is pickled."""

import pickle
from dataclasses import dataclass

from wasm_sandboxer.engine.protocol import Command
from wasm_sandboxer.engine.shared_pool import Share
from wasm_sandboxer.executor.confinement import Enclosure
from wasm_sandboxer.guest import Guest

PROCESS, RUNTIME = "guest", "runtime"  # in the fork server's catalogue


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
