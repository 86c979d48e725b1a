"""What containers and sandboxes use, and where each figure comes from. Loop thread only.

CPU and threads are the kernel's count of the control group, or where there is none the clocks of the guests' own
threads. Memory is the kernel's for a guest in a process of its own; for guests on threads, whose memory the kernel
counts to the whole daemon, it is the engine's: what is charged to the pools, and what of it is resident.
"""

from collections.abc import Iterable

from wasm_sandboxer.core.container import Container as Run
from wasm_sandboxer.core.sandbox import Sandbox
from wasm_sandboxer.core.task import Task
from wasm_sandboxer.linux.cgroup.protocol import Group, MemoryUsage, Usage


def task_usage(task: Task) -> tuple[Usage, MemoryUsage]:
    """What a container's processes use; those that have ended use memory no more."""
    usage = _group_usage(task.group) or _own_count([task])
    return usage, usage.memory or _task_memory(task)


def sandbox_usage(sandbox: Sandbox) -> tuple[Usage, MemoryUsage]:
    """What a sandbox's containers use together; of those that were deleted, what the kernel still counts."""
    tasks = list(sandbox.tasks.values())
    usage = _group_usage(sandbox.group) or _own_count(tasks)
    if usage.memory is not None:
        return usage, usage.memory
    pool = sandbox.pool
    return usage, MemoryUsage(
        used=pool.used,
        resident=sum(run.resident() for task in tasks for run in _runs(task)),
        peak=pool.used,
        limit=pool.limit,
        refused=pool.refused,
        kills=sum(task.oom_count for task in tasks) + sandbox.past_oom_count,
    )


def _group_usage(group: Group | None) -> Usage | None:
    try:
        return group.usage() if group is not None else None
    except OSError:  # it is being removed
        return None


def _own_count(tasks: Iterable[Task]) -> Usage:
    runs = [run for task in tasks for run in _runs(task)]
    cpu = int(sum(run.cpu_time() for run in runs) * 1e6)
    return Usage(cpu=cpu, user=cpu, pids=sum(1 for run in runs if run.pid and not run.exit.done()))


def _task_memory(task: Task) -> MemoryUsage:
    """The engine's figures of a container."""
    runs, pool = _runs(task), task.pool
    used = pool.used
    return MemoryUsage(
        used=used,
        resident=sum(run.resident() for run in runs),
        peak=max(used, *(run.memory() for run in runs)),
        limit=pool.limit,
        refused=pool.refused,
        kills=task.oom_count,
    )


def _runs(task: Task) -> list[Run]:
    if not task.execs:
        return [task.init.run]
    return [task.init.run, *(each.run for each in task.execs.values())]
