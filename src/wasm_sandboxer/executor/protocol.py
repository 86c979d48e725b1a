"""What runs a guest: an Executor starts it, an Execution is the running guest. Loop thread only."""

import asyncio
from typing import Protocol

from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.protocol import Program
from wasm_sandboxer.guest import Exit, Guest, Stdio
from wasm_sandboxer.linux.cgroup.protocol import Place


class Execution(Protocol):
    """A guest that runs or has run."""

    pid: int  # of the thread or process, for people and for State
    ended: asyncio.Future[Exit]  # never has an exception

    async def begin(self) -> None:
        """Start the guest; returns once its instance is made, or it was stopped before.

        Raises ModuleError or another domain error if it cannot begin; nothing is left then.
        """

    def stop(self) -> None:
        """End the guest now, also one that is only beginning; idempotent. `ended` follows."""

    def pause(self) -> None:
        """Hold the guest; its CPU time stands still."""

    def resume(self) -> None:
        """Let it go on."""

    def cpu_time(self) -> float:
        """Seconds of CPU the guest has used so far."""

    def memory(self) -> int:
        """Bytes of linear memory the guest has now, as far as that is known while it runs."""

    def resident(self) -> int:
        """Bytes of it that are in memory now."""


class Executor(Protocol):
    """Starts guests one way: on threads, in processes."""

    def prepare(
        self,
        program: Program,
        guest: Guest,
        stdio: Stdio,
        name: str,
        place: Place | None = None,
        pool: MemoryPool | None = None,
    ) -> Execution:
        """The guest, not begun: whoever begins it can stop it meanwhile. `name` is for ps.

        `place` is where it runs from its first instruction to its last, `pool` what its memory is charged to.
        """
