"""What a container uses, as the cgroup metrics messages that containerd and the kubelet read."""

from google.protobuf.any_pb2 import Any

from wasm_sandboxer.api import cgroups_v2_pb2, typeurl
from wasm_sandboxer.core.task import Task


def task_metrics(task: Task) -> Any:
    """CPU time of the container's threads and the linear memory of its guests."""
    processes = [task.init, *task.execs.values()]
    cpu = sum(process.run.cpu_time() for process in processes)
    memory = sum(process.run.memory() for process in processes)
    limit = task.guest.limits.memory
    return typeurl.pack(
        cgroups_v2_pb2.Metrics(
            pids=cgroups_v2_pb2.PidsStat(
                current=sum(1 for each in processes if each.run.pid and not each.exited.done())
            ),
            cpu=cgroups_v2_pb2.CPUStat(usage_usec=int(cpu * 1e6), user_usec=int(cpu * 1e6)),
            memory=cgroups_v2_pb2.MemoryStat(usage=memory, anon=memory, usage_limit=limit or (1 << 64) - 1),
            memory_events=cgroups_v2_pb2.MemoryEvents(),
        )
    )
