"""What a group is, whatever the version of the hierarchy: limits in v1's units, as the runtime spec has them."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

_OF_CONTROLLER = {"cpu": ("shares", "quota", "period", "burst"), "cpuset": ("cpus", "mems"), "pids": ("pids",)}


@dataclass(frozen=True, kw_only=True)
class GroupLimits:
    """Bounds for the threads of a group; None leaves what the kernel has.

    shares: 2 to 262144, 1024 is one ordinary share. quota, period and burst: microseconds, a quota below 0 is none.
    cpus and mems: lists as in "0-2,7". pids: threads, below 0 is none.
    """

    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    burst: int | None = None
    cpus: str | None = None
    mems: str | None = None
    pids: int | None = None

    def hard(self) -> frozenset[str]:
        """The controllers without which a bound would not hold; shares only divide what there is."""
        wanted = {"cpu": self.quota, "pids": self.pids, "cpuset": 1 if self.cpus or self.mems else None}
        return frozenset(name for name, value in wanted.items() if value is not None and value > 0)

    def without(self, controllers: Collection[str]) -> "GroupLimits":
        """Those that do not concern these controllers."""
        gone = {name for controller in controllers for name in _OF_CONTROLLER.get(controller, ())}
        return replace(self, **dict.fromkeys(gone))


@dataclass(frozen=True, kw_only=True)
class MemoryUsage:
    """Memory in bytes, of a container or a sandbox.

    used: what counts against the limit; of it resident: what is really in memory; reclaimable: what the kernel could
    take back at once; peak: the most that was used. faults, major_faults: page faults, where they are counted.
    limit: None for none. refused: how often more was refused; kills: how many guests ended of that.
    """

    used: int = 0
    resident: int = 0
    reclaimable: int = 0
    faults: int = 0
    major_faults: int = 0
    peak: int = 0
    limit: int | None = None
    refused: int = 0
    kills: int = 0


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a group's threads have used: CPU microseconds, enforcement periods, threads now.

    user: what of the CPU time was spent in the guest's own code, where that is known.
    memory: where the kernel charges it to the group, which it does for whole processes alone.
    """

    cpu: int = 0
    user: int = 0
    periods: int = 0
    throttled_periods: int = 0
    throttled: int = 0
    pids: int = 0
    memory: MemoryUsage | None = None


def past(usage: Usage) -> Usage:
    """What stays of it when nothing runs any more."""
    memory = usage.memory
    if memory is not None:
        memory = replace(memory, used=0, resident=0, reclaimable=0)
    return replace(usage, pids=0, memory=memory)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a guest's thread runs: in its group, and before and after in the daemon's own.

    `exits` are the daemon's own group's doors, kept open; see Group.doors.
    """

    group: "Group"
    home: "Group"
    exits: tuple[int, ...]

    def enter(self, tid: int) -> None:
        """Put a thread under the group's bounds."""
        self.group.add_thread(tid)

    def leave(self, tid: int) -> None:
        """Take a thread out of them."""
        self.home.add_thread(tid)


class Group(Protocol):
    """A group of threads; any thread may call. Every method raises OSError for what the kernel refuses."""

    charged: bool
    """Whether it holds whole processes, outside its sandbox's group: then the kernel charges memory to it."""

    def child(self, name: str) -> "Group":
        """A group inside this one, made now."""

    def apply(self, limits: GroupLimits) -> None:
        """Set bounds, of a running group too."""

    def keep_bounds(self) -> Callable[[], None]:
        """What puts its bounds back as they are now; that never raises."""

    def add_thread(self, tid: int) -> None:
        """Move a thread of this process here."""

    def doors(self) -> tuple[int, ...]:
        """New descriptors, the caller's to close: a thread that writes `0` to each moves itself here."""

    def usage(self) -> Usage:
        """What its threads, and those of its children, have used."""

    def keep_usage(self) -> None:
        """Let usage() say what it says now from here on: nothing runs in it any more, and it is about to go."""

    def threads(self) -> list[int]:
        """The threads in this very group."""

    def names(self) -> set[str]:
        """The names of the groups inside."""

    def remove(self) -> None:
        """Remove the group, which must be empty; gone already is well."""
