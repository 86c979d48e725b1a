"""The child's end of a guest that runs in a process of its own: from its assignment to its end.

Runs in the fork server's children only, and what it imports is loaded once, in the server.
"""

import fcntl
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.protocol import FIRST_DESCRIPTOR, Command, Kind
from wasm_sandboxer.engine.shared_pool import pool_of
from wasm_sandboxer.engine.wasmtime import component  # noqa: F401  # so that no child has to
from wasm_sandboxer.engine.wasmtime.loading import runtime_of, unpack_program
from wasm_sandboxer.engine.wasmtime.runtime import Runtime
from wasm_sandboxer.errors import Unavailable, WasmSandboxerError
from wasm_sandboxer.executor import assignment, words
from wasm_sandboxer.executor.assignment import Assignment
from wasm_sandboxer.executor.confinement import enter_bounds, enter_view, give_up_the_rest
from wasm_sandboxer.executor.scripted import ScriptedGuests
from wasm_sandboxer.forking.jobs import Tell
from wasm_sandboxer.guest import Exit, Stdio
from wasm_sandboxer.linux import syscall
from wasm_sandboxer.linux.pipe import settle_input
from wasm_sandboxer.linux.script import Script

_WRITERS_PATIENCE = 3.0  # seconds that somebody may take to open an input that he named


class GuestProcesses:
    """What the fork server offers for guests; `runtime` is shared with each child as it was before the fork."""

    def __init__(self, runtime: Runtime | None = None, *, separate: bool = False) -> None:
        """With `separate` each child is given mounts of its own, where Catalogue.warm_up does not do it."""
        self._runtime = runtime
        self._script = Script()
        self._scripted = ScriptedGuests(separate=separate)

    def preload(self, argument: bytes, fds: tuple[int, ...]) -> None:
        """Make the engine of its own modules' code, once for all children.

        Nothing is run with it: what the engine draws at random on this thread, every child would have again.
        """
        del argument
        self._runtime = runtime_of(fds)
        for http in (False, True):
            self._runtime.component_linker(http=http)
        self._scripted.start()

    def fork(self, argument: bytes, fds: tuple[int, ...], answers: int) -> int | None:
        """Fork a child for one guest that needs no Python; a Fork of the fork server's catalogue."""
        return self._scripted.fork(self._runtime, argument, fds, answers) if self._runtime is not None else None

    def run(self, argument: bytes, fds: tuple[int, ...], tell: Tell) -> int:
        """Run one guest to its end; a Process of the fork server's catalogue."""
        given = assignment.unpack(argument)
        sys.stderr = None  # what Python has to say of itself is no output of the guest's
        try:
            doors = dict(zip(given.doors, fds, strict=True))
            self._script.begin()
            enter_bounds(self._script, given.enclosure, doors)
            self._script.run()
            if given.command is not None:
                _execute(self._script, given.command, given, doors)
            end = self.run_here(given, doors, tell)
        except WasmSandboxerError as error:
            tell(words.failed(error))
        except OSError as error:
            tell(words.failed(WasmSandboxerError(f"cannot set its process up: {error}")))
        else:
            if end.message and "2" in given.doors:
                _report(given.guest.argv[0], end.message)
            tell(words.ended(end))
        return 0

    def run_here(self, given: Assignment, doors: dict[str, int], tell: Tell) -> Exit:
        """Run the guest with the engine, in this very process."""
        if self._runtime is None:
            raise Unavailable("the fork server has no engine yet")
        assert given.program is not None  # or there would be a command
        program = unpack_program(self._runtime, given.program, doors["code"])
        stdio = _take_streams(given, doors)
        if program.kind is Kind.COMPONENT:  # a core module's shim knows how to wait by itself
            settle_input(0, _WRITERS_PATIENCE)
        syscall.set_thread_name(given.name)
        pool = _take_pool(given, doors)
        _give_up_the_rest(self._script, given, doors)
        control = program.control(given.guest, stdio, pool)
        return program.run(given.guest, stdio, control, lambda: tell(words.ready()))


def _execute(script: Script, command: Command, given: Assignment, doors: dict[str, int]) -> NoReturn:
    """Become the command; the socket for answers ends with that, which says that it worked."""
    last = FIRST_DESCRIPTOR + len(command.descriptors)
    for name in [name for name in doors if not name.isdigit()]:
        doors[name] = fcntl.fcntl(doors[name], fcntl.F_DUPFD_CLOEXEC, last)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    _take_streams(given, {str(number): null for number in range(3)} | doors)
    settle_input(0, _WRITERS_PATIENCE)
    moved = [fcntl.fcntl(doors[str(number)], fcntl.F_DUPFD_CLOEXEC, last) for number in range(FIRST_DESCRIPTOR, last)]
    for number, fd in enumerate(moved, FIRST_DESCRIPTOR):
        os.dup2(fd, number)
    if given.enclosure.shown:
        enter_view(given.enclosure, doors)
    _give_up_the_rest(script, given, doors)
    if command.data is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (command.data, command.data))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execve(command.argv[0], command.argv, dict(command.env))  # noqa: S606  # no shell is meant
    except OSError as error:
        raise Unavailable(f"cannot execute {command.argv[0]}: {error.strerror}") from None


def _give_up_the_rest(script: Script, given: Assignment, doors: dict[str, int]) -> None:
    script.begin()
    give_up_the_rest(script, given.enclosure, doors, os.getppid())
    script.run()


def _take_streams(given: Assignment, doors: dict[str, int]) -> Stdio:
    """Make the guest's streams this process's own 0, 1 and 2."""
    numbers = [number if str(number) in doors else None for number in range(3)]
    for number in numbers:
        if number is not None:
            os.dup2(doors.pop(str(number)), number)
    stdin, stdout, stderr = numbers
    return Stdio(stdin=stdin, stdout=stdout, stderr=stderr, terminals=given.terminals)


def _take_pool(given: Assignment, doors: dict[str, int]) -> MemoryPool | None:
    """What the guest's memory is charged to."""
    if given.share is None:
        return None
    fds = [doors.pop(f"pool{number}") for number in range(len(given.share.names))]
    try:
        return pool_of(given.share, fds)
    finally:
        for fd in fds:
            os.close(fd)


def _report(name: str, message: str) -> None:
    """Say why the guest ended, on its stderr."""
    with suppress(OSError):
        syscall.write_interruptible(2, words.explanation(name, message))
