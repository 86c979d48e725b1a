"""A pod's sysctls, set in its network namespace when it starts; not again, for they last as long as that does.

containerd asks for them in the spec of the pause container, and runc sets them there; we have neither. What is
refused is what runc refuses (libcontainer/configs/validate/validator.go). In worker threads.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from wasm_sandboxer.core.sandbox import SandboxRecord
from wasm_sandboxer.errors import InvalidArgument, WasmSandboxerError
from wasm_sandboxer.linux import sysctl
from wasm_sandboxer.linux.namespace import within_network

_log = logging.getLogger(__name__)
# What containerd gives every pod with a network of its own, unless its configuration (enable_unprivileged_ports,
# enable_unprivileged_icmp) says otherwise, which we are not told. Source: internal/cri/server/podsandbox.
_DEFAULTS = {
    "net/ipv4/ip_unprivileged_port_start": "0",
    "net/ipv4/ping_group_range": "0 2147483647",
}
_IPC = {
    f"kernel/{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
}  # fmt: skip
_Sysctls = Mapping[str, tuple[str, str]]  # names as they were given, and values, by paths below /proc/sys


def set_sysctls(record: SandboxRecord) -> None:
    """Set what a sandbox asks for, and what containerd would; raises a domain error.

    Nothing is set unless all of it may be. What was set before the kernel refused one stays: the namespace is
    containerd's, which gives it up with a sandbox that cannot start.
    """
    asked = _of_the_network(record)
    try:
        if _has_own_network(record):
            with within_network(record.netns_path):
                _write(record.id, asked)
        elif asked:
            name, _ = next(iter(asked.values()))
            raise InvalidArgument(
                f"sandbox {record.id}: sysctl {name!r:.100} cannot be set: the pod has the host's network"
            )
    except OSError as error:
        message = f"sandbox {record.id}: cannot enter its network namespace {record.netns_path}: {error.strerror}"
        if asked:
            raise WasmSandboxerError(f"{message}, where sysctls are to be set") from None
        _log.info("%s, so it has the kernel's own sysctls", message)


def _of_the_network(record: SandboxRecord) -> _Sysctls:
    """Those that are to be set; raises InvalidArgument for one that is not the pod's own."""
    asked = {}
    for name, value in sorted(record.sysctls.items()):
        path = sysctl.path_of(name)
        if path.startswith("net/"):
            asked[path] = (name, value)
        elif path in _IPC or path.startswith("fs/mqueue/"):
            # A pod may be written for others too, and a guest could not tell the difference.
            _log.info("sandbox %s: sysctl %s is passed over: guests have no System V IPC", record.id, name)
        else:
            raise InvalidArgument(f"sandbox {record.id}: sysctl {name!r:.100} is the host's: no pod has its own")
    return asked


def _has_own_network(record: SandboxRecord) -> bool:
    return bool(record.netns_path) and not Path(record.netns_path).samefile("/proc/self/ns/net")


def _write(ident: str, asked: _Sysctls) -> None:
    """In the pod's network namespace."""
    for path, value in _DEFAULTS.items():
        if path not in asked:
            try:
                sysctl.write(path, value)
            except OSError as error:  # this kernel has no such thing, or /proc/sys is not to be written
                _log.info("sandbox %s: /proc/sys/%s stays as it is: %s", ident, path, error.strerror)
    for path, (name, value) in asked.items():
        try:
            sysctl.write(path, value)
        except OSError as error:
            raise InvalidArgument(
                f"sandbox {ident}: sysctl {name!r:.100} cannot be set to {value!r:.100}: {error.strerror}"
            ) from None
