"""Guests on threads of this process: one named OS thread each, from start to end.

The thread runs Python before the guest's first instruction and after its last, never in between. It blocks
every signal but its own faults and the one that wakes it from a system call.
"""

import _thread
import asyncio
import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.protocol import Control, Passage, Program
from wasm_sandboxer.errors import WasmSandboxerError
from wasm_sandboxer.guest import OOM_EXIT_CODE, TRAP_EXIT_CODE, Exit, Guest, Reason, Stdio
from wasm_sandboxer.linux import signals, syscall
from wasm_sandboxer.linux.cgroup.protocol import Place

# Address space per thread: the engine's Wasm stack (512 KiB) and as much again for host calls, with room.
STACK_SIZE = 2 << 20
# Nobody else sends it as a rule, and unlike a real-time signal it is never queued: those of all the user's processes
# together are limited (RLIMIT_SIGPENDING), and beyond that none can be sent.
WAKE_SIGNAL = signal.SIGURG
# Not blocked: faults, which the engine turns into traps, and SIGPIPE, which a command lets end it.
_THREAD_DIRECTED = {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGPIPE,
}  # fmt: skip
_BLOCKED = signals.all_but(_THREAD_DIRECTED | {WAKE_SIGNAL})
_WAKE = signals.mask({WAKE_SIGNAL})
_FIRST_WAKE, _LONGEST_WAKE = 0.001, 0.1  # seconds between signals to a guest that has not ended yet
# The intervals between signals from which on a guest waits for its turn in its group, as where the kernel lets no
# real-time thread be in one (RT_GROUP_SCHED), and from which on it is in the midst of something long.
_HELD_UP, _OVERDUE = 0.002, 0.008
_PATIENCE = 1.0  # seconds after which a stopped guest that still waits is given up
_log = logging.getLogger(__name__)


class ThreadExecutor:
    """Starts guests on threads; see Executor."""

    def __init__(self, *, nice: int | None = None) -> None:
        """`nice` is the guests' priority, None the caller's own."""
        self._nice = nice
        threading.stack_size(STACK_SIZE)
        signals.only_interrupt(WAKE_SIGNAL)  # without a handler the kernel would drop it

    def prepare(
        self,
        program: Program,
        guest: Guest,
        stdio: Stdio,
        name: str,
        place: Place | None = None,
        pool: MemoryPool | None = None,
    ) -> "ThreadExecution":
        """See Executor."""
        control = program.control(guest, stdio, pool)
        return ThreadExecution(program, guest, stdio, name, control, place, self._nice)


class ThreadExecution:
    """A guest on a thread; see Execution."""

    def __init__(
        self,
        program: Program,
        guest: Guest,
        stdio: Stdio,
        name: str,
        control: Control,
        place: Place | None,
        nice: int | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._program = program
        self._guest = guest
        self._stdio = stdio
        self._name = name
        self._place = place
        self._nice = nice
        self._control = control
        self._began: asyncio.Future[None] = self._loop.create_future()
        self._cpu_clock = 0
        self._is_ready = False
        self._inside = self._outside = 0  # priorities
        self._stopped_at = 0.0
        self.pid = 0
        self.ended: asyncio.Future[Exit] = self._loop.create_future()

    async def begin(self) -> None:
        """See Execution."""
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError as error:
            self._control.close()
            raise WasmSandboxerError(f"cannot start a thread for {self._name}: {error}") from None
        await asyncio.shield(self._began)

    def stop(self) -> None:
        """See Execution."""
        if self.ended.done() or self._stopped_at:
            return
        self._stopped_at = self._loop.time()
        self._control.stop()
        self._hurry()
        self._wake(_FIRST_WAKE)

    def pause(self) -> None:
        """See Execution."""
        self._control.pause()

    def resume(self) -> None:
        """See Execution."""
        self._control.resume()

    def cpu_time(self) -> float:
        """See Execution."""
        if self.ended.done():
            return self.ended.result().cpu_time
        with suppress(OSError):
            return time.clock_gettime(self._cpu_clock) if self._cpu_clock else 0.0
        return 0.0

    def memory(self) -> int:
        """See Execution."""
        return self._control.memory()

    def resident(self) -> int:
        """See Execution."""
        return self._control.resident()

    # ---- on the guest's thread ----

    def _run(self) -> None:
        try:
            self._prepare()
            end = self._program.run(self._guest, self._stdio, self._control, self._ready, self)
        except WasmSandboxerError as error:
            self._tell_loop(self._failed, error)
        except BaseException as error:  # noqa: BLE001  # the loop must hear of every end
            _log.exception("guest %s: its thread failed", self._name)
            self._tell_loop(self._failed, WasmSandboxerError(f"internal error: {error}"))
        else:
            if end.message:
                self._report(end.message)
            self._tell_loop(self._end, dataclasses.replace(end, cpu_time=time.thread_time()))
        finally:
            # There is nothing left to wake, and the thread's stacks, the engine's for signals among them, go before
            # it does.
            signals.block(_WAKE)

    def _prepare(self) -> None:
        signals.set_mask(_BLOCKED)
        syscall.set_thread_name(self._name)
        self.pid = threading.get_native_id()
        # Set up and taken down at this process's own priority: else who holds the GIL waits behind every guest.
        self._outside = os.getpriority(os.PRIO_PROCESS, self.pid)
        self._inside = self._outside if self._nice is None else self._nice
        # CLOCK_THREAD_CPUTIME_ID of another thread of the process: see CPUCLOCK_* in linux/posix-timers.h.
        self._cpu_clock = (~self.pid << 3) | 6

    def _ready(self) -> None:
        """The instance is made; the guest has begun as soon as it is in its group."""
        self._is_ready = True

    @contextmanager
    def passage(self) -> Iterator[Passage | None]:
        """See engine.protocol.Within."""
        if self._place is None or self._stopped_at:
            with self.entered():
                yield None
            return
        try:
            doors = self._place.group.doors()
        except OSError as error:
            raise self._refused(error) from None
        self._tell_begun()
        yield Passage(enter=doors, leave=self._place.exits, nice=(self._inside, self._outside))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """See engine.protocol.Within."""
        self._enter()
        self._tell_begun()
        try:
            yield
        finally:
            self._leave()
            with suppress(OSError):  # not privileged, and so not asked for
                os.setpriority(os.PRIO_PROCESS, self.pid, self._outside)

    def _enter(self) -> None:
        os.setpriority(os.PRIO_PROCESS, self.pid, self._inside)
        if self._place is None or self._stopped_at:
            return
        try:
            self._place.enter(self.pid)
        except OSError as error:
            if not self._stopped_at:  # else it has become a real-time thread, which not every group takes
                raise self._refused(error) from None

    def _refused(self, error: OSError) -> WasmSandboxerError:
        return WasmSandboxerError(f"{self._name} cannot enter its control group: {error}")

    def _tell_begun(self) -> None:
        if self._is_ready:
            self._is_ready = False
            self._tell_loop(self._set_began)

    def _leave(self) -> None:
        if self._place is not None and self.pid:
            with suppress(OSError):  # it has ended, and so left every group
                self._place.leave(self.pid)

    def _report(self, message: str) -> None:
        """Write why the guest ended to its stderr, as far as that takes it without help."""
        if self._stdio.stderr is not None:
            with suppress(OSError):
                text = f"wasm-sandboxer: {self._guest.argv[0]}: {message}\n"
                syscall.write_interruptible(self._stdio.stderr, text.encode(errors="replace"))

    def _tell_loop(self, callback: object, *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(callback, *arguments)  # type: ignore[arg-type]

    # ---- on the loop ----

    def _set_began(self) -> None:
        if not self._began.done():
            self._began.set_result(None)

    def _failed(self, error: WasmSandboxerError) -> None:
        self._control.close()
        if self.ended.done():  # given up before
            return
        if not self._began.done():
            self._began.set_exception(error)
            self._began.exception()  # whoever waited may have been cancelled
        self.ended.set_result(Exit(code=TRAP_EXIT_CODE, reason=Reason.FAILED, message=str(error)))

    def _end(self, end: Exit) -> None:
        self._control.close()
        self._set_began()
        if not self.ended.done():  # else it was given up before
            self.ended.set_result(end)

    def _hurry(self) -> None:
        """Let the thread end before others run: a guest that is being stopped has only that left to do."""
        if self.pid:
            with suppress(OSError):  # not privileged, or in a cgroup without real-time: it ends in its turn
                os.sched_setscheduler(self.pid, os.SCHED_FIFO, os.sched_param(1))

    def _calm_down(self) -> None:
        """Take its place in the queue again: it may be in the midst of an instruction that fills gigabytes."""
        if self.pid:
            with suppress(OSError):  # as above, and then it has nothing to lay down
                os.sched_setscheduler(self.pid, os.SCHED_OTHER, os.sched_param(0))

    def _wake(self, interval: float) -> None:
        """Interrupt what the stopped guest waits in; again and again, since it may only be about to wait."""
        if self.ended.done():
            return
        if self.pid:
            syscall.signal_thread(self.pid, WAKE_SIGNAL)
        if self._loop.time() - self._stopped_at > _PATIENCE:
            self._give_up()
            return
        if interval >= _OVERDUE:
            self._calm_down()
        if interval >= _HELD_UP and self._place is not None:
            # Its group has used its quota up, or others are before it; and it has only its end to come to. Not at
            # once: one that runs leaves by itself, which costs the kernel far less than moving another thread. And
            # not here: that may take the kernel some milliseconds.
            _thread.start_new_thread(self._leave, ())
        self._loop.call_later(interval, self._wake, min(interval * 2, _LONGEST_WAKE))

    def _give_up(self) -> None:
        """Take a guest for ended that waits where nothing reaches it: in native code, as components do.

        It runs no further instruction, whenever that wait ends. Its thread and store stay until then.
        """
        _log.warning("guest %s waits in native code and cannot be ended; its thread %d is left", self._name, self.pid)
        self._set_began()
        self.ended.set_result(Exit(code=OOM_EXIT_CODE, reason=Reason.STOPPED, cpu_time=self.cpu_time()))
