"""The files WasmEdge reads a module from: the store's own, and copies with less memory."""

import fcntl
import os
import threading

from wasm_sandboxer.engine.store import Held
from wasm_sandboxer.engine.wasm import PAGE, Memory
from wasm_sandboxer.engine.wasmedge import rewriting

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Files:
    """Of one program; any thread, until close()."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._capped: dict[int, int] = {}  # pages to a descriptor
        self._lock = threading.Lock()

    @property
    def memories(self) -> list[Memory]:
        """The memories that the module makes itself."""
        return [memory for memory in self._held.facts.spaces.memories if not memory.imported]

    def descriptor(self, limit: int | None) -> int:
        """A descriptor of the module, whose memories together cannot have more bytes than the limit.

        They get equal parts of it. Raises ModuleError if one starts with more.
        """
        if limit is None or not self.memories:
            return self._held.fd
        pages = limit // len(self.memories) // PAGE
        if all(memory.maximum is not None and memory.maximum <= pages for memory in self.memories):
            return self._held.fd
        with self._lock:
            if pages not in self._capped:
                module = os.pread(self._held.fd, os.fstat(self._held.fd).st_size, 0)
                self._capped[pages] = _in_memory(rewriting.capped(module, pages))
            return self._capped[pages]

    def close(self) -> None:
        """Let go of all; nothing runs the program any more."""
        for fd in self._capped.values():
            os.close(fd)
        self._capped.clear()
        self._held.close()


def _in_memory(module: bytes) -> int:
    """A file that all guests with this limit share, so that none of them may change it."""
    fd = os.memfd_create("module", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb", closefd=False) as file:  # it stays open
        file.write(module)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    return fd
