"""A job's answer, as it crosses the socket between the child and whoever waits: in pieces, the last one marked.

It is whole when its last piece has come, however long the child then takes to end.
"""

import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from wasm_sandboxer.forking.jobs import Bounds, JobEnd, JobFailed

PIECE = 64 << 10  # bytes of one message
_MORE, _LAST, _NO_MEMORY, _FAILED = b"=", b".", b"m", b"!"


def send_result(answers: socket.socket, result: bytes) -> None:
    """Send all of a result; nobody may be there to read it."""
    while len(result) > PIECE:
        _send(answers, _MORE + result[:PIECE])
        result = result[PIECE:]
    _send(answers, _LAST + result)


def send_failure(answers: socket.socket, error: BaseException) -> None:
    """Send why there is no result."""
    if isinstance(error, MemoryError):
        _send(answers, _NO_MEMORY)
    else:
        _send(answers, _FAILED + f"{type(error).__name__}: {error}".encode()[:PIECE])


def receive(answers: socket.socket, bounds: Bounds, waiting: Callable[[float], None] | None) -> bytes | None:
    """The result; None if the child ends without one. Raises JobFailed, also when the time is over."""
    begun = time.monotonic()
    poll = select.poll()
    poll.register(answers, select.POLLIN)
    result = bytearray()
    while True:
        elapsed = time.monotonic() - begun
        if elapsed > bounds.seconds:
            raise JobFailed(JobEnd.TIME, f"it took more than {bounds.seconds:g} s")
        if not poll.poll(min(100, (bounds.seconds - elapsed) * 1000 + 1)):
            if waiting is not None:
                waiting(time.monotonic() - begun)
            continue
        message = answers.recv(PIECE + 1)
        tag, content = message[:1], message[1:]
        if tag == _NO_MEMORY:
            raise out_of_memory()
        if tag == _FAILED:
            raise JobFailed(JobEnd.CRASH, content.decode(errors="replace"))
        if not tag:
            return None
        result += content
        if tag == _LAST:
            return bytes(result)


def out_of_memory() -> JobFailed:
    """A job that needed more than it may have."""
    return JobFailed(JobEnd.MEMORY, "it needed more memory than it may have")


def _send(answers: socket.socket, message: bytes) -> None:
    with suppress(OSError):  # nobody waits any more
        answers.send(message, socket.MSG_NOSIGNAL)
