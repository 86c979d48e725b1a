"""Control groups version 2: threaded groups inside the daemon's own domain, by plain files.

Only the threads of one domain can share its groups, and only the cpu, cpuset and pids controllers work there.
cgroupspy knows version 1 alone, and a handful of files needs no library.
Source: kernel documentation, admin-guide/cgroup-v2, "Threads".
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from wasm_sandboxer.linux.cgroup.files import Budget, Counters, open_all, table
from wasm_sandboxer.linux.cgroup.protocol import GroupLimits, Usage, past
from wasm_sandboxer.linux.cgroup.saved import saved

_DEFAULT_PERIOD = 100_000


class V2Group:
    """See Group. `controllers` are those that may be enabled for children."""

    charged = False

    def __init__(
        self, folder: Path, controllers: frozenset[str], *, threaded: bool = True, budget: Budget | None = None
    ) -> None:
        """Make the group; `threaded` is False for the daemon's own, which is the domain."""
        self._folder = folder
        self._budget = budget or Budget()
        self._counters = Counters(self._budget)
        self._past: Usage | None = None
        self._controllers = controllers
        if not threaded:
            return
        folder.mkdir(mode=0o755, exist_ok=True)
        try:
            self._write("cgroup.type", "threaded")
        except OSError:
            self.remove()
            raise

    def child(self, name: str) -> "V2Group":
        """See Group."""
        made = V2Group(self._folder / name, self._controllers, budget=self._budget)
        self._enable()  # only after the first threaded child: it makes this group a thread root
        return made

    def apply(self, limits: GroupLimits) -> None:
        """See Group."""
        if limits.shares is not None:
            self._write("cpu.weight", str(weight_of(limits.shares)))
        if limits.quota is not None or limits.period is not None:
            self._write("cpu.max", self._cpu_max(limits))
        if limits.burst is not None:
            self._write("cpu.max.burst", str(limits.burst))
        if limits.cpus:
            self._write("cpuset.cpus", limits.cpus)
        if limits.mems:
            self._write("cpuset.mems", limits.mems)
        if limits.pids is not None:
            self._write("pids.max", "max" if limits.pids < 0 else str(limits.pids))

    def keep_bounds(self) -> Callable[[], None]:
        """See Group."""
        return saved([self._folder])

    def add_thread(self, tid: int) -> None:
        """See Group."""
        self._write("cgroup.threads", str(tid))

    def doors(self) -> tuple[int, ...]:
        """See Group."""
        return open_all([f"{self._folder}/cgroup.threads"])

    def usage(self) -> Usage:
        """See Group."""
        if self._past is not None:
            return self._past
        stat = table(self._counters.read(f"{self._folder}/cpu.stat"))
        try:
            pids = int(self._counters.read(f"{self._folder}/pids.current"))
        except FileNotFoundError:  # the controller is not enabled
            pids = 0
        return Usage(
            cpu=stat.get(b"usage_usec", 0),
            user=stat.get(b"user_usec", 0),
            periods=stat.get(b"nr_periods", 0),
            throttled_periods=stat.get(b"nr_throttled", 0),
            throttled=stat.get(b"throttled_usec", 0),
            pids=pids,
        )

    def keep_usage(self) -> None:
        """See Group."""
        self._past = past(self.usage())

    def threads(self) -> list[int]:
        """See Group."""
        return [int(tid) for tid in (self._folder / "cgroup.threads").read_text().split()]

    def names(self) -> set[str]:
        """The names of the groups inside."""
        return {path.name for path in self._folder.glob("*/")}

    def remove(self) -> None:
        """See Group."""
        self._counters.close()
        with suppress(FileNotFoundError):
            self._folder.rmdir()

    def _enable(self) -> None:
        enabled = set((self._folder / "cgroup.subtree_control").read_text().split())
        missing = sorted(self._controllers - enabled)
        if missing:
            self._write("cgroup.subtree_control", " ".join(f"+{name}" for name in missing))

    def _cpu_max(self, limits: GroupLimits) -> str:
        now = (self._folder / "cpu.max").read_text().split()
        quota = str(limits.quota) if limits.quota is not None else now[0]
        if quota.startswith("-") or quota == "0":
            quota = "max"
        return f"{quota} {limits.period or (now[1] if len(now) > 1 else _DEFAULT_PERIOD)}"

    def _write(self, name: str, value: str) -> None:
        (self._folder / name).write_text(value)


def weight_of(shares: int) -> int:
    """Version 2's weight (1 to 10000) for version 1's shares (2 to 262144), as the OCI runtimes map them."""
    return 1 + (max(2, min(shares, 262144)) - 2) * 9999 // 262142
