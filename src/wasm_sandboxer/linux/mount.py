"""Mounting and unmounting: mount(2) and umount2(2), and the calls that work on descriptors instead of paths.

Constants from linux/mount.h and linux/fcntl.h. open_tree, move_mount and mount_setattr are Linux 5.12's; libc's
wrappers for them are newer than what this must run on, so they are called by their numbers, which are the same on
every machine.
"""

import ctypes
import os

from wasm_sandboxer.linux.script import NOT_NEGATIVE, Result, Script
from wasm_sandboxer.linux.syscall import address_of, check, libc

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_OPEN_TREE_CLONE = 0x1
_TO_THERE = 0x4 | 0x40  # MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000

libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]


class _MountAttr(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd"))


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


def clone_tree(path: str | os.PathLike[str]) -> int:
    """A descriptor of a file or folder as a mount of its own, with all that is mounted in it; open_tree(2).

    It is nowhere to be seen until it is attached, and gone when the descriptor is closed before. Raises OSError.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
    return check(libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags), f"open_tree {os.fspath(path)}")


def clone_unwritable(fd: int) -> int:
    """A descriptor of the same file or folder that nobody can write to, nor leave by `..`; as clone_tree.

    By itself a descriptor may be opened anew for writing through /proc/self/fd, and leads on to where it was opened.
    """
    tree = clone_tree(f"/proc/self/fd/{fd}")
    try:
        attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
        set_attributes(tree, attributes, propagation=MS_PRIVATE, recursive=True)
    except OSError:
        os.close(tree)
        raise
    return tree


def attach_tree(tree: int, target: int) -> None:
    """Put a cloned tree where the descriptor `target` is; move_mount(2). Raises OSError."""
    check(libc.syscall(_MOVE_MOUNT, tree, b"", target, b"", _TO_THERE), "move_mount")


def attach(script: Script, tree: int, target: Result) -> None:
    """The same as a call of a script."""
    nothing = script.data(b"")
    script.call(
        address_of("syscall"), _MOVE_MOUNT, tree, nothing, target, nothing, _TO_THERE,
        check=NOT_NEGATIVE, what="move_mount",
    )  # fmt: skip


def set_attributes(
    target: int | str | os.PathLike[str], attributes: int, *, propagation: int = 0, recursive: bool = False
) -> None:
    """Add to the attributes of the mount at a path or descriptor; mount_setattr(2). Raises OSError."""
    attr = _MountAttr(attributes, 0, propagation, 0)
    fd, path = (target, b"") if isinstance(target, int) else (_AT_FDCWD, os.fsencode(target))
    flags = (0 if path else _AT_EMPTY_PATH) | (_AT_RECURSIVE if recursive else 0)
    # Safe: `attr` lives across the call and its size is given.
    result = libc.syscall(_MOUNT_SETATTR, fd, path, flags, ctypes.byref(attr), ctypes.sizeof(attr))
    check(result, "mount_setattr")
