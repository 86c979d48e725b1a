"""What /proc says of a process while its threads, children and descriptors come and go."""

import time
from contextlib import suppress
from pathlib import Path

from tests.support.cli import PATIENCE


def links(pid: int) -> dict[int, str]:
    """Where its descriptors lead, by their numbers."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it is closed meanwhile
            found[int(link.name)] = str(link.readlink())
    return found


def threads(pid: int) -> dict[int, str]:
    """The names of its threads, by their ids."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            found[int(task.name)] = (task / "comm").read_text().strip()
    return found


def children(pid: int) -> list[int]:
    """Its children, whichever thread made them."""
    found: list[int] = []
    for tid in threads(pid):
        with suppress(OSError):
            found += map(int, Path(f"/proc/{pid}/task/{tid}/children").read_text().split())
    return found


def gone(pid: int) -> bool:
    """Whether there is no such process, or only its remains."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def wait_until_gone(pid: int) -> None:
    """Raises AssertionError for a process that lives on."""
    deadline = time.monotonic() + PATIENCE
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.005)
