"""What can be run in a child, by name: jobs that are bounded and computed for their result, and processes that last.

They are named because they cross a socket to another process, where no closure could follow.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeAlias

from wasm_sandboxer.errors import WasmSandboxerError

Function: TypeAlias = Callable[[bytes, tuple[int, ...]], bytes]
"""Computes a result from an argument and descriptors, which stay the caller's; in the child."""

Jobs: TypeAlias = Mapping[str, Function]

Tell: TypeAlias = Callable[[bytes], None]
"""Sends one message to whoever asked for the process; a client that has gone is no error."""

Process: TypeAlias = Callable[[bytes, tuple[int, ...], Tell], int]
"""Lives in a child of its own, unbounded, until it returns its exit code; descriptors are its own."""

Fork: TypeAlias = Callable[[bytes, tuple[int, ...], int], int | None]
"""Forks a child of the server that is such a process, and tells at the descriptor that comes last; its id.

None leaves it to the Process of the same name. Raises OSError where none can be forked.
"""

Preload: TypeAlias = Callable[[bytes, tuple[int, ...]], None]
"""Makes something ready in the fork server itself, so that each child has it already. It must make no thread."""


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All that a fork server knows to run.

    `warm_up` is what each child does before it is asked for anything; `kept` are descriptors of the server's that
    each has, beside what it is given.
    """

    jobs: Jobs = field(default_factory=dict)
    processes: Mapping[str, Process] = field(default_factory=dict)
    forks: Mapping[str, Fork] = field(default_factory=dict)
    preloads: Mapping[str, Preload] = field(default_factory=dict)
    warm_up: Callable[[], None] = lambda: None
    kept: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a job may use: bytes of address space beyond what its process has already, and seconds."""

    memory: int
    seconds: float


class JobEnd(StrEnum):
    """Why a job gave no result."""

    MEMORY = "memory"
    TIME = "time"
    CRASH = "crash"


class JobFailed(WasmSandboxerError):
    """The child gave no result; `end` says why, the message what was seen."""

    def __init__(self, end: JobEnd, message: str) -> None:
        super().__init__(message)
        self.end = end


class Runner(Protocol):
    """Runs jobs in bounded children."""

    def run(
        self,
        name: str,
        argument: bytes,
        fds: tuple[int, ...],
        bounds: Bounds,
        waiting: Callable[[float], None] | None = None,
    ) -> bytes:
        """The job's result; `waiting` is called about ten times a second with the time so far.

        Raises JobFailed when the bounds are hit or the child dies. The child has nothing more to do when this
        returns, and is about to be gone.
        """
