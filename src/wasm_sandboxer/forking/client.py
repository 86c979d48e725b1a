"""The daemon's end of the fork server: starts it, sends it jobs, starts it again when it has died. Any thread."""

import logging
import pickle
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from wasm_sandboxer.errors import Unavailable
from wasm_sandboxer.forking.job import judge
from wasm_sandboxer.forking.jobs import Bounds, JobEnd, JobFailed
from wasm_sandboxer.forking.server import ENDED, MAX_MESSAGE, Request

_log = logging.getLogger(__name__)


class ForkServer:
    """Runs jobs through a fork server; see Runner. `module` is what `python -m` runs to become one."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The server's process; 0 if none runs."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start the server if none runs; returns at once, and jobs wait until it is up."""
        with self._lock:
            self._ensure()

    def stop(self) -> None:
        """End the server and its children."""
        with self._lock:
            if self._control is not None:
                self._control.close()
                self._control = None
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._process = None

    def run(
        self,
        name: str,
        argument: bytes,
        fds: tuple[int, ...],
        bounds: Bounds,
        waiting: Callable[[float], None] | None = None,
    ) -> bytes:
        """See Runner. Raises Unavailable if the server cannot be reached twice in a row."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                self._send(pickle.dumps(Request(name, argument, bounds)), [theirs.fileno(), *fds])
            result, status = _receive(ours, bounds, waiting)
        return judge(result, status)

    def _send(self, message: bytes, fds: list[int]) -> None:
        for _ in range(2):
            with self._lock:
                control = self._ensure()
                try:
                    socket.send_fds(control, [message], fds, socket.MSG_NOSIGNAL)
                except (BrokenPipeError, ConnectionError):
                    _log.warning("the fork server has died; starting another")
                    self._reap()
                else:
                    return
        raise Unavailable("the fork server dies as soon as it is started; see its messages above")

    def _ensure(self) -> socket.socket:
        if self._control is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", self._module, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                )
            self._control = ours
        return self._control

    def _reap(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _receive(ours: socket.socket, bounds: Bounds, waiting: Callable[[float], None] | None) -> tuple[bytes, int]:
    """The child's result and wait status."""
    begun = time.monotonic()
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    result = bytearray()
    while True:
        elapsed = time.monotonic() - begun
        if elapsed > bounds.seconds:
            raise JobFailed(JobEnd.TIME, f"it took more than {bounds.seconds:g} s")
        if not poll.poll(min(100, (bounds.seconds - elapsed) * 1000 + 1)):
            if waiting is not None:
                waiting(time.monotonic() - begun)
            continue
        message = ours.recv(MAX_MESSAGE)
        if not message:
            raise JobFailed(JobEnd.CRASH, "the fork server died under it")
        if len(message) == ENDED.size and message[:1] == b".":
            return bytes(result), ENDED.unpack(message)[1]
        result += message
