"""Control groups of whole processes, at the paths that containers' specs name: memory and killing too.

In version 1 a group is a folder in each hierarchy, in version 2 one folder. What these groups have in common with
those of threads, v1.py and v2.py do.
Source: kernel documentation, admin-guide/cgroup-v1 and admin-guide/cgroup-v2; runtime-spec, config-linux.md, "Cgroups
Path"; systemd.slice(5) for slices' names.
"""

import dataclasses
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Protocol

from wasm_sandboxer.errors import InvalidArgument
from wasm_sandboxer.linux.cgroup import charges
from wasm_sandboxer.linux.cgroup.files import Budget, Counters, open_all, read, table, write
from wasm_sandboxer.linux.cgroup.host import Hierarchies
from wasm_sandboxer.linux.cgroup.protocol import Group, GroupLimits, Usage, past
from wasm_sandboxer.linux.cgroup.saved import saved
from wasm_sandboxer.linux.cgroup.v1 import V1Group
from wasm_sandboxer.linux.cgroup.v2 import V2Group

_V1 = ("cpu", "cpuacct", "cpuset", "memory", "pids", "freezer")
_V2 = ("cpu", "cpuset", "memory", "pids")
_THREADS = ("cpu", "cpuacct", "cpuset", "pids")  # what v1.py knows


class ProcessGroup(Group, Protocol):
    """A group of processes; see Group. A process with one thread enters it by the doors, with all it becomes."""

    made: list[Path]
    """The folders around it that had to be made so far."""

    told_kills: int
    """How many of its kills() its owner knows the processes of."""

    def limit_memory(self, limit: int | None) -> None:
        """Set the bound on memory in bytes; None for none."""

    def kills(self) -> int:
        """How many of its processes the kernel has killed for lack of memory."""

    def kill(self) -> None:
        """End whatever is in it."""


def path_of(text: str) -> PurePosixPath:
    """Where a spec's cgroupsPath is, below the root of a hierarchy: `/a/b`, or `slice:prefix:name` of systemd.

    Raises InvalidArgument for a path that leads elsewhere.
    """
    if text.count(":") == 2 and "/" not in text:
        parent, prefix, name = text.split(":")
        unit = (
            name if name.endswith((".slice", ".scope")) else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
        )
        return _slice(parent or "system.slice") / unit
    path = PurePosixPath("/", text)
    if ".." in path.parts or len(path.parts) < 2:
        raise InvalidArgument(f"config.json.linux.cgroupsPath is {text!r}, which is no group's path")
    return path.relative_to("/")


def new_group(hierarchies: Hierarchies, path: PurePosixPath, budget: Budget) -> ProcessGroup:
    """Make the group at a path, and those around it; raises OSError, and nothing is left then but those around it."""
    return _at(hierarchies, path, budget, existing=False)


def old_group(hierarchies: Hierarchies, path: PurePosixPath, budget: Budget) -> ProcessGroup | None:
    """What another process has left at a path, in whichever hierarchy; None if that is nothing. Nothing is made."""
    roots = hierarchies.v1.values() if hierarchies.unified is None else [hierarchies.unified]
    there = any(os.path.isdir(root / path) for root in roots)  # noqa: PTH112  # False for what cannot be a path, too
    return _at(hierarchies, path, budget, existing=True) if there else None


def lacking(hierarchies: Hierarchies) -> Mapping[str, str]:
    """Which controllers no such group can have, each with why not."""
    if hierarchies.unified is None:
        return {name: "its version 1 hierarchy is not mounted" for name in _V2 if name not in hierarchies.v1}
    try:
        offered = read(f"{hierarchies.unified}/cgroup.controllers").decode().split()
    except OSError:
        offered = []
    return {name: f"{hierarchies.unified} has no such controller" for name in _V2 if name not in offered}


def _at(hierarchies: Hierarchies, path: PurePosixPath, budget: Budget, *, existing: bool) -> ProcessGroup:
    if hierarchies.unified is not None:
        return V2Processes(hierarchies.unified, path, budget, existing=existing)
    roots = {name: hierarchies.v1[name] for name in _V1 if name in hierarchies.v1}
    return V1Processes(roots, path, budget, existing=existing)


class V1Processes:
    """See ProcessGroup."""

    charged = True

    def __init__(
        self, roots: Mapping[str, Path], path: PurePosixPath, budget: Budget, *, existing: bool = False
    ) -> None:
        """Make the group and those around it; an `existing` one is only referred to."""
        self._roots = roots
        self._path = path
        self._folders = {name: root / path for name, root in roots.items()}
        self._counters = Counters(budget)
        self._past: Usage | None = None
        self.told_kills = 0
        self.made: list[Path] = []
        if not existing:
            self._make()
        ours = {name: folder for name, folder in self._folders.items() if name in _THREADS}
        self._others = V1Group(ours, existing=existing)

    def child(self, name: str) -> Group:
        """See Group: no container has any."""
        raise NotImplementedError(name)

    def apply(self, limits: GroupLimits) -> None:
        """See Group."""
        lacking = set(_THREADS) - set(self._folders)
        if limits.hard() & lacking:
            raise FileNotFoundError(f"no {', '.join(sorted(limits.hard() & lacking))} controller is mounted")
        if "cpuset" in self._roots and (limits.cpus or limits.mems):
            self.made += _make_parents(self._roots["cpuset"], self._path, cpuset=True)
        self._others.apply(limits.without(lacking))

    def limit_memory(self, limit: int | None) -> None:
        """See ProcessGroup."""
        if limit is not None or "memory" in self._folders:
            self._write("memory", "memory.limit_in_bytes", "-1" if limit is None else str(limit))

    def keep_bounds(self) -> Callable[[], None]:
        """See Group."""
        return saved(self._folders.values())

    def add_thread(self, tid: int) -> None:
        """See Group: a process, by its id."""
        for path in self._entrances("cgroup.procs"):
            with suppress(FileNotFoundError):
                write(path, str(tid))

    def doors(self) -> tuple[int, ...]:
        """See Group. By `tasks`: that way the kernel need not hold up the processes of the whole machine."""
        return open_all(self._entrances("tasks"))

    def usage(self) -> Usage:
        """See Group."""
        if self._past is not None:
            return self._past
        if "memory" not in self._folders:
            return self._others.usage()
        folder = self._folders["memory"]
        memory = charges.v1_memory(lambda name: self._counters.read(f"{folder}/{name}"))
        return dataclasses.replace(self._others.usage(), memory=memory)

    def keep_usage(self) -> None:
        """See Group."""
        self._past = past(self.usage())

    def kills(self) -> int:
        """See ProcessGroup."""
        if "memory" not in self._folders:
            return 0
        return table(self._counters.read(f"{self._folders['memory']}/memory.oom_control")).get(b"oom_kill", 0)

    def kill(self) -> None:
        """See ProcessGroup."""
        with suppress(OSError):
            self._write("freezer", "freezer.state", "THAWED")  # whoever froze it: what is frozen does not die
        for folder in self._folders.values():
            with suppress(OSError):
                _kill_all(read(f"{folder}/cgroup.procs"))

    def threads(self) -> list[int]:
        """See Group; in whichever hierarchy."""
        paths = [path for path in self._entrances("tasks") if os.path.exists(path)]  # noqa: PTH110
        return sorted({int(tid) for path in paths for tid in read(path).split()})

    def names(self) -> set[str]:
        """See Group."""
        return self._others.names()

    def remove(self) -> None:
        """See Group: what is in it is ended first."""
        self._counters.close()
        self.kill()
        for folder in self._folders.values():
            with suppress(FileNotFoundError):
                folder.rmdir()
        self._others.remove()

    def _make(self) -> None:
        for name, root in self._roots.items():
            if name != "cpuset":  # in which a group must be given processors before anybody may enter
                self.made += _make_parents(root, self._path)
        for name in ("memory", "freezer"):
            if name in self._folders:
                self._folders[name].mkdir(mode=0o755, exist_ok=True)

    def _entrances(self, name: str) -> list[str]:
        return [f"{folder}/{name}" for folder in self._folders.values()]

    def _write(self, controller: str, name: str, value: str) -> None:
        if controller not in self._folders:
            raise FileNotFoundError(f"no {controller} controller is mounted")
        write(f"{self._folders[controller]}/{name}", value)


class V2Processes:
    """See ProcessGroup."""

    charged = True

    def __init__(self, root: Path, path: PurePosixPath, budget: Budget, *, existing: bool = False) -> None:
        """Make the group and those around it; an `existing` one is only referred to."""
        self._folder = root / path
        self._counters = Counters(budget)
        self._past: Usage | None = None
        self.told_kills = 0
        self.made: list[Path] = []
        if not existing:
            self._make(root, path)
        self._others = V2Group(self._folder, frozenset(), threaded=False, budget=budget)

    def child(self, name: str) -> Group:
        """See Group: no container has any."""
        raise NotImplementedError(name)

    def apply(self, limits: GroupLimits) -> None:
        """See Group."""
        self._others.apply(limits)

    def limit_memory(self, limit: int | None) -> None:
        """See ProcessGroup."""
        write(f"{self._folder}/memory.max", "max" if limit is None else str(limit))

    def keep_bounds(self) -> Callable[[], None]:
        """See Group."""
        return saved([self._folder])

    def add_thread(self, tid: int) -> None:
        """See Group: a process, by its id."""
        write(f"{self._folder}/cgroup.procs", str(tid))

    def doors(self) -> tuple[int, ...]:
        """See Group."""
        return open_all([f"{self._folder}/cgroup.procs"])

    def usage(self) -> Usage:
        """See Group."""
        if self._past is not None:
            return self._past
        usage = self._others.usage()
        with suppress(FileNotFoundError):  # the memory controller is not enabled
            memory = charges.v2_memory(lambda name: self._counters.read(f"{self._folder}/{name}"))
            usage = dataclasses.replace(usage, memory=memory)
        return usage

    def keep_usage(self) -> None:
        """See Group."""
        self._past = past(self.usage())

    def kills(self) -> int:
        """See ProcessGroup."""
        with suppress(FileNotFoundError):
            return table(self._counters.read(f"{self._folder}/memory.events")).get(b"oom_kill", 0)
        return 0

    def kill(self) -> None:
        """See ProcessGroup."""
        with suppress(OSError):
            try:
                write(f"{self._folder}/cgroup.kill", "1")  # Linux 5.14
            except FileNotFoundError:
                _kill_all(read(f"{self._folder}/cgroup.procs"))

    def threads(self) -> list[int]:
        """See Group."""
        return self._others.threads()

    def names(self) -> set[str]:
        """See Group."""
        return self._others.names()

    def remove(self) -> None:
        """See Group: what is in it is ended first."""
        self._counters.close()
        self.kill()
        self._others.remove()

    def _make(self, root: Path, path: PurePosixPath) -> None:
        self.made += _make_parents(root, path)
        for parent in (root, *(root / each for each in reversed(path.parents[:-1]))):
            _enable(parent)
        self._folder.mkdir(mode=0o755, exist_ok=True)


def _slice(name: str) -> PurePosixPath:
    """A slice's folder: `a-b.slice` lies in `a.slice`, and `-.slice` is the root."""
    if not name.endswith(".slice") or "/" in name:
        raise InvalidArgument(f"config.json.linux.cgroupsPath names {name!r}, which is no slice of systemd's")
    path = PurePosixPath()
    prefix = ""
    for part in name.removesuffix(".slice").split("-") if name != "-.slice" else ():
        if not part:
            raise InvalidArgument(f"config.json.linux.cgroupsPath names {name!r}, which is no slice of systemd's")
        prefix = f"{prefix}-{part}" if prefix else part
        path /= f"{prefix}.slice"
    return path


def _make_parents(root: Path, path: PurePosixPath, *, cpuset: bool = False) -> list[Path]:
    """Make the folders around a group; those that were not there. A new cpuset has its parent's processors."""
    made = []
    for parent in reversed(path.parents[:-1]):
        folder = root / parent
        with suppress(FileExistsError):
            folder.mkdir(mode=0o755)
            made.append(folder)
            if cpuset:
                for name in ("cpuset.cpus", "cpuset.mems"):
                    write(f"{folder}/{name}", read(f"{folder.parent}/{name}").decode())
    return made


def _enable(folder: Path) -> None:
    """Let groups inside of this one have what controllers it has itself."""
    offered = set(read(f"{folder}/cgroup.controllers").decode().split())
    enabled = set(read(f"{folder}/cgroup.subtree_control").decode().split())
    for name in _V2:
        if name in offered - enabled:
            write(f"{folder}/cgroup.subtree_control", f"+{name}")


def _kill_all(pids: bytes) -> None:
    for pid in pids.split():
        with suppress(OSError):
            os.kill(int(pid), signal.SIGKILL)
