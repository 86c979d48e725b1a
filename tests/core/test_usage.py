"""What a sandbox uses, of containers in its group and of those whose processes have groups of their own."""

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from wasm_sandboxer.core.container import Container as Run
from wasm_sandboxer.core.sandbox import Sandbox, SandboxRecord
from wasm_sandboxer.core.task import Task, TaskProcess
from wasm_sandboxer.core.usage import charged_usage, sandbox_usage, task_usage
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.shared_pool import Claim, pool_of
from wasm_sandboxer.guest import Exit, Guest, Reason
from wasm_sandboxer.linux.cgroup.protocol import MemoryUsage, Usage


@dataclass
class FakeGroup:
    """A group that has used so much."""

    used: Usage | None
    charged: bool = False
    asked: int = field(default=0)

    def usage(self) -> Usage:
        self.asked += 1
        if self.used is None:
            raise FileNotFoundError("it is being removed")
        return self.used


def task_in(pool: MemoryPool, group: Any) -> Task:
    run = Run.ended("c", Exit(code=0, reason=Reason.EXITED, peak_memory=70))
    process = TaskProcess("c", run, SimpleNamespace())  # type: ignore[arg-type]
    guest = Guest(module=Path(), argv=("",))
    run.charged = group.charged
    homes = SimpleNamespace(threads=None, processes=None)
    setattr(homes, "processes" if group.charged else "threads", group)
    return Task("ns", "c", Path("/b"), "s", process, SimpleNamespace(), ExitStack(), guest, pool, homes)  # type: ignore[arg-type]


def sandbox_of(pool: MemoryPool, group: Any, *tasks: Task) -> Sandbox:
    made = Sandbox(SandboxRecord(namespace="ns", id="s"), pool)
    made.group = group
    made.tasks = {str(number): task for number, task in enumerate(tasks)}
    return made


CHARGED = Usage(
    cpu=500, user=300, pids=4,
    memory=MemoryUsage(used=1000, resident=600, reclaimable=100, faults=9, peak=2000, limit=5000, kills=1),
)  # fmt: skip


def in_loop(check: Any) -> None:
    async def main() -> None:
        check()

    asyncio.run(main())


def test_memory_that_the_kernel_charges_is_told_as_it_is() -> None:
    def check() -> None:
        task = task_in(MemoryPool("its"), FakeGroup(CHARGED, charged=True))
        assert task_usage(task) == (CHARGED, CHARGED.memory)
        assert charged_usage(task) == CHARGED

    in_loop(check)


def test_a_sandbox_adds_up_what_is_in_its_group_and_what_is_not() -> None:
    def check() -> None:
        pool = MemoryPool("the pod's", 4096)
        pool.charge(64)
        claim = Claim(pool)
        pool_of(claim.share, claim.descriptors).charge(512)  # which the kernel has in its figure
        assert pool.used == 576
        inside = FakeGroup(Usage(cpu=7, pids=1))
        sandbox = sandbox_of(
            pool,
            FakeGroup(Usage(cpu=40, user=30, pids=2, throttled=3)),
            task_in(pool, inside),
            task_in(pool, FakeGroup(CHARGED, charged=True)),
        )
        sandbox.past_cpu = 11
        usage, memory = sandbox_usage(sandbox)
        assert (usage.cpu, usage.user, usage.pids, usage.throttled) == (551, 330, 6, 3)
        assert (memory.used, memory.resident, memory.reclaimable, memory.limit) == (1064, 600, 100, 4096)
        assert inside.asked == 0  # the sandbox's group counts it already

    in_loop(check)


def test_a_group_that_is_being_removed_is_no_error() -> None:
    def check() -> None:
        gone = task_in(MemoryPool("its"), FakeGroup(None, charged=True))
        usage, memory = task_usage(gone)
        assert (usage.pids, memory.peak) == (0, 70)
        assert charged_usage(gone) == Usage()
        sandbox_usage(sandbox_of(MemoryPool("the pod's"), FakeGroup(None), gone))

    in_loop(check)
