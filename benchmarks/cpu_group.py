"""A cpu cgroup for threads of this process, as a guest's group will be (cgroup v1; v2 has threaded groups for it)."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup/cpu")


class CpuGroup:
    """A group with a quota in CPUs, or none; threads join by themselves or are moved."""

    def __init__(self, name: str, *, quota: float | None = None, shares: int = 1024) -> None:
        self._folder = ROOT / f"{name}-{os.getpid()}"
        self._folder.mkdir()
        (self._folder / "cpu.shares").write_text(str(shares))
        if quota is not None:
            period = int((self._folder / "cpu.cfs_period_us").read_text())
            (self._folder / "cpu.cfs_quota_us").write_text(str(int(period * quota)))

    @property
    def path(self) -> Path:
        """The group's folder."""
        return self._folder

    def join(self) -> None:
        """Put the calling thread into it."""
        self.move(threading.get_native_id())

    def move(self, tid: int) -> None:
        """Put a thread into it."""
        (self._folder / "tasks").write_text(str(tid))

    def remove(self) -> None:
        """Remove it; its threads have ended, though the kernel may still count the last."""
        for _ in range(100):
            with contextlib.suppress(OSError):
                self._folder.rmdir()
                return
            time.sleep(0.02)


def available() -> bool:
    """Whether this machine and user can make such groups."""
    return (ROOT / "cpu.cfs_quota_us").exists() and os.access(ROOT, os.W_OK)


@contextlib.contextmanager
def cpu_group(name: str, *, quota: float | None = None, shares: int = 1024) -> Iterator[CpuGroup]:
    """A group that is removed at the end."""
    group = CpuGroup(name, quota=quota, shares=shares)
    try:
        yield group
    finally:
        group.remove()
