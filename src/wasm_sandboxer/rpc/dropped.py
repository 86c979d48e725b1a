"""Containers that containerd has dropped: its shim says which, and they are ended and deleted. Loop thread only.

containerd runs the shim's `delete` whenever it lets go of a task: after every ordinary deletion, when nothing is left
to do, but also when its connection broke, and when the daemon did not answer it for five seconds while it started.
Then it takes the container for gone and deletes its bundle, so that a guest would go on which nobody knows, perhaps
beside the one that has taken its place. The shim, which must not wait, writes a line into a FIFO.
"""

import asyncio
import fcntl
import logging
import os
from contextlib import suppress
from pathlib import Path

from wasm_sandboxer.core.identifiers import identifier
from wasm_sandboxer.core.sandboxer import Key, Sandboxer
from wasm_sandboxer.errors import FailedPrecondition, InvalidArgument, Unavailable

# Bytes: ten thousand lines, more than a node has containers. A shim that found no room would wait for a daemon that
# stands still, and containerd for the shim.
_ROOM = 1 << 20
_PIECE = 1 << 16
_LONGEST = 4096  # PIPE_BUF: what is longer may come in pieces, pipe(7)
_log = logging.getLogger(__name__)


def fifo_of(socket: Path) -> Path:
    """Where the shim looks for the FIFO: beside the socket of tasks, which is all that it knows."""
    return socket.with_name(f"{socket.name}.dropped")


class Dropped:
    """Owns the FIFO's reading; the file stays when it is closed, as the lock beside it does.

    It is held open for writing too, so that it never comes to an end. With nobody there what is written vanishes:
    then there are no guests either.
    """

    def __init__(self, path: Path, sandboxer: Sandboxer) -> None:
        """Listen from now on. Raises FailedPrecondition, Unavailable; the folder must be the daemon's alone."""
        self._sandboxer = sandboxer
        self._rest = b""
        self._ending: dict[Key, asyncio.Task[None]] = {}
        self._fifo = _open(path)
        asyncio.get_running_loop().add_reader(self._fifo, self._read)

    def close(self) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_reader(self._fifo)
        os.close(self._fifo)

    async def settle(self, namespace: str, ident: str) -> None:
        """Return when nothing that was said before can hit a container that is made under this id from now on.

        containerd waits for the shim before it lets anybody use an id again.
        """
        self._read()
        if ending := self._ending.get((namespace, ident)):
            await asyncio.wait([ending])

    def _read(self) -> None:
        with suppress(BlockingIOError):  # there is no more
            while True:
                *lines, rest = (self._rest + os.read(self._fifo, _PIECE)).split(b"\n")
                self._rest = rest if len(rest) < _LONGEST else b""
                for line in lines:
                    self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            namespace, ident = line.decode("ascii").split(" ")
            key = (identifier("namespace", namespace), identifier("container id", ident))
        except (ValueError, InvalidArgument):
            _log.warning("what the shim says of a container makes no sense: %.100r", line)
            return
        if key not in self._ending and self._sandboxer.has(*key):
            self._ending[key] = asyncio.get_running_loop().create_task(self._end(key))

    async def _end(self, key: Key) -> None:
        try:
            await self._sandboxer.discard(*key)
        except Exception:  # noqa: BLE001  # whatever it is, nobody else would tell of it
            _log.exception("container %s, which containerd has dropped, cannot be deleted", key[1])
        finally:
            del self._ending[key]


def _open(path: Path) -> int:
    """A descriptor of the FIFO, made if there is none."""
    try:
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        if not path.is_fifo():
            raise FailedPrecondition(f"{path} is in the way of a FIFO and is none itself")
        fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise Unavailable(f"cannot make the FIFO {path}: {error.strerror}") from None
    with suppress(OSError):  # EPERM: the system lets nobody have as much
        fcntl.fcntl(fifo, fcntl.F_SETPIPE_SZ, _ROOM)
    return fifo
