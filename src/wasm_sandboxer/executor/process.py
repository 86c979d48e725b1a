"""Guests in processes of their own: children of the fork server, one to each.

The loop only sends and reads small messages. A guest is ended by ending its process, which takes effect wherever it
waits; how it ended is what the kernel says, and what the child said of itself before.
"""

import asyncio
import dataclasses
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.protocol import FIRST_DESCRIPTOR, Program, is_external, is_portable
from wasm_sandboxer.engine.shared_pool import Claim
from wasm_sandboxer.engine.wasmtime.memories import too_much
from wasm_sandboxer.errors import OutOfMemory, Unavailable, WasmSandboxerError
from wasm_sandboxer.executor import words
from wasm_sandboxer.executor.assignment import PROCESS, Assignment
from wasm_sandboxer.executor.confinement import Confinement
from wasm_sandboxer.executor.words import Refused
from wasm_sandboxer.forking import wire
from wasm_sandboxer.forking.client import ForkServer, Line
from wasm_sandboxer.guest import OOM_EXIT_CODE, TRAP_EXIT_CODE, Exit, Guest, Reason, Stdio
from wasm_sandboxer.linux import syscall
from wasm_sandboxer.linux.cgroup.protocol import Place
from wasm_sandboxer.linux.pipe import write_at_once

_MOST_MESSAGE = 256 << 10  # more than a socket takes at once
_TRIES = 2  # for a fork server that dies before a child has the guest
_PATIENCE = 1.0  # seconds that the fork server may take to tell of a child's end
_PAGE = os.sysconf("SC_PAGE_SIZE")
_log = logging.getLogger(__name__)


class ProcessExecutor:
    """Starts guests in children of a fork server; see Executor."""

    def __init__(self, forks: ForkServer, confinement: Confinement | None = None) -> None:
        self._forks = forks
        self._confinement = confinement

    def within(self, confinement: Confinement) -> "ProcessExecutor":
        """An executor for the one guest that this is made for."""
        return ProcessExecutor(self._forks, confinement)

    def prepare(
        self,
        program: Program,
        guest: Guest,
        stdio: Stdio,
        name: str,
        place: Place | None = None,
        pool: MemoryPool | None = None,
    ) -> "ProcessExecution":
        """See Executor."""
        confinement = self._confinement or Confinement(guest=guest)
        return ProcessExecution(self._forks, program, confinement, stdio, name, place, pool)


class ProcessExecution:
    """A guest in a process; see Execution."""

    def __init__(
        self,
        forks: ForkServer,
        program: Program,
        confinement: Confinement,
        stdio: Stdio,
        name: str,
        place: Place | None,
        pool: MemoryPool | None,
    ) -> None:
        """Without a pool the guest has one of its own; a native command has its own bound."""
        self._loop = asyncio.get_running_loop()
        self._forks = forks
        self._program = program
        self._confinement = confinement
        self._group = confinement.group
        self._place = place
        self._command = confinement.command
        if self._command is None and is_external(program):
            self._command = program.command(confinement.guest)
        self._own_pool = pool is None
        self._pool = pool if pool is not None else MemoryPool("its", confinement.guest.limits.memory)
        self._claim: Claim | None = None  # once it is asked for
        self._kills = 0  # of its group's processes, before it began
        self._stdio = stdio
        self._name = name
        self._line: Line | None = None
        self._pidfd = -1
        self._tries = 0
        self._stopped = False
        self._paused = False
        self._ready = False  # its instance is made
        self._server_gone = False
        self._told: Exit | WasmSandboxerError | None = None
        self._end: wire.End | None = None
        self._began: asyncio.Future[None] = self._loop.create_future()
        self.pid = 0
        self.ended: asyncio.Future[Exit] = self._loop.create_future()

    async def begin(self) -> None:
        """See Execution."""
        self._kills = self._count_kills()
        self._request()
        await asyncio.shield(self._began)

    def stop(self) -> None:
        """See Execution."""
        if self.ended.done():
            return
        self._stopped = True
        if self._pidfd >= 0:
            self._kill()
        else:  # no child has it yet: whichever gets it finds nobody at the line, and is ended
            self._finish()

    def pause(self) -> None:
        """See Execution.

        Not by its group's freezer: the container's other processes are in the same group, each paused and ended by
        itself, and what version 1 has frozen does not die.
        """
        self._paused = True
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """See Execution."""
        self._paused = False
        self._signal(signal.SIGCONT)

    def cpu_time(self) -> float:
        """See Execution."""
        if self.ended.done():
            return self.ended.result().cpu_time
        with suppress(OSError):
            # CLOCK_PROCESS_CPUTIME_ID of another process: see CPUCLOCK_* in linux/posix-timers.h.
            return time.clock_gettime(~self.pid << 3 | 2) if self.pid else 0.0
        return 0.0

    def memory(self) -> int:
        """See Execution; what its process has for itself."""
        return self.resident()

    def resident(self) -> int:
        """See Execution."""
        if not self.pid or self.ended.done():
            return 0
        with suppress(OSError, ValueError):
            _, resident, shared, *_ = Path(f"/proc/{self.pid}/statm").read_text().split()
            return (int(resident) - int(shared)) * _PAGE
        return 0

    # ---- asking for a child ----

    def _request(self) -> None:
        """Ask the fork server; where that would wait, as for one that must be started again, on a thread."""
        self._tries += 1
        self._ready, self._told = False, None  # whatever one has said that died
        with ExitStack() as undo:
            try:
                doors = self._doors(undo)
                given = self._assignment(tuple(doors))
                try:
                    self._listen(self._forks.begin(PROCESS, given, tuple(doors.values()), wait=False))
                except BlockingIOError:
                    self._ask_on_thread(given, tuple(doors.values()))
            except WasmSandboxerError as error:
                self._fail(error)
            except (OSError, RuntimeError) as error:  # the latter for a thread that cannot be made
                self._fail(WasmSandboxerError(f"cannot start {self._name}: {error}"))

    def _ask_on_thread(self, given: bytes, doors: tuple[int, ...]) -> None:
        """Whoever stops this guest meanwhile closes what it was to be given, so the thread has its own."""
        with ExitStack() as undo:
            fds = []
            for door in doors:
                fds.append(os.dup(door))
                undo.callback(os.close, fds[-1])
            asking = threading.Thread(
                target=self._request_patiently, args=(given, tuple(fds)), name="asking", daemon=True
            )
            asking.start()
            undo.pop_all()  # they are the thread's

    def _request_patiently(self, given: bytes, fds: tuple[int, ...]) -> None:
        then: Callable[[], None]
        try:
            line = self._forks.begin(PROCESS, given, fds)
        except (WasmSandboxerError, OSError) as error:
            failure = error if isinstance(error, WasmSandboxerError) else Unavailable(f"the fork server: {error}")
            then = lambda: self._fail(failure)  # noqa: E731
        else:
            then = lambda: self._listen(line)  # noqa: E731
        for fd in fds:
            os.close(fd)
        with suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(then)

    def _doors(self, undo: ExitStack) -> dict[str, int]:
        """The descriptors that go to the child, by what they are there."""
        doors = self._confinement.descriptors()
        if self._place is not None and not self._confinement.doors:
            for number, door in enumerate(self._place.group.doors()):
                undo.callback(os.close, door)
                doors[f"group{number}"] = door
        streams = (self._stdio.stdin, self._stdio.stdout, self._stdio.stderr)
        doors |= {str(number): fd for number, fd in enumerate(streams) if fd is not None}
        if self._command is not None:
            doors |= {str(number): fd for number, fd in enumerate(self._command.descriptors, FIRST_DESCRIPTOR)}
        elif is_portable(self._program):
            own = self._confinement.code
            doors["code"] = own if own is not None else self._program.carry().code
            self._drop_claim()  # of a child that died before it had the guest
            self._claim = Claim(self._pool)
            doors |= {f"pool{number}": fd for number, fd in enumerate(self._claim.descriptors)}
        return doors

    def _assignment(self, doors: tuple[str, ...]) -> bytes:
        given = Assignment(
            name=self._name,
            guest=self._confinement.guest,
            program=self._program.carry().about if is_portable(self._program) else None,
            command=self._command,
            terminals=self._stdio.terminals,
            share=self._claim.share if self._claim is not None else None,
            enclosure=self._confinement.enclosure(),
            doors=doors,
        )
        return given.pack()

    def _listen(self, line: Line) -> None:
        if self.ended.done():  # it was stopped meanwhile
            self._drop_claim()
            line.close()
            return
        self._line = line
        for end in (line.status, line.answers):
            end.setblocking(False)
        self._loop.add_reader(line.status, self._read_status)
        self._loop.add_reader(line.answers, self._read_answers)

    # ---- what is told ----

    def _read_status(self) -> None:
        assert self._line is not None
        try:
            message, fds = wire.receive(self._line.status, 1)
        except BlockingIOError:
            return
        except ConnectionError:
            message, fds = b"", []
        except wire.Truncated as cut:  # without its descriptor a child cannot be ended: hanging up does that
            message, fds = wire.REFUSED + (cut.strerror or "").encode(), []
        match message[:1]:
            case wire.BEGUN:
                self._set_child(wire.read_begun(message), fds[0])
            case wire.ENDED:
                self._end = wire.read_ended(message)
                self._finish()
            case wire.REFUSED:
                self._told = Unavailable(f"cannot start {self._name}: {message[1:].decode()}")
                self._finish()
            case _:
                self._server_died()

    def _set_child(self, pid: int, pidfd: int) -> None:
        if self._pidfd >= 0:  # the first died before it had the guest
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        self.pid, self._pidfd = pid, pidfd
        self._loop.add_reader(pidfd, self._child_ended)
        if self._ready:
            self._set_began()
        if self._paused:  # while it was asked for
            self._signal(signal.SIGSTOP)

    def _read_answers(self) -> None:
        assert self._line is not None
        try:
            message = self._line.answers.recv(_MOST_MESSAGE)
            if not message:
                self._loop.remove_reader(self._line.answers)
                if is_external(self._program) and self._told is None:
                    self._set_began()  # it was executed, or has died, which is told in its turn
                return
            told = self._in_words(words.read(message))
        except (BlockingIOError, ConnectionError):
            return
        except ValueError:
            self._loop.remove_reader(self._line.answers)
            self._told = WasmSandboxerError(f"the process of {self._name} says what makes no sense")
            self._kill()
            return
        if told is None:
            self._ready = True
            if self.pid:  # else it was quicker than the fork server, which tells in a moment who it is
                self._set_began()
        elif self._told is None:
            self._told = told
            if words.wants_explanation(message) and isinstance(told, Exit):
                self._explain(self._line.answers, told.message)

    def _child_ended(self) -> None:
        """The fork server tells more in a moment, unless it is gone or stands still."""
        self._loop.remove_reader(self._pidfd)
        self._loop.call_later(0 if self._server_gone else _PATIENCE, self._finish)

    def _server_died(self) -> None:
        """Its children die with it; one that has not begun is asked for again."""
        if self._pidfd < 0:
            self._hang_up()
            if self._tries < _TRIES:
                self._request()
            else:
                self._fail(Unavailable(f"cannot start {self._name}: the fork server died twice; see its messages"))
            return
        assert self._line is not None
        self._loop.remove_reader(self._line.status)
        self._server_gone = True
        self._kill()
        if not self._stopped:
            self._told = self._told or WasmSandboxerError(f"{self._name} ended with the fork server, which died")
        self._loop.call_later(_PATIENCE, self._finish)

    # ---- ending ----

    def _finish(self) -> None:
        """The child has ended, or there never will be one."""
        if self.ended.done():
            return
        if self._line is not None:
            while self._told is None and self._has_answer():
                self._read_answers()
        self._hang_up()
        end = self._exit()
        if isinstance(self._told, WasmSandboxerError) and not self._stopped:
            self._fail(self._told)
            return
        if is_external(self._program) and end.message:
            self._report(end.message)
        self._set_began()
        self._set_ended(end)

    def _exit(self) -> Exit:
        cpu_time = self._end.cpu_time if self._end is not None else 0.0
        peak = self._end.peak_memory if self._end is not None else 0
        status = self._end.status if self._end is not None else signal.SIGKILL
        if isinstance(self._told, Exit) and (self._end is None or os.WIFEXITED(status)):
            return dataclasses.replace(self._told, cpu_time=cpu_time, peak_memory=self._told.peak_memory or peak)
        end = self._kernels_word(status)
        return dataclasses.replace(end, cpu_time=cpu_time, peak_memory=peak)

    def _kernels_word(self, status: int) -> Exit:
        """The end of a process that says nothing of it, by its wait status."""
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if self._stopped:  # whatever else its group's counter has counted
            return Exit(code=OOM_EXIT_CODE, reason=Reason.STOPPED)
        if number == signal.SIGKILL and self._is_killed_for_memory():
            return Exit(code=OOM_EXIT_CODE, reason=Reason.OUT_OF_MEMORY, message="the kernel ended it: out of memory")
        if number == signal.SIGKILL:
            return Exit(code=OOM_EXIT_CODE, reason=Reason.STOPPED)
        code = 128 + number if number else os.WEXITSTATUS(status)
        if is_external(self._program):
            return self._program.exit_of(code)
        if number:
            return Exit(code=code, reason=Reason.TRAPPED, message=f"its process was ended by signal {number}")
        return Exit(code=TRAP_EXIT_CODE, reason=Reason.FAILED, message="its process ended without a word")

    def _is_killed_for_memory(self) -> bool:
        """Whether the kernel has killed one more in its group than are known of; that is known from here on.

        The kernel counts them for the whole group, in which the container's other processes are as well.
        """
        if self._group is None:
            return False
        known = max(self._kills, self._group.told_kills)
        if self._count_kills() <= known:
            return False
        self._group.told_kills = known + 1
        return True

    def _count_kills(self) -> int:
        with suppress(OSError):
            return self._group.kills() if self._group is not None else 0
        return 0

    def _report(self, message: str) -> None:
        """Write why a command's guest ended to its stderr, as far as that takes it at once; nobody else writes."""
        if self._stdio.stderr is not None:
            write_at_once(self._stdio.stderr, self._explanation(message))

    def _in_words(self, told: Exit | WasmSandboxerError | None) -> Exit | WasmSandboxerError | None:
        """What a child cannot know of its pools: which one has refused it, and what that has."""
        if not isinstance(told, Refused):
            return told
        pool: MemoryPool | None = self._pool
        while pool is not None and (pool.limit is None or pool.used + told.size <= pool.limit):
            pool = pool.parent
        return OutOfMemory(f"its instance could not be made: {too_much(told.size, pool or self._pool)}")

    def _explain(self, answers: socket.socket, message: str) -> None:
        """Send the words that the child waits for, or let it hear that there are none."""
        try:
            answers.send(self._explanation(message), socket.MSG_NOSIGNAL)
        except OSError:
            with suppress(OSError):
                answers.shutdown(socket.SHUT_WR)

    def _explanation(self, message: str) -> bytes:
        return words.explanation(self._confinement.guest.argv[0], message)

    def _has_answer(self) -> bool:
        assert self._line is not None
        try:
            return bool(self._line.answers.recv(1, socket.MSG_PEEK))
        except (BlockingIOError, ConnectionError):
            return False

    def _fail(self, error: WasmSandboxerError) -> None:
        self._hang_up()
        if not self._began.done():
            self._began.set_exception(error)
            self._began.exception()  # whoever waited may have been cancelled
        if not self.ended.done():
            self._set_ended(Exit(code=OOM_EXIT_CODE, reason=Reason.FAILED, message=str(error)))

    def _set_ended(self, end: Exit) -> None:
        if self._own_pool:
            self._pool.close()
        self.ended.set_result(end)

    def _set_began(self) -> None:
        if not self._began.done():
            self._began.set_result(None)

    def _drop_claim(self) -> None:
        if self._claim is not None:
            claim, self._claim = self._claim, None
            if self._pidfd >= 0:
                claim.close()
            else:  # a child may still come, find nobody at the line and be ended, with what it has charged
                self._loop.call_later(_PATIENCE, claim.close)

    def _hang_up(self) -> None:
        self._drop_claim()
        if self._line is not None:
            self._loop.remove_reader(self._line.status)
            self._loop.remove_reader(self._line.answers)
            self._line.close()
            self._line = None
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        """Send a signal to all that the child has become; it may have ended."""
        if self._pidfd >= 0:
            with suppress(OSError):
                syscall.signal_group(self._pidfd, self.pid, number)
