"""Functions in machine code: some bytes for each machine, in pages that are never writable and executable at once.

They exist where a guest's thread calls back into the host while it runs, because a callback of Python's would take
the GIL. Each is position-independent; its listing stands beside its bytes, and a test assembles the listings again.
"""

import ctypes
import mmap
import platform
from collections.abc import Mapping
from dataclasses import dataclass

from wasm_sandboxer.linux import syscall


@dataclass(frozen=True)
class Thunk:
    """A function: its listing and its bytes, for one machine."""

    listing: str
    code: bytes


Thunks = Mapping[str, Thunk]  # by machine, as platform.machine() names it
_pages: list[mmap.mmap] = []  # kept for ever: the engine has their addresses


def install(functions: Mapping[str, Thunks]) -> dict[str, int]:
    """Put functions into an executable page; their addresses by name, valid for the life of the process."""
    machine = platform.machine()
    # Private, so that a child which is in the hands of its guest changes nobody's but its own.
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _pages.append(page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    addresses = {}
    offset = 0
    for name, thunks in functions.items():
        code = thunks[machine].code
        page[offset : offset + len(code)] = code
        addresses[name] = start + offset
        offset += -len(code) % 16 + len(code)
    # Safe: the page is ours alone, holds only the bytes above, and is not written again.
    syscall.protect_execute(start, mmap.PAGESIZE)
    return addresses
