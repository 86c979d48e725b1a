"""What containers and sandboxes use, as the cgroup metrics messages that containerd and the kubelet read; pure.

In the host's own cgroup version. containerd's CRI makes of them: the working set from memory usage less inactive
file pages (of which a guest on a thread has none), RSS from total_rss or anon, the available from the limit.
"""

from google.protobuf.any_pb2 import Any

from wasm_sandboxer.api import cgroups_v1_pb2, cgroups_v2_pb2, typeurl
from wasm_sandboxer.linux.cgroup.host import Version
from wasm_sandboxer.linux.cgroup.protocol import MemoryUsage, Usage

_NO_LIMIT = (1 << 64) - 1


def metrics_message(version: Version, usage: Usage, memory: MemoryUsage) -> Any:
    """The metrics message of this version, packed."""
    return typeurl.pack((_v1 if version is Version.V1 else _v2)(usage, memory))


def _v1(usage: Usage, memory: MemoryUsage) -> cgroups_v1_pb2.Metrics:
    limit = _limit(memory)
    message = cgroups_v1_pb2.Metrics(
        pids=cgroups_v1_pb2.PidsStat(current=usage.pids),
        cpu=cgroups_v1_pb2.CPUStat(
            usage=cgroups_v1_pb2.CPUUsage(
                total=usage.cpu * 1000, user=usage.user * 1000, kernel=(usage.cpu - usage.user) * 1000
            )
        ),
        memory=cgroups_v1_pb2.MemoryStat(
            rss=memory.resident,
            total_rss=memory.resident,
            hierarchical_memory_limit=limit,
            usage=cgroups_v1_pb2.MemoryEntry(usage=memory.used, max=memory.peak, limit=limit, failcnt=memory.refused),
        ),
        memory_oom_control=cgroups_v1_pb2.MemoryOomControl(oom_kill=memory.kills),
    )
    throttling, stat = message.cpu.throttling, message.memory
    throttling.SetInParent()
    message.blkio.SetInParent()  # nothing is counted, but nerdctl reads it without looking
    if usage.periods:
        throttling.periods = usage.periods
        throttling.throttled_periods = usage.throttled_periods
        throttling.throttled_time = usage.throttled * 1000
    if memory.faults:  # counted by the kernel, which it does for processes
        stat.inactive_file = stat.total_inactive_file = memory.reclaimable
        stat.pg_fault = stat.total_pg_fault = memory.faults
        stat.pg_maj_fault = stat.total_pg_maj_fault = memory.major_faults
    return message


def _v2(usage: Usage, memory: MemoryUsage) -> cgroups_v2_pb2.Metrics:
    return cgroups_v2_pb2.Metrics(
        pids=cgroups_v2_pb2.PidsStat(current=usage.pids),
        cpu=cgroups_v2_pb2.CPUStat(
            usage_usec=usage.cpu,
            user_usec=usage.user,
            system_usec=usage.cpu - usage.user,
            nr_periods=usage.periods,
            nr_throttled=usage.throttled_periods,
            throttled_usec=usage.throttled,
        ),
        memory=cgroups_v2_pb2.MemoryStat(
            usage=memory.used,
            max_usage=memory.peak,
            usage_limit=_limit(memory),
            anon=memory.resident,
            inactive_file=memory.reclaimable,
            pgfault=memory.faults,
            pgmajfault=memory.major_faults,
        ),
        memory_events=cgroups_v2_pb2.MemoryEvents(max=memory.refused, oom=memory.refused, oom_kill=memory.kills),
        io=cgroups_v2_pb2.IOStat(),  # as in version 1
    )


def _limit(memory: MemoryUsage) -> int:
    return _NO_LIMIT if memory.limit is None else memory.limit
