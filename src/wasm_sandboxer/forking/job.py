"""Run one job in a bounded child of this process, and tell how it ended.

Only a process with a single thread may fork: a lock that another thread holds at the fork would never be
released in the child. So this is called early by a command, or in the fork server, never in the daemon.
"""

import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from wasm_sandboxer.errors import FailedPrecondition
from wasm_sandboxer.forking import answer
from wasm_sandboxer.forking.jobs import Bounds, JobEnd, JobFailed, Jobs
from wasm_sandboxer.linux import syscall

_PAGE = resource.getpagesize()


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
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                pid = os.fork()
                if pid == 0:
                    ours.close()
                    do_bounded(lambda: self._jobs[name](argument, fds), bounds, theirs)
            try:
                result = answer.receive(ours, bounds, waiting)
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
        _, status = os.waitpid(pid, 0)
        return result if result is not None else blame(status)


def require_one_thread() -> None:
    """Raise FailedPrecondition unless the calling thread is the process's only one."""
    threads = _count_threads()
    if threads != 1:
        raise FailedPrecondition(f"cannot fork: this process has {threads} threads")


def _count_threads() -> int:
    """How many threads this process has."""
    return os.stat("/proc/self/task").st_nlink - 2  # noqa: PTH116  # a folder in it for each, as in any folder


def do_bounded(job: Callable[[], bytes], bounds: Bounds, answers: socket.socket) -> NoReturn:
    """Do the job and end the process: whatever happens, the child must not go on as a copy of its parent."""
    try:
        syscall.set_parent_death_signal(signal.SIGKILL)
        _apply(bounds)
        answer.send_result(answers, job())
    except BaseException as error:  # noqa: BLE001  # reported to the parent, which raises it
        answer.send_failure(answers, error)
    finally:
        os._exit(0)


def blame(status: int) -> NoReturn:
    """Raise JobFailed for a child that ended with this wait status and no answer."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGABRT:
        # An allocation that fails in native code aborts.
        raise answer.out_of_memory()
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"
    raise JobFailed(JobEnd.CRASH, f"its process ended by {how}")


def default_signals() -> None:
    """Let the signals that the parent ignores or handles end this process, as they end others."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _apply(bounds: Bounds) -> None:
    default_signals()
    null = os.open(os.devnull, os.O_RDWR)  # a native abort writes to stderr; the parent says it in words
    os.dup2(null, 0)
    os.dup2(null, 2)
    os.close(null)
    sys.stderr = None  # nothing of Python's may write there either
    used = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE
    resource.setrlimit(resource.RLIMIT_AS, (min(used + bounds.memory, sys.maxsize),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
