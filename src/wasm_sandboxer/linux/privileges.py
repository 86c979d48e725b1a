"""What a process may do: user, groups, capabilities, resource limits, system calls; given up for good.

As calls of a script, which a child makes. Only for a process with one thread, since each of these calls concerns the
calling thread alone.
Source: capabilities(7), prctl(2), capset(2), setresuid(2), seccomp(2).
"""

import os
import resource
import signal
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wasm_sandboxer.linux import syscall
from wasm_sandboxer.linux.script import NOT_NEGATIVE, Script, equal
from wasm_sandboxer.linux.syscall import address_of, check, libc

_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 4, 8, 22, 24  # linux/prctl.h
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 38, 47, 2
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
_INSTRUCTION = 8  # bytes of one of a filter's; linux/filter.h
_UNLIMITED = (1 << 64) - 1  # RLIM_INFINITY, which Python has as -1
# Those that a guest can have a use for: it can call nothing but WASI, which knows files and ports.
CAPABILITIES = {
    "CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_DAC_READ_SEARCH": 2, "CAP_FOWNER": 3, "CAP_FSETID": 4,
    "CAP_NET_BIND_SERVICE": 10,
}  # fmt: skip

LIMITS = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
"""Resource limits by their names; getrlimit(2)."""


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


def bound() -> None:
    """Let no program that this process executes, nor its children, have capabilities that no guest can use.

    What drop() would have to do for each child is then done for all. Raises OSError.
    """
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for number in set(range(last + 1)) - set(CAPABILITIES.values()):
        check(libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), "prctl")


def set_oom_score(script: Script, score: int) -> None:
    """How soon the kernel ends the process when memory runs out (proc(5), oom_score_adj).

    A score below what this process was given takes a privilege, without which it stays as it is.
    """
    text = str(score).encode()
    fd = script.call(address_of("open"), script.data(b"/proc/self/oom_score_adj"), os.O_WRONLY | os.O_CLOEXEC)
    script.call(address_of("write"), fd, script.data(text), len(text))
    script.call(address_of("close"), fd)


def set_limits(script: Script, rlimits: Iterable[tuple[int, int, int]]) -> None:
    """Set resource limits; one that may not be raised so far is raised as far as it may be. No core is dumped."""
    for number, soft, hard in (*rlimits, (resource.RLIMIT_CORE, 0, 0)):
        most = resource.getrlimit(number)[1] & _UNLIMITED
        for lowest, highest in ((min(soft, most), most), (soft, hard)):  # the first for where the second is refused
            script.call(address_of("setrlimit"), number, script.words(lowest, highest))


def end_with(script: Script, parent: int) -> None:
    """Have the kernel end the process with this parent of its own (prctl(2), PR_SET_PDEATHSIG)."""
    _prctl(script, syscall.PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have died before that could be seen.
    script.call(address_of("getppid"), check=equal(parent), what="its parent has gone")


def drop(script: Script, privileges: Privileges, parent: int) -> None:
    """Be that user with those capabilities and no way to get more; after bound(), and end_with() with this parent."""
    kept = sum(1 << number for number in privileges.capabilities)
    for number in set(CAPABILITIES.values()) - privileges.capabilities:
        _prctl(script, _PR_CAPBSET_DROP, number)
    _prctl(script, _PR_SET_KEEPCAPS, 1)
    groups = script.data(struct.pack(f"={len(privileges.groups)}I", *privileges.groups))
    uid, gid = privileges.uid, privileges.gid
    script.call(address_of("setgroups"), len(privileges.groups), groups, check=NOT_NEGATIVE, what="setgroups")
    script.call(address_of("setresgid"), gid, gid, gid, check=NOT_NEGATIVE, what="setresgid")
    script.call(address_of("setresuid"), uid, uid, uid, check=NOT_NEGATIVE, what="setresuid")
    header = script.data(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    low = kept & 0xFFFFFFFF  # effective, permitted, inheritable; then the same of higher numbers
    script.call(
        address_of("capset"),
        header,
        script.data(struct.pack("=6I", low, low, low, 0, 0, 0)),
        check=NOT_NEGATIVE,
        what="capset",
    )
    if privileges.uid:
        for number in privileges.capabilities:  # so that they outlive an exec
            _prctl(script, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)
    if privileges.umask is not None:
        script.call(address_of("umask"), privileges.umask)
    _prctl(script, _PR_SET_NO_NEW_PRIVS, 1)
    _prctl(script, _PR_SET_DUMPABLE, 0)  # nobody of the same user looks into it
    end_with(script, parent)  # becoming another user has undone this


def install_filter(script: Script, instructions: bytes, places: Iterable[int] = ()) -> None:
    """Have the kernel judge each system call of the process by a filter from now on; after drop().

    At these places, offsets in bytes, the filter has the process's own id instead of what is there.
    """
    filtering = script.data(instructions)
    pid = script.call(address_of("getpid"))
    for place in places:
        script.call(address_of("memcpy"), filtering + place, int(pid), 4)
    program = script.words(len(instructions) // _INSTRUCTION, filtering)  # struct sock_fprog
    _prctl(script, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program)


def _prctl(script: Script, option: int, *arguments: int) -> None:
    given = [*arguments, *[0] * (4 - len(arguments))]
    script.call(address_of("prctl"), option, *given, check=NOT_NEGATIVE, what="prctl")
