"""The daemon's end of the fork server: starts it, sends it requests, starts it again when it has died. Any thread."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import NoReturn, Protocol

from wasm_sandboxer.errors import Unavailable
from wasm_sandboxer.forking import answer, wire
from wasm_sandboxer.forking.job import blame, require_one_thread
from wasm_sandboxer.forking.jobs import Bounds, Catalogue, JobEnd, JobFailed
from wasm_sandboxer.forking.server import PRELOAD, RUN, serve
from wasm_sandboxer.forking.wire import Request

_TRIES = 2
_PATIENCE = 1.0  # seconds that a server may take to end
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """What connects to one child: the server speaks of it at `status`, and it for itself at `answers`."""

    status: socket.socket
    answers: socket.socket

    def close(self) -> None:
        """Hang up; a child that lives still is killed."""
        self.status.close()
        self.answers.close()


class Launched(Protocol):
    """The server's process; as of subprocess.Popen."""

    pid: int

    def kill(self) -> None:
        """End it now."""

    def wait(self, timeout: float | None = None) -> int:
        """Reap it; raises subprocess.TimeoutExpired."""


class ForkServer:
    """Runs jobs and processes in children of a fork server; see Runner. `module` is what `python -m` runs as one."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: Launched | None = None
        self._preloads: list[tuple[Request, tuple[int, ...]]] = []

    @property
    def pid(self) -> int:
        """The server's process; 0 if none runs."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start the server if none runs; returns at once, and requests wait until it is up."""
        with self._lock:
            self._ensure()

    def stop(self) -> None:
        """End the server and its children."""
        with self._lock:
            if self._control is not None and self._process is not None:
                self._control.close()  # at which it ends its children and itself
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_PATIENCE)
            self._end()

    def preload(self, name: str, argument: bytes, fds: tuple[int, ...]) -> None:
        """Have this server, and each that replaces it, make something ready; the descriptors stay open for that."""
        request = Request(name=name, argument=argument)
        with self._lock:
            self._preloads.append((request, fds))
            if self._control is not None:
                self._try(self._control, PRELOAD, request, list(fds))

    def run(
        self,
        name: str,
        argument: bytes,
        fds: tuple[int, ...],
        bounds: Bounds,
        waiting: Callable[[float], None] | None = None,
    ) -> bytes:
        """See Runner. Raises Unavailable if the server cannot be reached twice in a row."""
        for _ in range(_TRIES):
            line = self._send(Request(name=name, argument=argument, bounds=bounds), fds, wait=True)
            try:
                result = answer.receive(line.answers, bounds, waiting)
                if result is not None:
                    return result
                if _began(line.status):
                    _explain(line.status)
            finally:
                line.close()
        raise _given_up()

    def begin(self, name: str, argument: bytes, fds: tuple[int, ...], *, wait: bool = True) -> Line:
        """Have a process run; what becomes of it is told at the line.

        Without `wait` it raises BlockingIOError where it would have to, as for a server that must be started again.
        """
        return self._send(Request(name=name, argument=argument), fds, wait=wait)

    def _send(self, request: Request, fds: tuple[int, ...], *, wait: bool) -> Line:
        with ExitStack() as undo, ExitStack() as theirs:
            status, their_status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(status.close)
            theirs.callback(their_status.close)
            answers, their_answers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(answers.close)
            theirs.callback(their_answers.close)
            self._deliver(request, [their_status.fileno(), their_answers.fileno(), *fds], wait=wait)
            undo.pop_all()
            return Line(status, answers)

    def _deliver(self, request: Request, fds: list[int], *, wait: bool) -> None:
        if not self._lock.acquire(blocking=wait):
            raise BlockingIOError
        try:
            for _ in range(_TRIES):
                if self._control is None and not wait:
                    raise BlockingIOError
                if self._try(self._ensure(), RUN, request, fds, wait=wait):
                    return
        finally:
            self._lock.release()
        raise _given_up()

    def _try(
        self, control: socket.socket, kind: bytes, request: Request, fds: list[int], *, wait: bool = True
    ) -> bool:
        """Send; whether there was a server to send to. One that has died is done away with."""
        try:
            wire.send_request(control, kind, request, fds, wait=wait)
        except ConnectionError:
            _log.warning("the fork server has died; starting another")
            self._end()
            return False
        return True

    def _ensure(self) -> socket.socket:
        if self._control is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = self._launch(ours, theirs)
            self._control = ours
            for request, fds in self._preloads:
                if not self._try(ours, PRELOAD, request, list(fds)):
                    raise _given_up()
        return self._control

    def _launch(self, ours: socket.socket, theirs: socket.socket) -> Launched:
        """Start a server that has the other end of the control socket."""
        del ours  # which no program executed inherits
        return subprocess.Popen(
            [sys.executable, "-m", self._module, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "MALLOC_ARENA_MAX": "1"},  # children use one thread, and share what lies together
        )

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class LocalForkServer(ForkServer):
    """A fork server that is itself a fork of this process, which must have one thread when it is started.

    For a command: all that it has loaded its children have too.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__("")
        self._catalogue = catalogue

    def _launch(self, ours: socket.socket, theirs: socket.socket) -> Launched:
        require_one_thread()
        pid = os.fork()
        if pid == 0:
            try:
                ours.close()
                serve(theirs, self._catalogue)
            finally:
                os._exit(0)
        return _Forked(pid)


class _Forked:
    """See Launched."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, 0 if deadline is None else os.WNOHANG)
                if not pid:
                    if deadline is not None and time.monotonic() > deadline:
                        raise subprocess.TimeoutExpired("fork server", timeout or 0)
                    time.sleep(0.001)
                    continue
                return os.waitstatus_to_exitcode(status)
            return 0  # reaped before


def _began(status: socket.socket) -> bool:
    """Whether a child had the request; raises JobFailed if the server refused it."""
    message, fds = wire.receive(status, 1)
    for fd in fds:
        os.close(fd)
    if message[:1] == wire.REFUSED:
        raise JobFailed(JobEnd.CRASH, message[1:].decode())
    return bool(message)


def _explain(status: socket.socket) -> NoReturn:
    """Raise JobFailed for a child that has ended without an answer."""
    while message := status.recv(wire.MAX_MESSAGE):
        if message[:1] == wire.ENDED:
            blame(wire.read_ended(message).status)
    raise JobFailed(JobEnd.CRASH, "the fork server died under it")


def _given_up() -> Unavailable:
    return Unavailable("the fork server dies as soon as it is started; see its messages above")
