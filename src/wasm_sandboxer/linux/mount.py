"""Mounting and unmounting, as mount(2) and umount2(2) do; constants from linux/mount.h."""

import ctypes
import os

from wasm_sandboxer.linux.syscall import check, libc

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]


def mount(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    kind: str | None = None,
    flags: int = 0,
    data: str | None = None,
) -> None:
    """Mount; raises OSError with the kernel's errno and the target."""
    arguments = (os.fsencode(source), os.fsencode(target), (kind or "").encode() or None, flags)
    check(libc.mount(*arguments, data.encode() if data else None), f"mount {os.fspath(target)}")


def unmount(target: str | os.PathLike[str], flags: int = UMOUNT_NOFOLLOW) -> None:
    """Unmount; raises OSError with the kernel's errno and the target."""
    check(libc.umount2(os.fsencode(target), flags), f"umount {os.fspath(target)}")
