"""A cpu cgroup for threads of a process, as a guest's group will be (cgroup v1; v2 has threaded groups for it).

Made and removed by the process that starts the one with the threads: a group goes only when its last thread has.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup/cpu")


class CpuGroup:
    """A group that exists, by its folder."""

    def __init__(self, folder: Path | str = ROOT) -> None:
        self.folder = Path(folder)

    def join(self) -> None:
        """Put the calling thread into it."""
        self.move(threading.get_native_id())

    def move(self, tid: int) -> None:
        """Put a thread into it; one that has ended meanwhile is no matter."""
        with contextlib.suppress(ProcessLookupError):
            (self.folder / "tasks").write_text(str(tid))


def available() -> bool:
    """Whether this machine and user can make such groups."""
    return (ROOT / "cpu.cfs_quota_us").exists() and os.access(ROOT, os.W_OK)


@contextlib.contextmanager
def cpu_group(
    name: str, *, quota: float | None = None, shares: int = 1024, parent: Path = ROOT
) -> Iterator[CpuGroup]:
    """A group with a quota in CPUs, or none; removed at the end."""
    folder = parent / f"{name}-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "cpu.shares").write_text(str(shares))
        if quota is not None:
            period = int((folder / "cpu.cfs_period_us").read_text())
            (folder / "cpu.cfs_quota_us").write_text(str(int(period * quota)))
        yield CpuGroup(folder)
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(250):
        with contextlib.suppress(OSError):  # its last thread has ended, but the kernel still counts it
            folder.rmdir()
            return
        time.sleep(0.02)
