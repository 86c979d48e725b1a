"""What memory the kernel charges to a group: only to groups of whole processes, never to those of threads.

For whoever keeps a process in a group with the memory controller: the figures go into Usage.memory, and everything
that tells what containers use takes them from there.
Source: kernel documentation, admin-guide/cgroup-v1/memory and admin-guide/cgroup-v2.
"""

from collections.abc import Callable

from wasm_sandboxer.linux.cgroup.files import table
from wasm_sandboxer.linux.cgroup.protocol import MemoryUsage

_UNLIMITED = 1 << 62  # version 1 says "no limit" with a number near the largest
Read = Callable[[str], bytes]


def v1_memory(read: Read) -> MemoryUsage:
    """Of a group in version 1's memory hierarchy; `read` gives its files by their names. Raises OSError."""
    stat = table(read("memory.stat"))
    limit = int(read("memory.limit_in_bytes"))
    return MemoryUsage(
        used=int(read("memory.usage_in_bytes")),
        resident=stat.get(b"total_rss", 0),
        reclaimable=stat.get(b"total_inactive_file", 0),
        faults=stat.get(b"total_pgfault", 0),
        major_faults=stat.get(b"total_pgmajfault", 0),
        peak=int(read("memory.max_usage_in_bytes")),
        limit=None if limit >= _UNLIMITED else limit,
        refused=int(read("memory.failcnt")),
        kills=table(read("memory.oom_control")).get(b"oom_kill", 0),
    )


def v2_memory(read: Read) -> MemoryUsage:
    """Of a group in version 2; `read` gives its files by their names. Raises OSError."""
    stat, events = table(read("memory.stat")), table(read("memory.events"))
    limit = read("memory.max").strip()
    used = int(read("memory.current"))
    return MemoryUsage(
        used=used,
        resident=stat.get(b"anon", 0),
        reclaimable=stat.get(b"inactive_file", 0),
        faults=stat.get(b"pgfault", 0),
        major_faults=stat.get(b"pgmajfault", 0),
        peak=max(used, _peak(read)),
        limit=None if limit == b"max" else int(limit),
        refused=events.get(b"max", 0),
        kills=events.get(b"oom_kill", 0),
    )


def _peak(read: Read) -> int:
    try:
        return int(read("memory.peak"))  # Linux 5.19
    except FileNotFoundError:
        return 0
