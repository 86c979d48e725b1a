"""Run one job in a bounded child of this process, and tell how it ended.

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
from pathlib import Path
from typing import NoReturn

from wasm_sandboxer.errors import FailedPrecondition
from wasm_sandboxer.forking.jobs import Bounds, JobEnd, JobFailed, Jobs
from wasm_sandboxer.linux import syscall

_PAGE = resource.getpagesize()
# The first byte of what a child writes: its result, that memory ran out, or the exception in words.
RESULT, NO_MEMORY, FAILED = b"=", b"m", b"!"


class LocalRunner:
    """Runs jobs in children of this very process; see Runner. For a process with one thread."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def run(
        self,
        name: str,
        argument: bytes,
        fds: tuple[int, ...],
        bounds: Bounds,
        waiting: Callable[[float], None] | None = None,
    ) -> bytes:
        """See Runner. Raises FailedPrecondition in a process with threads."""
        require_one_thread()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            be_child(lambda: self._jobs[name](argument, fds), bounds, writer)
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
        return judge(result, status)


def require_one_thread() -> None:
    """Raise FailedPrecondition unless the calling thread is the process's only one."""
    threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    if threads != 1:
        raise FailedPrecondition(f"cannot fork: this process has {threads} threads")


def be_child(job: Callable[[], bytes], bounds: Bounds, writer: int) -> NoReturn:
    """Do the job and end the process: whatever happens, the child must not go on as a copy of its parent."""
    code = 1
    try:
        syscall.set_parent_death_signal(signal.SIGKILL)
        _apply(bounds)
        result = RESULT + job()
        code = 0
    except MemoryError:
        result = NO_MEMORY
    except BaseException as error:  # noqa: BLE001  # reported to the parent, which raises it
        result = FAILED + f"{type(error).__name__}: {error}".encode()
    try:
        while result:
            result = result[os.write(writer, result[: 64 << 10]) :]
    finally:
        os._exit(code)


def judge(result: bytes, status: int) -> bytes:
    """The result of a child that has ended with this wait status; raises JobFailed if it is none."""
    if result[:1] == RESULT and status == 0:
        return result[1:]
    if result[:1] == NO_MEMORY or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGABRT):
        # An allocation that fails in native code aborts.
        raise JobFailed(JobEnd.MEMORY, "it needed more memory than it may have")
    if result[:1] == FAILED:
        raise JobFailed(JobEnd.CRASH, result[1:].decode(errors="replace"))
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"
    raise JobFailed(JobEnd.CRASH, f"its process ended by {how}")


def _apply(bounds: Bounds) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)  # a native abort writes to stderr; the parent says it in words
    os.dup2(null, 0)
    os.dup2(null, 2)
    sys.stderr = None  # nothing of Python's may write there either
    used = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE
    resource.setrlimit(resource.RLIMIT_AS, (min(used + bounds.memory, sys.maxsize),) * 2)
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
