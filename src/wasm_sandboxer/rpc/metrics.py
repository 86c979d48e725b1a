"""What a container uses, as the cgroup metrics messages that containerd and the kubelet read.

In the host's own cgroup version. CPU and threads are the kernel's count where the container has a group, else
the clocks of its threads; memory is the engine's, since the kernel counts it to the whole daemon.
"""

from google.protobuf.any_pb2 import Any

from wasm_sandboxer.api import cgroups_v1_pb2, cgroups_v2_pb2, typeurl
from wasm_sandboxer.core.task import Task
from wasm_sandboxer.linux.cgroup.host import Version
from wasm_sandboxer.linux.cgroup.protocol import Usage

_NO_LIMIT = (1 << 64) - 1


def task_metrics(task: Task) -> Any:
    """The metrics message of a container."""
    processes = [task.init, *task.execs.values()]
    memory = sum(process.run.memory() for process in processes)
    limit = task.guest.limits.memory or _NO_LIMIT
    usage = task.group.usage() if task.group is not None else _own_count(task)
    message = _v1 if task.tools.groups.version is Version.V1 else _v2
    return typeurl.pack(message(usage, memory, limit))


def _own_count(task: Task) -> Usage:
    processes = [task.init, *task.execs.values()]
    running = sum(1 for each in processes if each.run.pid and not each.exited.done())
    return Usage(cpu=int(sum(process.run.cpu_time() for process in processes) * 1e6), pids=running)


def _v1(usage: Usage, memory: int, limit: int) -> cgroups_v1_pb2.Metrics:
    return cgroups_v1_pb2.Metrics(
        pids=cgroups_v1_pb2.PidsStat(current=usage.pids),
        cpu=cgroups_v1_pb2.CPUStat(
            usage=cgroups_v1_pb2.CPUUsage(total=usage.cpu * 1000, user=usage.cpu * 1000),
            throttling=cgroups_v1_pb2.Throttle(
                periods=usage.periods,
                throttled_periods=usage.throttled_periods,
                throttled_time=usage.throttled * 1000,
            ),
        ),
        memory=cgroups_v1_pb2.MemoryStat(
            rss=memory, total_rss=memory, usage=cgroups_v1_pb2.MemoryEntry(usage=memory, limit=limit)
        ),
        memory_oom_control=cgroups_v1_pb2.MemoryOomControl(),
    )


def _v2(usage: Usage, memory: int, limit: int) -> cgroups_v2_pb2.Metrics:
    return cgroups_v2_pb2.Metrics(
        pids=cgroups_v2_pb2.PidsStat(current=usage.pids),
        cpu=cgroups_v2_pb2.CPUStat(
            usage_usec=usage.cpu,
            user_usec=usage.cpu,
            nr_periods=usage.periods,
            nr_throttled=usage.throttled_periods,
            throttled_usec=usage.throttled,
        ),
        memory=cgroups_v2_pb2.MemoryStat(usage=memory, anon=memory, usage_limit=limit),
        memory_events=cgroups_v2_pb2.MemoryEvents(),
    )
