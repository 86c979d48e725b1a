"""A container: one guest, its state, its one exit. Loop thread only.

The state changes under one lock together with its effect, so two verbs never interleave. The exit is a future
that is set exactly once and never has an exception; any number may wait for it.
"""

import asyncio
import dataclasses
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.protocol import Program, is_external
from wasm_sandboxer.errors import FailedPrecondition, OutOfMemory
from wasm_sandboxer.executor.protocol import Execution, Executor
from wasm_sandboxer.guest import OOM_EXIT_CODE, Exit, Guest, Reason, Stdio
from wasm_sandboxer.lifecycle import Action, State, action_of, exit_code_of
from wasm_sandboxer.linux.cgroup.protocol import Place
from wasm_sandboxer.units import format_size


class Container:
    """Runs a program's guest once, with descriptors that its owner opens and closes."""

    def __init__(
        self,
        ident: str,
        program: Program,
        guest: Guest,
        stdio: Stdio,
        executor: Executor,
        *,
        place: Place | None = None,
        pool: MemoryPool | None = None,
        charged: bool = False,
    ) -> None:
        """`charged` says that the kernel counts its memory to a group of its own."""
        self.id = ident
        self.guest = guest
        self.charged = charged
        self.state = State.CREATED
        self.exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._program = program
        self._stdio = stdio
        self._executor = executor
        self._place = place
        self._pool = pool
        self._execution: Execution | None = None
        self._signal = 0
        self._held = False
        self._lock = asyncio.Lock()

    @classmethod
    def ended(cls, ident: str, end: Exit) -> "Container":
        """A container that has ended already, with no program to run: one that another daemon left."""
        container = cls.__new__(cls)
        container.id = ident
        container.guest = Guest(module=Path(), argv=("",))
        container.charged = False
        container.state = State.STOPPED
        container.exit = asyncio.get_running_loop().create_future()
        container.exit.set_result(end)
        container._execution = None  # noqa: SLF001  # its own
        container._lock = asyncio.Lock()  # noqa: SLF001
        return container

    @property
    def pid(self) -> int:
        """The id of the guest's thread or process; 0 before it runs."""
        return self._execution.pid if self._execution is not None else 0

    @property
    def reserves(self) -> int:
        """Bytes that it may take without telling anybody; 0 for those of the engine, which charges its pool."""
        return (self.guest.limits.memory or 0) if is_external(self._program) else 0

    async def start(self) -> None:
        """CREATED to RUNNING; raises what kept the guest from beginning, and is STOPPED then."""
        async with self._lock:
            self.state.require("start", f"container {self.id}")
            try:
                self._execution = self._executor.prepare(
                    self._program, self.guest, self._stdio, self.id, self._place, self._pool
                )
                await self._execution.begin()
            except Exception as error:
                self._set_stopped(_end_of(error))
                raise
            except asyncio.CancelledError:
                self._set_running()
                self._stop(signal.SIGKILL)  # nobody would know that it runs
                raise
            self._set_running()

    async def kill(self, number: int) -> None:
        """Do what the signal does to a program without handlers; a container that never started is STOPPED."""
        action = action_of(number)
        async with self._settled():
            self.state.require("kill", f"container {self.id}")
            if action is Action.STOP:
                self._stop(number)
            elif action is Action.PAUSE and self._execution is not None:
                self._pause()
            elif action is Action.RESUME and self._execution is not None:
                self._resume()

    async def pause(self) -> None:
        """RUNNING to PAUSED; one that is starting is held too, and PAUSED once it has started."""
        async with self._settled() as starting:
            if not starting:
                self.state.require("pause", f"container {self.id}")
            self._pause()

    async def resume(self) -> None:
        """PAUSED to RUNNING."""
        async with self._settled() as starting:
            if not starting:
                self.state.require("resume", f"container {self.id}")
            self._resume()

    def require_room_for(self, limit: int | None) -> None:
        """Raise FailedPrecondition if it cannot be given as much memory as that while it lives."""
        most = self.guest.limits.memory
        if self.exit.done() or most is None or not is_external(self._program):
            return
        if limit is None or limit > most:
            raise FailedPrecondition(
                f"{self.id} cannot have more memory while it runs: a native command runs it, and was given "
                f"{format_size(most)} for good when it was made; make its container anew"
            )

    def cpu_time(self) -> float:
        """Seconds of CPU used so far."""
        return self._execution.cpu_time() if self._execution is not None else 0.0

    def memory(self) -> int:
        """Bytes of linear memory in use; its peak once the guest has ended."""
        if self.exit.done():
            return self.exit.result().peak_memory
        return self._execution.memory() if self._execution is not None else 0

    def resident(self) -> int:
        """Bytes of its linear memory that are in memory now."""
        return self._execution.resident() if self._execution is not None and not self.exit.done() else 0

    @asynccontextmanager
    async def _settled(self) -> AsyncIterator[bool]:
        """Hold the lock, unless it is starting: start() holds it then, and a start function may take for ever."""
        if self.state is State.CREATED and self._execution is not None:
            yield True
            return
        async with self._lock:
            yield False

    def _stop(self, number: int) -> None:
        self._signal = self._signal or number
        if self._execution is None:
            self._set_stopped(Exit(code=exit_code_of(number), reason=Reason.STOPPED))
        else:
            self._execution.stop()

    def _pause(self) -> None:
        assert self._execution is not None
        self._execution.pause()
        self._held = True
        if self.state is State.RUNNING:
            self.state = State.PAUSED

    def _resume(self) -> None:
        assert self._execution is not None
        self._execution.resume()
        self._held = False
        if self.state is State.PAUSED:
            self.state = State.RUNNING

    def _set_running(self) -> None:
        assert self._execution is not None
        self.state = State.PAUSED if self._held else State.RUNNING
        self._execution.ended.add_done_callback(lambda ended: self._set_stopped(ended.result()))

    def _set_stopped(self, end: Exit) -> None:
        if end.reason is Reason.STOPPED:
            end = dataclasses.replace(end, code=exit_code_of(self._signal or signal.SIGKILL))
        self.state = State.STOPPED
        if not self.exit.done():
            self.exit.set_result(end)


def _end_of(error: Exception) -> Exit:
    """How a guest ended that could not begin."""
    if isinstance(error, OutOfMemory):
        return Exit(code=OOM_EXIT_CODE, reason=Reason.OUT_OF_MEMORY, message=str(error))
    return Exit(code=128, reason=Reason.FAILED, message=str(error))
