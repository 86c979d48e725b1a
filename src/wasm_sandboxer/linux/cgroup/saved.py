"""What a group's bounds were, to put them back where one of several that were to change is refused."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from wasm_sandboxer.linux.cgroup.files import read, write

_BOUNDS = (
    "cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.cfs_burst_us", "cpu.weight", "cpu.max",
    "cpu.max.burst", "cpuset.cpus", "cpuset.mems", "pids.max", "memory.limit_in_bytes", "memory.max",
)  # fmt: skip
_PASSES = 3  # some are held against each other, such as a burst against its quota: which goes first depends


def saved(folders: Iterable[str | Path]) -> Callable[[], None]:
    """What puts the bounds in these folders back as they are now, as far as the kernel takes that."""
    before = {}
    for folder in {str(folder) for folder in folders}:
        for name in _BOUNDS:
            with suppress(OSError):  # another version's, or another controller's
                before[f"{folder}/{name}"] = read(f"{_nearest(folder)}/{name}").decode()

    def put_back() -> None:
        for _ in range(_PASSES):
            for path, value in before.items():
                with suppress(OSError):
                    if read(path).decode() != value:
                        write(path, value)

    return put_back


def _nearest(folder: str) -> str:
    """The folder, or the one around it that there is: a new group begins with what that has."""
    while not os.path.exists(folder):  # noqa: PTH110  # text is the cheaper path
        folder = os.path.dirname(folder)  # noqa: PTH120
    return folder
