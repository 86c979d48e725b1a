"""What containers and sandboxes use, and where each figure comes from. Loop thread only.

CPU and threads are the kernel's count of the control group, or where there is none the clocks of the guests' own
threads. Memory is the kernel's for a guest in a process of its own; for guests on threads, whose memory the kernel
counts to the whole daemon, it is the engine's: what is charged to the pools, and what of it is resident.
"""

from collections.abc import Iterable
from dataclasses import replace

from wasm_sandboxer.core.container import Container as Run
from wasm_sandboxer.core.sandbox import Sandbox
from wasm_sandboxer.core.task import Task
from wasm_sandboxer.linux.cgroup.protocol import Group, MemoryUsage, Usage


def task_usage(task: Task) -> tuple[Usage, MemoryUsage]:
    """What a container's processes use; those that have ended use memory no more."""
    if task.charged is None:
        return _group_usage(task.group) or _own_count([task]), _task_memory(task)
    charged, ours = charged_usage(task), _task_memory(task)
    memory = charged.memory or replace(ours, peak=max((run.memory() for run in _all(task)), default=0))
    if task.group is None:
        return charged, memory
    together = replace(_memory_sum(ours, [charged]), limit=memory.limit, kills=max(ours.kills, memory.kills))
    return _sum([_group_usage(task.group) or Usage(), charged]), together


def sandbox_usage(sandbox: Sandbox) -> tuple[Usage, MemoryUsage]:
    """What a sandbox's containers use together; of those that were deleted, what the kernel still counts."""
    tasks = list(sandbox.tasks.values())
    usage = _group_usage(sandbox.group) or _own_count(tasks)
    pool = sandbox.pool
    memory = MemoryUsage(
        used=pool.here,
        resident=sum(run.resident() for task in tasks for run in _runs(task)),
        peak=pool.here,
        limit=pool.limit,
        refused=pool.refused,
        kills=sum(task.oom_count for task in tasks) + sandbox.past_oom_count,
    )
    outside = [charged_usage(task) for task in tasks]
    return _sum([usage, Usage(cpu=sandbox.past_cpu), *outside]), _memory_sum(memory, outside)


def charged_usage(task: Task) -> Usage:
    """What a container uses outside its sandbox's group; nothing for one that is in it."""
    return _group_usage(task.charged) or Usage()


def _sum(usages: Iterable[Usage]) -> Usage:
    each = list(usages)
    return Usage(
        cpu=sum(one.cpu for one in each),
        user=sum(one.user for one in each),
        periods=sum(one.periods for one in each),
        throttled_periods=sum(one.throttled_periods for one in each),
        throttled=sum(one.throttled for one in each),
        pids=sum(one.pids for one in each),
    )


def _memory_sum(ours: MemoryUsage, outside: Iterable[Usage]) -> MemoryUsage:
    """The pool's figures with what the kernel charges; limit and refusals are the pool's."""
    each = [one.memory for one in outside if one.memory is not None]
    return replace(
        ours,
        used=ours.used + sum(one.used for one in each),
        resident=ours.resident + sum(one.resident for one in each),
        reclaimable=sum(one.reclaimable for one in each),
        faults=sum(one.faults for one in each),
        major_faults=sum(one.major_faults for one in each),
        peak=ours.peak + sum(one.used for one in each),
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
    pool, resident = task.pool, 0
    used = peak = pool.here
    for run in _runs(task):
        if run.exit.done():
            peak = max(peak, run.memory())
        else:
            resident += run.resident()
    return MemoryUsage(
        used=used,
        resident=resident,
        peak=peak,
        limit=pool.limit,
        refused=pool.refused,
        kills=task.oom_count,
    )


def _runs(task: Task) -> list[Run]:
    """Those that no group of the kernel's is charged with."""
    runs = _all(task)
    return runs if task.charged is None else [run for run in runs if not run.charged]


def _all(task: Task) -> list[Run]:
    if not task.execs:
        return [task.init.run]
    return [task.init.run, *(each.run for each in task.execs.values())]
