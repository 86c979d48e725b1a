"""The fork server: a process with one thread that runs jobs in bounded children for one with many.

It is a fresh Python, not a fork, so it can be started again at any time. Per job the client sends one message
on the control socket, with the job's own socket and descriptors; the child writes its result to that socket,
and the server adds the child's wait status when it has ended. A client that closes its end kills the child.
The server ends when the control socket does, and its children with it.
"""

import os
import pickle
import select
import signal
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field

from wasm_sandboxer.forking.job import be_child, require_one_thread
from wasm_sandboxer.forking.jobs import Bounds, Jobs
from wasm_sandboxer.linux import syscall

MAX_MESSAGE = 128 << 10
MAX_FDS = 32
ENDED = struct.Struct("<ci")  # b"." and a wait status: the last message on a job's socket


@dataclass(frozen=True)
class Request:
    """One job, as it crosses the control socket; its descriptors travel beside it."""

    name: str
    argument: bytes
    bounds: Bounds


@dataclass
class _Child:
    pid: int
    pidfd: int
    client: socket.socket
    result: int  # where the child writes what the client reads
    ended: bool = field(default=False)


def serve(control: socket.socket, jobs: Jobs) -> None:
    """Run jobs until the control socket ends."""
    require_one_thread()
    syscall.set_thread_name("wasm-forkserver")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to handle
    children: dict[int, _Child] = {}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == control.fileno():
                if not _accept(control, jobs, children, poll):
                    _end_all(children)
                    return
            elif fd in children:
                _attend(fd, children, poll)


def _accept(control: socket.socket, jobs: Jobs, children: dict[int, _Child], poll: select.poll) -> bool:
    message, fds, _, _ = socket.recv_fds(control, MAX_MESSAGE, MAX_FDS)
    if not message:
        return False
    client = socket.socket(fileno=fds[0])
    # Safe to unpickle: the other end of this socket pair is the process that started us.
    request: Request = pickle.loads(message)  # noqa: S301
    require_one_thread()
    pid = os.fork()
    if pid == 0:
        control.close()
        be_child(lambda: _run(jobs, request, tuple(fds[1:])), request.bounds, client.fileno())
    for fd in fds[1:]:
        os.close(fd)
    child = _Child(pid, os.pidfd_open(pid), client, client.fileno())
    for fd in (child.pidfd, client.fileno()):
        children[fd] = child
        poll.register(fd, select.POLLIN if fd == child.pidfd else select.POLLHUP)
    return True


def _run(jobs: Jobs, request: Request, fds: tuple[int, ...]) -> bytes:
    return jobs[request.name](request.argument, fds)


def _attend(fd: int, children: dict[int, _Child], poll: select.poll) -> None:
    """A child has ended, or its client has gone: then it is killed, and ends soon."""
    child = children[fd]
    if fd != child.pidfd:
        poll.unregister(fd)
        del children[fd]
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        return
    _, status = os.waitpid(child.pid, 0)
    with suppress(OSError):  # the client has gone: nobody asks
        child.client.send(ENDED.pack(b".", status), socket.MSG_NOSIGNAL)
    poll.unregister(fd)
    if children.pop(child.client.fileno(), None):
        poll.unregister(child.client)
    del children[fd]
    child.client.close()
    os.close(fd)


def _end_all(children: dict[int, _Child]) -> None:
    for child in children.values():
        os.kill(child.pid, signal.SIGKILL)
