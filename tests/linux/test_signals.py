"""A signal that only interrupts, and what it leaves alone; signals to the group of a process."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import PATIENCE
from wasm_sandboxer.linux import signals, syscall

WOKEN = signal.SIGURG


@pytest.fixture
def told() -> Iterator[socket.socket]:
    """What Python's own handlers tell of signals, of which the wake signal must have none."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        before = signal.set_wakeup_fd(theirs.fileno())
        yield ours
        signal.set_wakeup_fd(before)


def test_a_wait_ends_with_eintr_and_python_hears_of_nothing(told: socket.socket) -> None:
    signals.only_interrupt(WOKEN)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    ended: list[int] = []
    tids: list[int] = []

    def write() -> None:
        tids.append(threading.get_native_id())
        try:
            while True:
                syscall.write_interruptible(writer, bytes(1 << 16))
        except OSError as error:
            ended.append(error.errno)

    thread = threading.Thread(target=write)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while thread.is_alive() and time.monotonic() < deadline:
        if tids:
            syscall.signal_thread(tids[0], WOKEN)
        time.sleep(0.001)
    os.close(reader)
    os.close(writer)
    assert ended == [errno.EINTR]
    with pytest.raises(BlockingIOError):
        told.recv(1)


def test_a_program_that_is_executed_has_no_handler_for_it() -> None:
    signals.only_interrupt(WOKEN)
    assert caught(Path("/proc/self/status").read_text())
    read = [sys.executable, "-c", "print(open('/proc/self/status').read())"]
    assert not caught(subprocess.run(read, capture_output=True, text=True, check=True).stdout)


def caught(status: str) -> bool:
    """Whether a process handles the signal, by its status; proc_pid_status(5)."""
    handled = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(handled.split()[1], 16) >> (WOKEN - 1) & 1)


def test_what_cannot_be_handled_is_refused() -> None:
    with pytest.raises(OSError, match="sigaction"):
        signals.only_interrupt(signal.SIGKILL)


def test_a_process_that_leads_no_group_yet_gets_its_groups_signal_alone() -> None:
    """As a child that was just forked: a kill that came so early would be lost."""
    with subprocess.Popen(["sleep", "600"]) as process:  # in our own group, which must not get it
        pidfd = os.pidfd_open(process.pid)
        try:
            syscall.signal_group(pidfd, process.pid, signal.SIGTERM)
            assert process.wait(20) == -signal.SIGTERM
        finally:
            process.kill()
            os.close(pidfd)
