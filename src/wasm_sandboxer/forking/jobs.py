"""What can be run in a child: a job by name, its argument and its descriptors.

Jobs are named because some cross a socket to another process, where no closure could follow.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias

from wasm_sandboxer.errors import WasmSandboxerError

Function: TypeAlias = Callable[[bytes, tuple[int, ...]], bytes]
"""Computes a result from an argument and descriptors, which stay the caller's; in the child."""

Jobs: TypeAlias = Mapping[str, Function]


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

        Raises JobFailed when the bounds are hit or the child dies. The child is gone when this returns.
        """
