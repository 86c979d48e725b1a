"""A sandbox: a pod's group of containers, its record, its end. Loop thread only."""

import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wasm_sandboxer.bundle.identity import Dns, Identity
from wasm_sandboxer.core.task import Task
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.linux.cgroup.protocol import Group


@dataclass(frozen=True, kw_only=True)
class SandboxRecord:
    """What a sandbox is, as it is kept on disk."""

    namespace: str
    id: str
    netns_path: str = ""
    cgroup_parent: str = ""
    name: str = ""
    hostname: str = ""
    addresses: Sequence[str] = ()
    dns: Mapping[str, Any] | None = None  # fields of bundle.identity.Dns
    handler: str = ""
    resources: Mapping[str, Any] = field(default_factory=dict)  # fields of spec.Resources
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)  # as they were given
    created_at: float = field(default_factory=time.time)
    started: bool = False
    exited_at: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return dict(vars(self))

    def identity(self) -> Identity:
        """What its containers shall find in /etc."""
        return Identity(
            hostname=self.hostname,
            addresses=self.addresses,
            dns=None if self.dns is None else Dns(**self.dns),
            host_network=not self.netns_path,
        )


@dataclass(frozen=True, slots=True)
class SandboxView:
    """How a sandbox was at a moment; any thread may read it."""

    record: SandboxRecord
    ready: bool
    containers: tuple[str, ...]


class Sandbox:
    """A pod: READY from start to stop."""

    def __init__(self, record: SandboxRecord, pool: MemoryPool) -> None:
        """`pool` is what its containers may have together."""
        self.record = record
        self.pool = pool
        self.tasks: dict[str, Task] = {}
        self.group: Group | None = None  # once it is stopped, what tells of one that is gone
        self.past_cpu = 0  # microseconds that containers outside its group had used when they were deleted
        self.past_oom_count = 0  # guests that died of a limit on memory, in containers that are deleted
        self.lock = asyncio.Lock()  # held while it starts, stops or is removed
        self.stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopping = bool(record.exited_at)  # nothing may be created in it any more
        if self.stopping:
            self.stopped.set_result(None)
        self.view: SandboxView
        self.show()

    @property
    def id(self) -> str:
        """Its id, unique in its namespace."""
        return self.record.id

    @property
    def ready(self) -> bool:
        """Whether containers may run in it."""
        return self.record.started and not self.stopped.done()

    def show(self) -> None:
        """Let other threads see how it is now; after each change."""
        self.view = SandboxView(self.record, self.ready, tuple(self.tasks))

    def end(self, at: float) -> None:
        """Let it be stopped, and who waits for that know."""
        if not self.stopped.done():
            self.record = dataclasses.replace(self.record, exited_at=at)
            self.stopped.set_result(None)
            self.show()

    async def end_tasks(self) -> None:
        """Kill every container and wait until all have ended; none is created in it from here on."""
        self.stopping = True
        if self.tasks:
            await asyncio.gather(*(task.end() for task in self.tasks.values()))
