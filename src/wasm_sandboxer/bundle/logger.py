"""A log process: what a `binary://` URI names, which reads a container's output from descriptors 3 and 4.

Source: containerd's runtime/v2 README, "Logging".
"""

import os
import select
import signal
import threading
from contextlib import ExitStack, suppress

from wasm_sandboxer.errors import InvalidArgument, Unavailable

_STARTING = 10.0  # seconds it has to say that it is ready
_ENDING = 12.0  # seconds it has to end after SIGTERM, as containerd grants
# What is the daemon's alone: with the first few a program would speak to systemd in its name (sd_notify(3),
# sd_listen_fds(3)), the last is what the daemon itself sets for its library.
_OURS = frozenset({
    "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "MAINPID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
    "GRPC_EXPERIMENTS",
})  # fmt: skip


class LogProcess:
    """Starts the program and waits until it is ready; in a worker thread. stop() may be called from any."""

    def __init__(self, program: str, arguments: list[str], container: str, namespace: str) -> None:
        if not program.startswith("/"):
            raise InvalidArgument(f"stdout: binary://{program} must name a program by its absolute path")
        env = {name: value for name, value in os.environ.items() if name not in _OURS}
        env |= {"CONTAINER_ID": container, "CONTAINER_NAMESPACE": namespace}
        with ExitStack() as theirs, ExitStack() as undo:
            ends = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
            (out_reader, out_writer), (err_reader, err_writer), (ready_reader, ready_writer) = ends
            for fd in (out_reader, err_reader, ready_writer):
                theirs.callback(os.close, fd)
            for fd in (out_writer, err_writer):
                undo.callback(os.close, fd)
            actions = [
                (os.POSIX_SPAWN_DUP2, fd, number)
                for number, fd in _apart({3: out_reader, 4: err_reader, 5: ready_writer})
            ]
            try:
                self._pid = os.posix_spawn(
                    program, [program, *arguments], env, file_actions=actions, setsigdef=[signal.SIGPIPE]
                )
            except OSError as error:
                os.close(ready_reader)
                raise InvalidArgument(f"stdout: cannot start {program}: {error.strerror}") from None
            self.outputs = (out_writer, err_writer)
            theirs.close()
            undo.callback(self.stop)
            self._await_ready(program, ready_reader)
            undo.pop_all()

    def stop(self) -> None:
        """Have it end once it has read what there is; by force if that takes too long. Returns at once."""
        threading.Thread(target=self._end, name=f"log-{self._pid}", daemon=True).start()

    def _await_ready(self, program: str, reader: int) -> None:
        """A byte, or the end of the descriptor, says that it is ready."""
        try:
            poll = select.poll()
            poll.register(reader, select.POLLIN)
            if not poll.poll(_STARTING * 1000):
                raise Unavailable(f"stdout: {program} did not say within {_STARTING:g} s that it is ready")
        finally:
            os.close(reader)

    def _end(self) -> None:
        with suppress(OSError):
            os.kill(self._pid, signal.SIGTERM)
            pidfd = os.pidfd_open(self._pid)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(_ENDING * 1000):
                os.kill(self._pid, signal.SIGKILL)
            os.close(pidfd)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _apart(wanted: dict[int, int]) -> list[tuple[int, int]]:
    """Descriptors with the numbers they shall have; refuses the clash that dup2 in order would cause."""
    assert all(fd > max(wanted) for fd in wanted.values()), wanted  # the daemon has 3, 4 and 5 open already
    return list(wanted.items())
