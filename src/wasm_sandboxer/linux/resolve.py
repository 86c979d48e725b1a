"""Opening paths that cannot lead outside a folder, whatever symbolic links are in them; openat2(2)."""

import ctypes
import errno
import os
import stat
from contextlib import suppress

from wasm_sandboxer.linux.syscall import check, libc

_OPENAT2 = 437  # the same on every machine
RESOLVE_NO_MAGICLINKS = 0x02  # linux/openat2.h
RESOLVE_IN_ROOT = 0x10
_MOST_LINKS = 40  # as the kernel follows
_MOST_TRIES = 1000  # a guess: each fails only if somebody mounts or renames in the microseconds that it takes


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(root: int, path: str, flags: int) -> int:
    """A descriptor of `path` as a process would find it whose root is `root`: "..", links and all stay inside.

    Raises OSError with the path as the guest knows it.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    name = os.fsencode(path or "/")
    for _ in range(_MOST_TRIES):
        # Safe: `how` lives across the call and its size is given.
        fd: int = libc.syscall(_OPENAT2, root, name, ctypes.byref(how), ctypes.sizeof(how))
        # EAGAIN: something was mounted or renamed, anywhere, while the kernel followed a "..".
        if fd >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    return check(fd, f"open {path}")


def open_file_in_root(root: int, path: str) -> int:
    """A descriptor to read the regular file `path` inside `root`; see open_in_root.

    Raises OSError for what is no file: opening a FIFO would wait for its writer, and a device may do anything.
    """
    place = open_in_root(root, path, os.O_PATH)
    try:
        mode = os.fstat(place).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(place)


def make_in_root(root: int, path: str, *, folder: bool) -> int:
    """An O_PATH descriptor of `path` inside `root`, made with its parents where it is missing.

    A symbolic link to what is not there has that made, as a process in `root` would mean it.
    """
    with suppress(FileNotFoundError):
        return open_in_root(root, path, os.O_PATH)
    parts = _parts(path)
    done = "/"
    links = 0
    while parts:
        part = parts.pop(0)
        parent, done = done, f"{done.rstrip('/')}/{part}"
        try:
            os.close(open_in_root(root, done, os.O_PATH))
        except FileNotFoundError:
            target = _make(root, parent, part, folder=folder or bool(parts))
            if target is None:
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
            parts = [*_parts(f"{parent}/{target}" if not target.startswith("/") else target), *parts]
            done = "/"
    return open_in_root(root, done, os.O_PATH)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _make(root: int, parent: str, name: str, *, folder: bool) -> str | None:
    """Make a file or folder; if a link is in its place, what that says."""
    fd = open_in_root(root, parent, os.O_PATH | os.O_DIRECTORY)
    try:
        if folder:
            os.mkdir(name, 0o755, dir_fd=fd)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=fd))
    except FileExistsError:
        return os.readlink(name, dir_fd=fd)
    finally:
        os.close(fd)
    return None
