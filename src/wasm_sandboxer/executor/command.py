"""Guests that a native command runs, as a child of this process: for a command line, never for the daemon.

The child has the caller's privileges, as any command would; a guest without a network has a network namespace of its
own with nothing in it. It ends with this process.
"""

import asyncio
import dataclasses
import fcntl
import os
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.protocol import FIRST_DESCRIPTOR, Command, ExternalProgram, Program, is_external
from wasm_sandboxer.errors import Unavailable, Unsupported, WasmSandboxerError
from wasm_sandboxer.guest import OOM_EXIT_CODE, Exit, Guest, Network, Reason, Stdio
from wasm_sandboxer.linux import namespace, syscall
from wasm_sandboxer.linux.cgroup.protocol import Place

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST_WORDS = 4096
_FREE = 64  # from here on no descriptor of a command's is wanted


class CommandExecutor:
    """Starts guests as children of this process, which must have one thread; see Executor."""

    def prepare(
        self,
        program: Program,
        guest: Guest,
        stdio: Stdio,
        name: str,
        place: Place | None = None,
        pool: MemoryPool | None = None,
    ) -> "CommandExecution":
        """See Executor; the kernel counts its memory, no pool does."""
        del pool
        assert is_external(program)  # its caller's to see to
        return CommandExecution(program, guest, stdio, name, place)


class CommandExecution:
    """A guest whose command is a child of this process; see Execution."""

    def __init__(self, program: ExternalProgram, guest: Guest, stdio: Stdio, name: str, place: Place | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._program = program
        self._guest = guest
        self._stdio = stdio
        self._name = name
        self._place = place
        self._pidfd = -1
        self._stopped = False
        self.pid = 0
        self.ended: asyncio.Future[Exit] = self._loop.create_future()

    async def begin(self) -> None:
        """See Execution."""
        command = self._program.command(self._guest)
        answers, writer = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if self.pid == 0:
            self._become(command, writer)
        os.close(writer)
        self._pidfd = os.pidfd_open(self.pid)
        problem = os.read(answers, _MOST_WORDS).decode()  # nothing once it is executed, milliseconds later
        os.close(answers)
        if problem:
            self._wait()
            raise Unavailable(problem)
        self._loop.add_reader(self._pidfd, self._finish)

    def stop(self) -> None:
        """See Execution."""
        self._stopped = True
        self._signal(signal.SIGKILL)

    def pause(self) -> None:
        """See Execution."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """See Execution."""
        self._signal(signal.SIGCONT)

    def cpu_time(self) -> float:
        """See Execution."""
        if self.ended.done():
            return self.ended.result().cpu_time
        with suppress(OSError):
            # CLOCK_PROCESS_CPUTIME_ID of another process: see CPUCLOCK_* in linux/posix-timers.h.
            return time.clock_gettime(~self.pid << 3 | 2)
        return 0.0

    def memory(self) -> int:
        """See Execution."""
        return self.resident()

    def resident(self) -> int:
        """See Execution; what it has for itself."""
        with suppress(OSError, ValueError):
            _, resident, shared, *_ = Path(f"/proc/{self.pid}/statm").read_text().split()
            return (int(resident) - int(shared)) * _PAGE
        return 0

    # ---- the child ----

    def _become(self, command: Command, writer: int) -> NoReturn:
        """Be the command, or say why not; on no account go on as a copy of this process."""
        try:
            syscall.set_parent_death_signal(signal.SIGKILL)
            # Ctrl-C and a closed terminal are this program's to handle, which then ends the guest.
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            if self._place is not None:
                self._place.enter(os.getpid())
            if self._guest.network is Network.NONE:
                _leave_network()
            if command.data is not None:
                _bound(resource.RLIMIT_DATA, command.data)
            _bound(resource.RLIMIT_CORE, 0)
            self._take_descriptors(command.descriptors)
            os.execve(command.argv[0], command.argv, dict(command.env))  # noqa: S606  # no shell is meant
        except (OSError, WasmSandboxerError) as error:
            problem = error.strerror if isinstance(error, OSError) else str(error)
            os.write(writer, f"cannot run {command.argv[0]}: {problem}".encode())
        finally:
            os._exit(1)

    def _take_descriptors(self, given: tuple[int, ...]) -> None:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        streams = (self._stdio.stdin, self._stdio.stdout, self._stdio.stderr)
        wanted = {number: null if fd is None else fd for number, fd in enumerate(streams)}
        wanted |= dict(enumerate(given, FIRST_DESCRIPTOR))
        # First out of the way of each other.
        high = {number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FREE) for number, fd in wanted.items()}
        for number, fd in high.items():
            os.dup2(fd, number)

    # ---- its end ----

    def _finish(self) -> None:
        end = self._wait()
        if end.message and self._stdio.stderr is not None:
            text = f"wasm-sandboxer: {self._guest.argv[0]}: {end.message}\n"
            with suppress(OSError):
                syscall.write_interruptible(self._stdio.stderr, text.encode(errors="replace"))
        if not self.ended.done():
            self.ended.set_result(end)

    def _wait(self) -> Exit:
        """Reap the child, which has ended or is about to; how it ended."""
        _, status, used = os.wait4(self.pid, 0)
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        code = os.waitstatus_to_exitcode(status)
        if self._stopped or code == -signal.SIGKILL:
            end = Exit(code=OOM_EXIT_CODE, reason=Reason.STOPPED)
        else:
            end = self._program.exit_of(code if code >= 0 else 128 - code)
        return dataclasses.replace(end, cpu_time=used.ru_utime + used.ru_stime, peak_memory=used.ru_maxrss * 1024)

    def _signal(self, number: int) -> None:
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)


def _leave_network() -> None:
    try:
        namespace.private_network()
    except OSError as error:
        raise Unsupported(
            f"its sockets can only be taken from it by a network namespace, which this host refuses "
            f"({error.strerror}); --network host lets it have them"
        ) from None


def _bound(what: int, most: int) -> None:
    """Lower a limit, which may be low already."""
    _, hard = resource.getrlimit(what)
    value = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (value, value))
