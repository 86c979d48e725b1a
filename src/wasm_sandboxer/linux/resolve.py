"""Opening paths that cannot lead outside a folder, whatever symbolic links are in them; openat2(2)."""

import ctypes
import os
from pathlib import PurePosixPath

from wasm_sandboxer.linux.syscall import check, libc

_OPENAT2 = 437  # the same on every machine
RESOLVE_NO_MAGICLINKS = 0x02  # linux/openat2.h
RESOLVE_IN_ROOT = 0x10


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(root: int, path: str, flags: int) -> int:
    """A descriptor of `path` as a process would find it whose root is `root`: "..", links and all stay inside.

    Raises OSError with the path as the guest knows it.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    name = os.fsencode(path or "/")
    # Safe: `how` lives across the call and its size is given.
    return check(libc.syscall(_OPENAT2, root, name, ctypes.byref(how), ctypes.sizeof(how)), f"open {path}")


def make_in_root(root: int, path: str, *, folder: bool) -> int:
    """An O_PATH descriptor of `path` inside `root`, made with its parents where it is missing."""
    parts = PurePosixPath("/", path).parts[1:]
    done = "/"
    for index, part in enumerate(parts):
        parent, done = done, f"{done.rstrip('/')}/{part}"
        try:
            fd = open_in_root(root, done, os.O_PATH)
        except FileNotFoundError:
            _make(root, parent, part, folder=folder or index < len(parts) - 1)
            continue
        os.close(fd)
    return open_in_root(root, done, os.O_PATH)


def _make(root: int, parent: str, name: str, *, folder: bool) -> None:
    fd = open_in_root(root, parent, os.O_PATH | os.O_DIRECTORY)
    try:
        if folder:
            os.mkdir(name, 0o755, dir_fd=fd)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=fd))
    finally:
        os.close(fd)
