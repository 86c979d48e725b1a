"""Control groups version 1: one folder in each controller's own hierarchy, through cgroupspy's typed controllers.

Not through cgroupspy's trees, which read the whole file system when they are built. The cpuset hierarchy
is entered only where CPUs are asked for, since each of its groups must be given CPUs and memory nodes first.
Source: kernel documentation, admin-guide/cgroup-v1.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cgroupspy.controllers import Controller, CpuController, CpuSetController

from wasm_sandboxer.linux.cgroup.files import Budget, Counters, open_all, read, table, write
from wasm_sandboxer.linux.cgroup.protocol import GroupLimits, Usage, past
from wasm_sandboxer.linux.cgroup.saved import saved

CONTROLLERS = ("cpu", "cpuacct", "pids", "cpuset")


class V1Group:
    """See Group. `folders` has one folder per controller that the host mounts."""

    charged = False

    def __init__(
        self, folders: Mapping[str, str | Path], *, parent: "V1Group | None" = None, existing: bool = False
    ) -> None:
        """Make the group; an `existing` one, the daemon's own, is only referred to."""
        self._folders = {name: str(folder) for name, folder in folders.items()}
        self._parent = parent
        self._budget: Budget = parent._budget if parent else Budget()  # noqa: SLF001  # its own kind
        self._counters = Counters(self._budget)
        self._past: Usage | None = None
        self._throttled = existing  # perhaps; else only once it has had a quota
        if existing:
            return
        for name, folder in self._folders.items():
            if name != "cpuset":
                with suppress(FileExistsError):
                    os.mkdir(folder, 0o755)  # noqa: PTH102  # text is the cheaper path

    def child(self, name: str) -> "V1Group":
        """See Group."""
        return V1Group({controller: f"{path}/{name}" for controller, path in self._folders.items()}, parent=self)

    def apply(self, limits: GroupLimits) -> None:
        """See Group."""
        if "cpu" in self._folders:
            self._apply_cpu(limits)
        if limits.pids is not None and "pids" in self._folders:
            value = "max" if limits.pids < 0 else str(limits.pids)
            _Pids(self._folders["pids"]).set_property(b"pids.max", value)
        if limits.cpus or limits.mems:
            new = not os.path.exists(self._folders["cpuset"])  # noqa: PTH110
            cpuset = self._enter_cpuset()
            if limits.cpus:
                cpuset.set_property(b"cpuset.cpus", limits.cpus)
            if limits.mems:
                cpuset.set_property(b"cpuset.mems", limits.mems)
            for tid in self.threads() if new else ():  # those that run already
                with suppress(ProcessLookupError):
                    write(f"{self._folders['cpuset']}/tasks", str(tid))

    def keep_bounds(self) -> Callable[[], None]:
        """See Group."""
        return saved(self._folders.values())

    def add_thread(self, tid: int) -> None:
        """See Group."""
        for path in self._entrances():
            with suppress(FileNotFoundError):  # a cpuset that nobody asked for
                write(path, str(tid))

    def doors(self) -> tuple[int, ...]:
        """See Group."""
        return open_all(self._entrances())

    def usage(self) -> Usage:
        """See Group."""
        if self._past is not None:
            return self._past
        stat = table(self._read("cpu", "cpu.stat")) if self._throttled else {}
        total, user = int(self._read("cpuacct", "cpuacct.usage") or 0), self._read("cpuacct", "cpuacct.usage_user")
        return Usage(
            cpu=total // 1000,
            user=min(int(user or 0), total) // 1000,  # which the kernel knows by its ticks alone
            periods=stat.get(b"nr_periods", 0),
            throttled_periods=stat.get(b"nr_throttled", 0),
            throttled=stat.get(b"throttled_time", 0) // 1000,
            pids=int(self._read("pids", "pids.current") or 0),
        )

    def keep_usage(self) -> None:
        """See Group."""
        self._past = past(self.usage())

    def threads(self) -> list[int]:
        """See Group. A thread is in all hierarchies alike."""
        folder = self._folders.get("cpu") or next(iter(self._folders.values()))
        return [int(tid) for tid in Path(folder, "tasks").read_text().split()]

    def names(self) -> set[str]:
        """The names of the groups inside."""
        return {path.name for folder in self._folders.values() for path in Path(folder).glob("*/")}

    def remove(self) -> None:
        """See Group."""
        self._counters.close()
        for folder in self._folders.values():
            with suppress(FileNotFoundError):
                os.rmdir(folder)  # noqa: PTH106

    def _read(self, controller: str, name: str) -> bytes:
        """A counter; nothing where its hierarchy is not mounted."""
        folder = self._folders.get(controller)
        return self._counters.read(f"{folder}/{name}") if folder is not None else b""

    def _apply_cpu(self, limits: GroupLimits) -> None:
        cpu = _Cpu(self._folders["cpu"])
        if limits.shares is not None:
            cpu.shares = limits.shares
        if limits.quota is not None or limits.period:
            self._apply_quota(cpu, limits)
        if limits.burst is not None:
            cpu.set_property(b"cpu.cfs_burst_us", limits.burst)

    def _apply_quota(self, cpu: "_Cpu", limits: GroupLimits) -> None:
        """Write what changes and no more: at each write the kernel looks at every group of the host.

        It checks quota and period against the parent's then: without a quota any period fits.
        """
        quota_now, period = cpu.cfs_quota_us, cpu.cfs_period_us
        before = -1 if quota_now is None else quota_now  # cgroupspy's word for no quota
        quota = before if limits.quota is None else limits.quota if limits.quota > 0 else -1
        if limits.period and limits.period != period:
            if before != -1:
                cpu.cfs_quota_us = before = -1
            cpu.cfs_period_us = limits.period
        self._throttled = self._throttled or quota > 0
        if quota != before:
            cpu.cfs_quota_us = quota

    def _entrances(self) -> list[str]:
        folders = {**self._folders}
        if "cpuset" in folders:
            folders["cpuset"] = self._nearest_cpuset()
        return [f"{folder}/tasks" for folder in folders.values()]

    def _nearest_cpuset(self) -> str:
        """Its cpuset's folder, or that of the nearest group around it which has one."""
        folder = self._folders["cpuset"]
        if self._parent is None or os.path.exists(folder):  # noqa: PTH110
            return folder
        return self._parent._nearest_cpuset()  # noqa: SLF001  # its own kind

    def _enter_cpuset(self) -> "_CpuSet":
        """The cpuset's folder, made with its parents, each with its parent's CPUs and nodes."""
        folder = Path(self._folders["cpuset"])
        if not folder.exists():
            if self._parent is not None and not folder.parent.exists():
                self._parent._enter_cpuset()  # noqa: SLF001  # its own kind
            folder.mkdir(mode=0o755)
            for name in ("cpuset.cpus", "cpuset.mems"):
                write(f"{folder}/{name}", read(f"{folder.parent}/{name}").decode())
        return _CpuSet(self._folders["cpuset"])


class _Direct(Controller):  # type: ignore[misc]  # cgroupspy has no types
    """cgroupspy's controller of a folder, without its tree and without a file object for each value."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def get_property(self, filename: bytes) -> str:
        """A file's content."""
        return read(f"{self._folder}/{os.fsdecode(filename)}").decode().strip()

    def set_property(self, filename: bytes, value: Any) -> None:
        """Write to a file."""
        write(f"{self._folder}/{os.fsdecode(filename)}", str(value))


class _Cpu(_Direct, CpuController):  # type: ignore[misc]
    """The cpu controller."""


class _CpuSet(_Direct, CpuSetController):  # type: ignore[misc]
    """The cpuset controller."""


class _Pids(_Direct):
    """The pids controller, which cgroupspy does not know."""
