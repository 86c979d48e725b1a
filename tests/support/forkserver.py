"""`python -m tests.support.forkserver FD`: a fork server that knows jobs and processes for tests."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

from wasm_sandboxer.forking.jobs import Catalogue, Tell
from wasm_sandboxer.forking.server import serve

MODULE = "tests.support.forkserver"
_loaded: list[bytes] = []


def echo(argument: bytes, fds: tuple[int, ...]) -> bytes:
    return argument + b"".join(os.read(fd, 100) for fd in fds)


def descriptors(argument: bytes, fds: tuple[int, ...]) -> bytes:
    """How many descriptors the child has besides what it was given, 0, 1 and 2."""
    return b"%d" % (sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1 - 3 - len(fds))


def sleep(argument: bytes, fds: tuple[int, ...]) -> bytes:
    time.sleep(float(argument))
    return b"slept"


def die(argument: bytes, fds: tuple[int, ...]) -> bytes:
    os.kill(os.getpid(), int(argument))
    return b""


def loaded(argument: bytes, fds: tuple[int, ...]) -> bytes:
    return b"".join(_loaded)


def load(argument: bytes, fds: tuple[int, ...]) -> None:
    _loaded.append(argument + b"".join(os.pread(fd, 100, 0) for fd in fds))


def talk(argument: bytes, fds: tuple[int, ...], tell: Tell) -> int:
    tell(b"my pid is %d" % os.getpid())
    tell(b"my group is %d" % os.getpgrp())
    return int(argument)


def wait(argument: bytes, fds: tuple[int, ...], tell: Tell) -> int:
    """Waits for ever."""
    tell(b"%d" % os.getpid())
    signal.pause()
    return 0


def family(argument: bytes, fds: tuple[int, ...], tell: Tell) -> int:
    """A process with a child of its own; both wait for ever."""
    child = os.fork()
    if child:
        tell(b"%d" % child)
    signal.pause()
    return 0


CATALOGUE = Catalogue(
    jobs={"echo": echo, "descriptors": descriptors, "sleep": sleep, "die": die, "loaded": loaded},
    processes={"talk": talk, "wait": wait, "family": family},
    preloads={"load": load},
)

if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), CATALOGUE)
