"""What containers are made with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wasm_sandboxer.choices import Isolation
from wasm_sandboxer.core.events import Event
from wasm_sandboxer.core.groups import Groups
from wasm_sandboxer.core.observer import Nobody, Observer
from wasm_sandboxer.core.process_groups import ProcessGroups
from wasm_sandboxer.core.workers import Workers
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.protocol import Engine
from wasm_sandboxer.executor.process import ProcessExecutor
from wasm_sandboxer.executor.protocol import Executor


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What containers are made with; shared by all."""

    engine: Engine
    threads: Executor
    processes: ProcessExecutor
    workers: Workers
    publish: Callable[[Event], None]
    groups: Groups
    process_groups: ProcessGroups
    pool: MemoryPool  # the node's: what all guests on threads may have together
    default_memory: int = 0
    isolation: Isolation = Isolation.AUTO
    component_threads: bool = False  # whether a pod may put a component on one
    host_network: int | None = None  # a descriptor of the network namespace that the host has
    plugins: Path | None = None
    observer: Observer = field(default_factory=Nobody)
