"""Namespaces of this process; see namespaces(7) and user_namespaces(7)."""

import ctypes
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wasm_sandboxer.linux import mount
from wasm_sandboxer.linux.syscall import check, libc

_log = logging.getLogger(__name__)
_PAUSE = 0.1  # seconds between two attempts to go home; a guess
CLONE_NEWNS = 0x00020000  # linux/sched.h
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

libc.unshare.argtypes = [ctypes.c_int]
libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]


def unshare(flags: int) -> None:
    """Give the calling process namespaces of its own (unshare(2)); raises OSError."""
    check(libc.unshare(flags), "unshare")


def set_namespace(fd: int, kind: int) -> None:
    """Move the calling thread into a namespace (setns(2)); raises OSError."""
    check(libc.setns(fd, kind), "setns")


@contextmanager
def within_network(path: str) -> Iterator[None]:
    """Have the calling thread, and no other, in the network namespace at this path, and back in its own afterwards.

    Raises OSError for one that cannot be entered; the thread is where it was then. May block.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            set_namespace(there, CLONE_NEWNET)
            try:
                yield
            finally:
                _go_home(home)
        finally:
            os.close(there)
    finally:
        os.close(home)


def _go_home(home: int) -> None:
    """Return to a network namespace, however long it takes.

    The kernel refuses for want of memory only, and a thread that gave up would do its next work in somebody else's.
    """
    while True:
        try:
            set_namespace(home, CLONE_NEWNET)
        except OSError as error:
            _log.warning("a thread cannot leave a network namespace, and tries again: %s", error.strerror)
            time.sleep(_PAUSE)
        else:
            return


def private_mounts() -> None:
    """Give this process a mount namespace of its own, with a user namespace if it is not privileged.

    Only for a process with one thread, early. The user keeps their ids. Raises OSError where the host forbids it.
    """
    _have_own(CLONE_NEWNS)
    mount.mount("none", "/", flags=mount.MS_REC | mount.MS_PRIVATE)


def private_network() -> None:
    """Give this process a network namespace of its own, in which nothing is reached; as private_mounts."""
    _have_own(CLONE_NEWNET)


def _have_own(kind: int) -> None:
    if os.geteuid() == 0:
        unshare(kind)
    else:
        uid, gid = os.geteuid(), os.getegid()
        unshare(CLONE_NEWUSER | kind)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
