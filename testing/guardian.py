"""Owns the end of a containerd of ours: its processes, mounts, sockets, cgroups and files.

Two users: the harness calls `sweep` when it stops a containerd, and a guardian process, this file run as a
script, sweeps when the harness itself has died without doing so. For the guardian's sake it imports only the
standard library, and starts in some ten milliseconds.

Everything is found by the folder's unique name, never by what a program is called alone: other containerds on
the machine, and whatever else merely mentions the folder, are left in peace.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

_libc = ctypes.CDLL(None)
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8  # umount(2)

SHIM_SOCKETS = Path("/run/containerd/s")
"""Where the runc shim binds its sockets, whatever state folder its containerd has (pkg/shim/util_unix.go)."""

_ABSENT = "absent.json"
"""A file in the folder: what containerd and runc make elsewhere, if it was not there before."""

CGROUP_ROOT = Path("/sys/fs/cgroup")


class LeftoverError(RuntimeError):
    """Something of a containerd's could not be ended or removed."""


def sweep(folder: Path) -> None:
    """End and remove all that the containerd in `folder` left behind; raises LeftoverError if any stays."""
    used: set[str] = set()
    for belongs in (_is_daemon, _is_shim, _is_inside):
        _end(folder, belongs, used)
    _remove_cgroups(folder, used)
    _remove_shim_sockets(folder)
    _remove_what_was_absent(folder)
    _unmount(folder)  # last: removing the folder must not reach into a volume that is still mounted below it
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise LeftoverError(f"{folder} cannot be removed")


def note_what_is_absent(folder: Path) -> None:
    """Remember which of the folders that appear outside `folder` are not there yet; once is enough.

    containerd makes /run/containerd whatever its configuration says; runc makes a cgroup named after the
    namespace for containers whose pod names no parent.
    """
    note = folder / _ABSENT
    if not note.exists():
        paths = [SHIM_SOCKETS.parent, *cgroups("k8s.io"), *cgroups("default")]
        note.write_text(json.dumps([str(path) for path in paths if not path.exists()]))


def processes(folder: Path) -> list[int]:
    """The pids of the containerd in `folder`, its shims, and everything in a container of it."""
    return [pid for pid in _pids() for belongs in (_is_daemon, _is_shim, _is_inside) if belongs(pid, folder)]


def mounts(folder: Path) -> list[str]:
    """Mount points at or below `folder`, the latest first (proc_pid_mountinfo(5))."""
    points: list[str] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")  # blanks are written \040
        if point == str(folder) or point.startswith(f"{folder}/"):
            points.append(point)
    return points[::-1]


def cgroups(name: str) -> list[Path]:
    """The folders of the cgroup `name` in every hierarchy the machine has."""
    hierarchies = [CGROUP_ROOT]
    if not (CGROUP_ROOT / "cgroup.controllers").exists():
        hierarchies = [path for path in CGROUP_ROOT.iterdir() if path.is_dir() and not path.is_symlink()]
    return [hierarchy / name.strip("/") for hierarchy in hierarchies]


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())


def _command(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return [""]


def _is_daemon(pid: int, folder: Path) -> bool:
    program, *arguments = _command(pid)
    return Path(program).name == "containerd" and f"{folder}/config.toml" in arguments


def _is_shim(pid: int, folder: Path) -> bool:
    program, *arguments = _command(pid)
    return Path(program).name.startswith("containerd-shim-") and f"{folder}/containerd.sock" in arguments


def _is_inside(pid: int, folder: Path) -> bool:
    """Whether a process has its root in a container of ours.

    A process of another mount namespace may well see mounts of ours that were copied when the namespace was
    made; only its root tells whose it is.
    """
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
            if line.split()[4] == "/":
                return f"/{folder.name}/" in line
    return False


def _end(folder: Path, belongs: Callable[[int, Path], bool], used: set[str]) -> None:
    """Kill what belongs to the folder and wait until it is gone; again if there is more by then."""
    deadline = time.monotonic() + 10
    while found := [pid for pid in _pids() if belongs(pid, folder)]:
        if time.monotonic() > deadline:
            raise LeftoverError(f"processes {found} of {folder} do not end")
        for pid in found:
            with suppress(OSError):
                handle = os.pidfd_open(pid)
                try:
                    if belongs(pid, folder):  # the pid may have been given to another meanwhile
                        used |= _cgroups_of(pid)
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                        select.select([handle], [], [], 5)
                finally:
                    os.close(handle)


def _cgroups_of(pid: int) -> set[str]:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        return {line.split(":", 2)[2] for line in lines}
    return set()


def _unmount(folder: Path) -> None:
    deadline = time.monotonic() + 10
    while points := mounts(folder):
        if time.monotonic() > deadline:
            raise LeftoverError(f"mounts stay: {points}")
        # Lazily: what still uses a mount has been killed, but the kernel may not be done with it. Not by umount(8),
        # which reads the whole table for each: four thousand took it three minutes.
        for point in reversed(points):
            _libc.umount2(os.fsencode(point), _MNT_DETACH | _UMOUNT_NOFOLLOW)


def _remove_cgroups(folder: Path, used: set[str]) -> None:
    """Remove the cgroups named after the folder, and those of containers that were killed."""
    for tree in cgroups(folder.name):
        _remove_empty(tree)
    for name in used:
        if len(Path(name).name) == len("0" * 64):  # a container's id
            for path in cgroups(name):
                with suppress(OSError):
                    path.rmdir()


def _remove_what_was_absent(folder: Path) -> None:
    """Remove what was not there before, as far as it is empty: something in it is another containerd's."""
    note = folder / _ABSENT
    for name in json.loads(note.read_text()) if note.exists() else ():
        _remove_empty(Path(name))


def _remove_empty(top: Path) -> None:
    """Remove a folder and those in it, as far as they are empty; others may be doing the same."""
    for folder, _, _ in os.walk(top, topdown=False):  # which passes over what has gone meanwhile
        with suppress(OSError):
            Path(folder).rmdir()


def _remove_shim_sockets(folder: Path) -> None:
    """Remove the sockets of shims that were killed: their bundles say where they are."""
    for bundle in (folder / "state").glob("io.containerd.runtime.v2.task/*/*/bootstrap.json"):
        with suppress(OSError, ValueError, KeyError):
            address = str(json.loads(bundle.read_text())["address"]).removeprefix("unix://")
            if Path(address).parent == SHIM_SOCKETS:
                Path(address).unlink()


def _watch(folder: Path) -> None:
    """Wait until the harness says it is done, or is gone; in the latter case sweep."""
    harness = os.getppid()
    while os.getppid() == harness:
        ready, _, _ = select.select([sys.stdin], [], [], 1)
        if ready:
            if os.read(sys.stdin.fileno(), 1):
                return
            break
    sweep(folder)


if __name__ == "__main__":
    _watch(Path(sys.argv[1]))
