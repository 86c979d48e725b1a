"""What no guest's process may ask of the kernel, whatever its spec says: a filter of system calls for all of them.

A guest calls nothing but WASI; this is for what might break out of its engine into native code, with the user and
the capabilities that its spec grants. It leaves what engines do: files, sockets, memory, threads, signals to oneself.
Source: seccomp(2); clone(2) for the flags; the calls of syscalls(2) that concern other processes, or the system.
"""

import functools
import os
import struct
from typing import Any

from wasm_sandboxer.linux import seccomp

_REFUSED = (
    # Other processes.
    "kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "pidfd_getfd", "pidfd_send_signal",
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "kcmp",
    "migrate_pages", "move_pages",
    # What it sees of the system.
    "unshare", "setns", "mount", "umount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount",
    "fspick", "mount_setattr", "pivot_root", "chroot", "mknod", "mknodat", "open_by_handle_at", "name_to_handle_at",
    # The system itself.
    "bpf", "perf_event_open", "add_key", "keyctl", "request_key", "init_module", "finit_module", "delete_module",
    "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "sethostname", "setdomainname", "settimeofday",
    "clock_settime", "clock_adjtime", "adjtimex", "acct", "quotactl", "quotactl_fd", "syslog", "vhangup", "iopl",
    "ioperm", "nfsservctl", "lookup_dcookie", "personality", "fanotify_init",
    # Ways around filters, and into the kernel's less trodden parts.
    "io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "memfd_secret", "modify_ldt",
)  # fmt: skip
# The namespaces that clone(2) makes: linux/sched.h, CLONE_NEW*.
_NAMESPACES = (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
# Stands for the process's own id until install() knows it; no process has it, proc(5) on pid_max.
_SELF = 0x7FFFFF01
_EPERM, _ENOSYS = 1, 38
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter


@functools.cache
def template() -> bytes:
    """The filter's instructions for any process of this machine; empty without libseccomp. Any thread."""
    if not seccomp.is_available():
        return b""
    return seccomp.compile_profile(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                _refuse(*_REFUSED),
                _refuse("tgkill", args=[{"index": 0, "op": "SCMP_CMP_NE", "value": _SELF}]),
                # Its flags are in memory, where a filter cannot look: libc takes clone then.
                _refuse("clone3", errno=_ENOSYS),
                *(
                    _refuse("clone", args=[{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": flag, "valueTwo": flag}])
                    for flag in _NAMESPACES
                ),
            ],
        }
    )


def of_this_process(instructions: bytes) -> bytes:
    """The template as it is for the calling process."""
    pid = os.getpid()
    return b"".join(
        _INSTRUCTION.pack(code, yes, no, pid if value == _SELF else value)
        for code, yes, no, value in _INSTRUCTION.iter_unpack(instructions)
    )


def _refuse(*names: str, errno: int = _EPERM, args: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args or []}
