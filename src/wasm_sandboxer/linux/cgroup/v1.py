"""Control groups version 1: one folder in each controller's own hierarchy, through cgroupspy's typed controllers.

The nodes are made by hand: cgroupspy's trees read the whole file system when they are built. The cpuset hierarchy
is entered only where CPUs are asked for, since each of its groups must be given CPUs and memory nodes first.
Source: kernel documentation, admin-guide/cgroup-v1.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cgroupspy.controllers import Controller, CpuAcctController, CpuController, CpuSetController
from cgroupspy.nodes import Node

from wasm_sandboxer.linux.cgroup.protocol import GroupLimits, Usage

CONTROLLERS = ("cpu", "cpuacct", "pids", "cpuset")


class V1Group:
    """See Group. `folders` has one folder per controller that the host mounts."""

    def __init__(
        self, folders: Mapping[str, Path], *, parent: "V1Group | None" = None, existing: bool = False
    ) -> None:
        """Make the group; an `existing` one, the daemon's own, is only referred to."""
        self._folders = folders
        self._parent = parent
        if existing:
            return
        for name, folder in folders.items():
            if name != "cpuset":
                folder.mkdir(mode=0o755, exist_ok=True)

    def child(self, name: str) -> "V1Group":
        """See Group."""
        return V1Group({controller: folder / name for controller, folder in self._folders.items()}, parent=self)

    def apply(self, limits: GroupLimits) -> None:
        """See Group."""
        if "cpu" in self._folders:
            self._apply_cpu(limits)
        if limits.pids is not None and "pids" in self._folders:
            value = "max" if limits.pids < 0 else str(limits.pids)
            Controller(self._node("pids")).set_property(b"pids.max", value)
        if limits.cpus or limits.mems:
            new = not self._folders["cpuset"].exists()
            cpuset = self._enter_cpuset()
            if limits.cpus:
                cpuset.set_property(b"cpuset.cpus", limits.cpus)
            if limits.mems:
                cpuset.set_property(b"cpuset.mems", limits.mems)
            for tid in self.threads() if new else ():  # those that run already
                with suppress(ProcessLookupError):
                    (self._folders["cpuset"] / "tasks").write_text(str(tid))

    def add_thread(self, tid: int) -> None:
        """See Group."""
        for name, folder in self._folders.items():
            tasks = (self._nearest_cpuset() if name == "cpuset" else folder) / "tasks"
            with suppress(FileNotFoundError):  # a cpuset that nobody asked for
                tasks.write_text(str(tid))

    def usage(self) -> Usage:
        """See Group."""
        stat: Mapping[str, int] = CpuController(self._node("cpu")).stat if "cpu" in self._folders else {}
        cpu = CpuAcctController(self._node("cpuacct")).usage // 1000 if "cpuacct" in self._folders else 0
        pids = int((self._folders["pids"] / "pids.current").read_text()) if "pids" in self._folders else 0
        return Usage(
            cpu=cpu,
            periods=stat.get("nr_periods", 0),
            throttled_periods=stat.get("nr_throttled", 0),
            throttled=stat.get("throttled_time", 0) // 1000,
            pids=pids,
        )

    def threads(self) -> list[int]:
        """See Group. A thread is in all hierarchies alike."""
        folder = self._folders.get("cpu") or next(iter(self._folders.values()))
        return [int(tid) for tid in (folder / "tasks").read_text().split()]

    def names(self) -> set[str]:
        """The names of the groups inside."""
        return {path.name for folder in self._folders.values() for path in folder.glob("*/")}

    def remove(self) -> None:
        """See Group."""
        for folder in self._folders.values():
            with suppress(FileNotFoundError):
                folder.rmdir()

    def _node(self, controller: str) -> Node:
        return Node(os.fsencode(self._folders[controller]))

    def _apply_cpu(self, limits: GroupLimits) -> None:
        cpu = CpuController(self._node("cpu"))
        if limits.shares is not None:
            cpu.shares = limits.shares
        if limits.quota is None and limits.period is None:
            return
        # The kernel checks quota and period against the parent's at every write: without a quota any period fits.
        quota = limits.quota if limits.quota is not None else (cpu.cfs_quota_us or -1)
        cpu.cfs_quota_us = -1
        if limits.period:
            cpu.cfs_period_us = limits.period
        cpu.cfs_quota_us = quota if quota > 0 else -1
        if limits.burst is not None:
            cpu.set_property(b"cpu.cfs_burst_us", limits.burst)

    def _nearest_cpuset(self) -> Path:
        """Its cpuset's folder, or that of the nearest group around it which has one."""
        folder = self._folders["cpuset"]
        if self._parent is None or folder.exists():
            return folder
        return self._parent._nearest_cpuset()  # noqa: SLF001  # its own kind

    def _enter_cpuset(self) -> CpuSetController:
        """The cpuset's folder, made with its parents, each with its parent's CPUs and nodes."""
        folder = self._folders["cpuset"]
        if not folder.exists():
            if self._parent is not None and not folder.parent.exists():
                self._parent._enter_cpuset()  # noqa: SLF001  # its own kind
            folder.mkdir(mode=0o755)
            for name in ("cpuset.cpus", "cpuset.mems"):
                (folder / name).write_text((folder.parent / name).read_text())
        return CpuSetController(self._node("cpuset"))
