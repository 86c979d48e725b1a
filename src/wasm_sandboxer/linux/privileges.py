"""What a process may do: user, groups, capabilities, resource limits, system calls; given up for good.

Only for a process with one thread, since each of these calls concerns the calling thread alone.
Source: capabilities(7), prctl(2), capset(2), setresuid(2), seccomp(2).
"""

import ctypes
import os
import resource
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wasm_sandboxer.linux import syscall
from wasm_sandboxer.linux.syscall import check, libc

_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 4, 8, 22, 24  # linux/prctl.h
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 38, 47, 2
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
_INSTRUCTION = 8  # bytes of one of a filter's; linux/filter.h
# Those that a guest can have a use for: it can call nothing but WASI, which knows files and ports.
CAPABILITIES = {
    "CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_DAC_READ_SEARCH": 2, "CAP_FOWNER": 3, "CAP_FSETID": 4,
    "CAP_NET_BIND_SERVICE": 10,
}  # fmt: skip

LIMITS = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
"""Resource limits by their names; getrlimit(2)."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


_TwoSets = _Sets * 2  # of 32 capabilities each


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


@dataclass(frozen=True, kw_only=True)
class Privileges:
    """What is left of them. `rlimits` are number, soft and hard limit; `seccomp` is a filter's instructions.

    `own_seccomp` is the template of the one that every guest has; see guest_filter.
    """

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    umask: int | None = None
    capabilities: frozenset[int] = frozenset()
    rlimits: tuple[tuple[int, int, int], ...] = ()
    oom_score: int | None = None
    seccomp: bytes = b""
    own_seccomp: bytes = b""


def set_oom_score(score: int) -> None:
    """How soon the kernel ends this process when memory runs out (proc(5), oom_score_adj).

    A score below what this process was given takes a privilege, without which it stays as it is.
    """
    with suppress(PermissionError):
        Path("/proc/self/oom_score_adj").write_text(str(score))


def set_limits(rlimits: Iterable[tuple[int, int, int]]) -> None:
    """Set resource limits; one that may not be raised so far is raised as far as it may be. No core is dumped."""
    for number, soft, hard in (*rlimits, (resource.RLIMIT_CORE, 0, 0)):
        most = resource.getrlimit(number)[1]
        try:
            resource.setrlimit(number, (_value(soft), _value(hard)))
        except ValueError:
            resource.setrlimit(number, (min(_value(soft), most), most))


def bound() -> None:
    """Let no program that this process executes, nor its children, have capabilities that no guest can use.

    What drop() would have to do for each child is then done for all. Raises OSError.
    """
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for number in set(range(last + 1)) - set(CAPABILITIES.values()):
        _prctl(_PR_CAPBSET_DROP, number)


def drop(privileges: Privileges) -> None:
    """Be that user with those capabilities and no way to get more; after bound(). Raises OSError."""
    parent = os.getppid()
    kept = sum(1 << number for number in privileges.capabilities)
    for number in set(CAPABILITIES.values()) - privileges.capabilities:
        _prctl(_PR_CAPBSET_DROP, number)
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups(privileges.groups)
    os.setresgid(privileges.gid, privileges.gid, privileges.gid)
    os.setresuid(privileges.uid, privileges.uid, privileges.uid)
    _set_capabilities(kept)
    if privileges.uid:
        for number in privileges.capabilities:  # so that they outlive an exec
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)
    if privileges.umask is not None:
        os.umask(privileges.umask)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)  # nobody of the same user looks into it
    # Becoming another user has undone this.
    syscall.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def install_filter(instructions: bytes) -> None:
    """Have the kernel judge each system call of this process by a filter from now on; after drop()."""
    program = _Filter(len(instructions) // _INSTRUCTION, ctypes.cast(ctypes.c_char_p(instructions), ctypes.c_void_p))
    # Safe: the kernel copies the program, which lives across the call.
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def _set_capabilities(kept: int) -> None:
    header = _Header(_CAPABILITY_VERSION_3, 0)
    low = kept & 0xFFFFFFFF
    sets = _TwoSets(_Sets(low, low, low), _Sets(0, 0, 0))
    # Safe: both structures have the layout that this version says, and live across the call.
    check(libc.capset(ctypes.byref(header), sets), "capset")


def _prctl(option: int, *arguments: int) -> None:
    check(libc.prctl(option, *arguments, *[0] * (4 - len(arguments))), "prctl")


def _value(limit: int) -> int:
    """A limit as Python takes it; more than that is none."""
    return resource.RLIM_INFINITY if limit > (1 << 63) - 1 else limit
