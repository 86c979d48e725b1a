"""The filter of system calls that every guest's process has, beside its spec's: it touches nobody but itself.

WASI has none of these calls. Should a guest break out of its engine, it is some user in the host's PID namespace, and
often root: without a filter it may signal, trace and bound every process of that user's. (A PID namespace of its own
would make it PID 1, for which the kernel ignores SIGPIPE and SIGABRT.)

Made once, in the daemon, from rules in the runtime specification's form; each process puts its own id in. The spec's
filter is installed on top, and the stricter of the two is right. Source: seccomp(2), and each call's page.
"""

import errno
import functools
import logging
import struct
from typing import Any

from wasm_sandboxer.linux import seccomp

_PID = 0x7A5D1E0F  # stands for the process's own id, which is never that high
_INT = 0xFFFFFFFF  # of an argument that is an int the kernel sees this much, whatever else is in the register
_VALUE = struct.Struct("<I")  # of an instruction; linux/filter.h
_DENIED = (
    # other processes
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "kcmp", "pidfd_open",
    "pidfd_getfd", "pidfd_send_signal", "tkill", "move_pages", "migrate_pages",
    # the process group, by which it is ended with all that it has started
    "setsid", "setpgid",
    # namespaces and mounts
    "unshare", "setns", "mount", "umount", "umount2", "move_mount", "open_tree", "open_tree_attr", "fsopen",
    "fsconfig", "fsmount", "fspick", "mount_setattr", "statmount", "listmount", "pivot_root", "chroot",
    # files by other ways than names in its view, and what is shared of those that it was handed
    "mknod", "mknodat", "open_by_handle_at", "name_to_handle_at", "fanotify_init", "fchmod", "fchown", "flock",
    # what the host's processes share: System V's and POSIX's messages and memory, keys
    "shmget", "shmat", "shmctl", "semget", "semop", "semtimedop", "semctl", "msgget", "msgsnd", "msgrcv", "msgctl",
    "mq_open", "mq_unlink", "keyctl", "add_key", "request_key",
    # the machine
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff",
    "sethostname", "setdomainname", "settimeofday", "clock_settime", "clock_settime64", "clock_adjtime",
    "clock_adjtime64", "adjtimex", "stime", "acct", "quotactl", "quotactl_fd", "syslog", "vhangup", "iopl", "ioperm",
    # much of the kernel for little
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "personality",
    "modify_ldt", "lookup_dcookie", "nfsservctl", "uselib", "vmsplice",
)  # fmt: skip
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; NEWTIME is of clone3 and unshare alone.
_NAMESPACES = 0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
# Which argument names a process: its own id there, or 0 for itself where that is usual.
_BY_PID = {"kill": 0, "tgkill": 0, "rt_sigqueueinfo": 0, "rt_tgsigqueueinfo": 0}
_BY_PID_OR_0 = {
    "prlimit64": 0, "setpriority": 1, "ioprio_set": 1, "sched_setaffinity": 0, "sched_setscheduler": 0,
    "sched_setparam": 0, "sched_setattr": 0,
}  # fmt: skip
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15  # a descriptor that sends any signal to any process of the same user
_FIOSETOWN, _SIOCSPGRP, _TIOCSTI, _TIOCLINUX = 0x8901, 0x8902, 0x5412, 0x541C  # as F_SETOWN; typing on a terminal
_AF_UNIX, _AF_NETLINK = 1, 16  # a host's abstract sockets ask for no more than the network; families beyond the usual

_log = logging.getLogger(__name__)


def _rule(*names: str, number: int = errno.EPERM, args: tuple[dict[str, int | str], ...] = ()) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": number, "args": args}


def _if_is(name: str, index: int, value: int) -> dict[str, Any]:
    return _rule(name, args=({"index": index, "op": "SCMP_CMP_MASKED_EQ", "value": _INT, "valueTwo": value},))


def _if(name: str, index: int, operator: str, value: int) -> dict[str, Any]:
    return _rule(name, args=({"index": index, "op": f"SCMP_CMP_{operator}", "value": value},))


_PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        _rule(*_DENIED),
        _rule("clone3", number=errno.ENOSYS),  # its flags are in memory, where no filter looks; libc has clone then
        *(
            _rule("clone", args=({"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": flag, "valueTwo": flag},))
            for flag in _NAMESPACES
        ),
        *(_if(name, index, "NE", _PID) for name, index in _BY_PID.items()),
        *(_if(name, index, "NE", 0) for name, index in _BY_PID_OR_0.items()),
        *(_if_is("fcntl", 1, command) for command in (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX)),
        *(_if_is("ioctl", 1, request) for request in (_FIOSETOWN, _SIOCSPGRP, _TIOCSTI, _TIOCLINUX)),
        _if_is("socket", 0, _AF_UNIX),
        _if("socket", 0, "GT", _AF_NETLINK),
    ],
}


@functools.cache
def template() -> bytes:
    """The filter but for the process's own id; empty where there is no libseccomp. Any thread."""
    if not seccomp.is_available():
        _log.warning("there is no libseccomp: a guest's process that is broken out of may signal others of its user")
        return b""
    return seccomp.compile_profile(_PROFILE)


def places(made: bytes) -> list[int]:
    """Where in a filter that was made from the template the process's own id belongs; offsets in bytes."""
    value = _VALUE.pack(_PID)
    return [offset + 4 for offset in range(0, len(made), 8) if made[offset + 4 : offset + 8] == value]
