"""What a group is, whatever the version of the hierarchy: limits in v1's units, as the runtime spec has them."""

from dataclasses import dataclass
from typing import Protocol


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

    def controllers(self) -> frozenset[str]:
        """The controllers it takes to hold these bounds."""
        wanted = {
            "cpu": (self.shares, self.quota, self.period, self.burst),
            "cpuset": (self.cpus, self.mems),
            "pids": (self.pids,),
        }
        return frozenset(name for name, values in wanted.items() if any(value is not None for value in values))


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a group's threads have used: CPU microseconds, enforcement periods, threads now."""

    cpu: int = 0
    periods: int = 0
    throttled_periods: int = 0
    throttled: int = 0
    pids: int = 0


class Group(Protocol):
    """A group of threads; any thread may call. Every method raises OSError for what the kernel refuses."""

    def child(self, name: str) -> "Group":
        """A group inside this one, made now."""

    def apply(self, limits: GroupLimits) -> None:
        """Set bounds, of a running group too."""

    def add_thread(self, tid: int) -> None:
        """Move a thread of this process here."""

    def usage(self) -> Usage:
        """What its threads, and those of its children, have used."""

    def remove(self) -> None:
        """Remove the group, which must be empty; gone already is well."""
