"""Run one function in a bounded child of this process, and tell how it ended.

Only a process with a single thread may fork: a lock that another thread holds at the fork would never be
released in the child. So this is called early by a command, or in the fork server, never in the daemon.
"""

import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from wasm_sandboxer.errors import FailedPrecondition, WasmSandboxerError
from wasm_sandboxer.linux import syscall

_PAGE = resource.getpagesize()


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a job may use: bytes of address space beyond what the process has already, and seconds."""

    memory: int
    seconds: float


class JobEnd(StrEnum):
    """Why a job gave no result."""

    MEMORY = "memory"
    TIME = "time"
    CRASH = "crash"


class JobFailed(WasmSandboxerError):
    """The child gave no result; `end` says why, the message what was seen."""

    def __init__(self, end: JobEnd, message: str) -> None:
        super().__init__(message)
        self.end = end


def run_job(job: Callable[[], bytes], bounds: Bounds, *, waiting: Callable[[float], None] | None = None) -> bytes:
    """The job's result, computed in a child; `waiting` is called about ten times a second with the time so far.

    Raises JobFailed when the bounds are hit or the child dies, FailedPrecondition in a process with threads.
    The child is gone when this returns, also by an exception of the caller's (a KeyboardInterrupt).
    """
    _require_one_thread()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _in_child(job, bounds, writer)
    os.close(writer)
    try:
        result = _read_result(reader, bounds, waiting)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(reader)
    _, status = os.waitpid(pid, 0)
    return _judge(result, status)


def _require_one_thread() -> None:
    threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    if threads != 1:
        raise FailedPrecondition(f"cannot fork: this process has {threads} threads")


def _in_child(job: Callable[[], bytes], bounds: Bounds, writer: int) -> None:
    """Never returns: whatever happens, the child must not go on as a copy of its parent."""
    code = 1
    try:
        syscall.set_parent_death_signal(signal.SIGKILL)
        _apply(bounds)
        result = b"=" + job()
        code = 0
    except MemoryError:
        result = b"m"
    except BaseException as error:  # noqa: BLE001  # reported to the parent, which raises it
        result = b"!" + f"{type(error).__name__}: {error}".encode()
    try:
        while result:
            result = result[os.write(writer, result) :]
    finally:
        os._exit(code)


def _apply(bounds: Bounds) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)  # a native abort writes to stderr; the parent says it in words
    os.dup2(null, 0)
    os.dup2(null, 2)
    sys.stderr = None  # nothing of Python's may write there either
    used = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE
    resource.setrlimit(resource.RLIMIT_AS, (used + bounds.memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read_result(reader: int, bounds: Bounds, waiting: Callable[[float], None] | None) -> bytes:
    begun = time.monotonic()
    chunks: list[bytes] = []
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while True:
        elapsed = time.monotonic() - begun
        if elapsed > bounds.seconds:
            raise JobFailed(JobEnd.TIME, f"it took more than {bounds.seconds:g} s")
        if not poll.poll(min(100, (bounds.seconds - elapsed) * 1000 + 1)):
            if waiting is not None:
                waiting(time.monotonic() - begun)
            continue
        chunk = os.read(reader, 1 << 16)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)


def _judge(result: bytes, status: int) -> bytes:
    if result[:1] == b"=" and status == 0:
        return result[1:]
    if result[:1] == b"m" or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGABRT):
        # An allocation that fails in native code aborts.
        raise JobFailed(JobEnd.MEMORY, "it needed more memory than it may have")
    if result[:1] == b"!":
        raise JobFailed(JobEnd.CRASH, result[1:].decode(errors="replace"))
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"
    raise JobFailed(JobEnd.CRASH, f"its process ended by {how}")
