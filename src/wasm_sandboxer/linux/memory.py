"""Ranges of address space by their addresses, for linear memories: mmap(2), mprotect(2), munmap(2), mincore(2).

Python's mmap objects know neither PROT_NONE nor a range that is accessible in part.
"""

import ctypes
import mmap

from wasm_sandboxer.linux.syscall import check, libc

_PROT_NONE, _PROT_READ, _PROT_WRITE = 0x0, 0x1, 0x2
_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000  # asm-generic/mman-common.h, mman.h
_FAILED = (1 << 64) - 1

libc.mmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mmap.restype = ctypes.c_size_t
libc.munmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
libc.mincore.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]


def reserve(length: int) -> int:
    """The address of a new range of whole pages that nobody can access yet; raises OSError."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    address: int = libc.mmap(0, length, _PROT_NONE, flags, -1, 0)
    check(-1 if address == _FAILED else 0, "mmap")
    return address


def make_accessible(address: int, length: int) -> None:
    """Let whole pages be read and written; raises OSError."""
    # Safe: the caller owns the range.
    check(libc.mprotect(address, length, _PROT_READ | _PROT_WRITE), "mprotect")


def map_private(address: int, length: int, fd: int, offset: int) -> None:
    """Show part of a file at an address, readable and writable, in place of what was there; raises OSError.

    What is written stays here. All are whole pages; the file must not shrink.
    """
    # Safe: the caller owns the range.
    mapped: int = libc.mmap(address, length, _PROT_READ | _PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED, fd, offset)
    check(-1 if mapped == _FAILED else 0, "mmap")


def map_shared(length: int, fd: int) -> int:
    """The address at which a file's first pages are shown, shared with whoever else maps it; raises OSError."""
    address: int = libc.mmap(0, length, _PROT_READ | _PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    check(-1 if address == _FAILED else 0, "mmap")
    return address


def unmap(address: int, length: int) -> None:
    """Give a range back; raises OSError."""
    check(libc.munmap(address, length), "munmap")


def resident(address: int, length: int) -> int:
    """How many bytes of a mapped range are in memory now; raises OSError."""
    pages = -(-length // mmap.PAGESIZE)
    if not pages:
        return 0
    found = bytearray(pages)  # not an array of ctypes', which would be a new type for every length
    # Safe: a byte is written for each page, and the reference keeps them in their place until the call is over.
    check(libc.mincore(address, length, ctypes.byref(ctypes.c_char.from_buffer(found))), "mincore")
    # The lowest bit of each byte says it, and the others say nothing yet.
    return found.count(1) * mmap.PAGESIZE
