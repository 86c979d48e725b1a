"""The messages between the fork server and its client: requests one way, the child's beginning and end the other.

A request crosses the control socket with descriptors beside it: the request's own status socket, which only the
server writes to, then the socket for answers, which only the child does, then the job's. What a child says is not to
be trusted, so it has no way to speak for the server.
"""

import array
import errno
import os
import pickle
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

from wasm_sandboxer.forking.jobs import Bounds

MAX_MESSAGE = 96 << 10  # less than what a socket takes at once by default, with the kernel's own on top
MAX_FDS = 200  # of the 253 that a message may carry; unix(7)
BEGUN, ENDED, REFUSED = b"+", b".", b"!"
_BEGUN = struct.Struct("<ci")
_ENDED = struct.Struct("<cidq")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One thing to run, as it crosses the control socket; None for an argument that follows as a file in memory.

    Without bounds it is a process, or what the server itself shall make ready.
    """

    name: str
    argument: bytes | None
    bounds: Bounds | None = None


@dataclass(frozen=True, kw_only=True)
class End:
    """How a child ended: its wait status, its seconds of CPU and the most bytes it had resident."""

    status: int
    cpu_time: float
    peak_memory: int


class Truncated(OSError):
    """There was no room for all the descriptors of a message; those that there are are the handler's to close."""

    def __init__(self, fds: list[int]) -> None:
        super().__init__(errno.EMFILE, os.strerror(errno.EMFILE))
        self.fds = fds


def receive(sock: socket.socket, most_fds: int, *, size: int = 2 * MAX_MESSAGE) -> tuple[bytes, list[int]]:
    """One message and its descriptors, which no program executed later inherits; socket.recv_fds takes no flags.

    Raises OSError, Truncated for one.
    """
    fds = array.array("i")
    room = socket.CMSG_LEN(most_fds * fds.itemsize)
    message, ancillary, flags, _ = sock.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if flags & socket.MSG_CTRUNC:
        raise Truncated(list(fds))
    return message, list(fds)


def send_request(control: socket.socket, kind: bytes, request: Request, fds: list[int], *, wait: bool = True) -> None:
    """Send one; raises OSError, BlockingIOError where it would wait and shall not."""
    assert request.argument is not None
    flags = socket.MSG_NOSIGNAL | (0 if wait else socket.MSG_DONTWAIT)
    message = kind + pickle.dumps(request)
    if len(message) <= MAX_MESSAGE:
        socket.send_fds(control, [message], fds, flags)
        return
    file = os.memfd_create("argument", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as out:
            out.write(request.argument)
        slim = Request(name=request.name, argument=None, bounds=request.bounds)
        socket.send_fds(control, [kind + pickle.dumps(slim)], [*fds, file], flags)
    finally:
        os.close(file)


def open_request(message: bytes, fds: list[int], *, again: bool = False) -> tuple[Request, bytes, tuple[int, ...]]:
    """The request in a message with its argument and its own descriptors; with `again` it can be opened once more.

    Safe to unpickle: the other end of the control socket is the process that started the server.
    """
    request: Request = pickle.loads(message[1:])  # noqa: S301
    if request.argument is not None:
        return request, request.argument, tuple(fds)
    with open(fds[-1], "rb", closefd=not again) as file:  # a descriptor
        file.seek(0)
        return request, file.read(), tuple(fds[:-1])


def send_begun(status: socket.socket, pid: int, pidfd: int) -> None:
    """Tell that a child has the request, with a descriptor of it; a client that has gone is not told."""
    with suppress(OSError):
        socket.send_fds(status, [_BEGUN.pack(BEGUN, pid)], [pidfd], socket.MSG_NOSIGNAL)


def send_ended(status: socket.socket, end: End) -> None:
    """Tell how the child ended."""
    with suppress(OSError):
        message = _ENDED.pack(ENDED, end.status, end.cpu_time, end.peak_memory)
        status.send(message, socket.MSG_NOSIGNAL)


def send_refused(status: socket.socket, reason: str) -> None:
    """Tell that there is no child, and why."""
    with suppress(OSError):
        status.send(REFUSED + reason.encode(), socket.MSG_NOSIGNAL)


def read_begun(message: bytes) -> int:
    """The child's process id."""
    pid: int = _BEGUN.unpack(message)[1]
    return pid


def read_ended(message: bytes) -> End:
    """How the child ended."""
    _, status, cpu_time, peak = _ENDED.unpack(message)
    return End(status=status, cpu_time=cpu_time, peak_memory=peak)
