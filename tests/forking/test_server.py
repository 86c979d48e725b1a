"""The fork server through its client: answers, ends, deaths, and what is left of it all."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.cli import PATIENCE
from tests.support.forkserver import MODULE
from tests.support.proc import children, gone
from wasm_sandboxer.errors import WasmSandboxerError
from wasm_sandboxer.forking import wire
from wasm_sandboxer.forking.client import ForkServer, Line
from wasm_sandboxer.forking.jobs import Bounds, JobFailed

BOUNDS = Bounds(memory=1 << 30, seconds=PATIENCE)


@pytest.fixture
def forks() -> Iterator[ForkServer]:
    server = ForkServer(MODULE)
    yield server
    server.stop()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def spare(forks: ForkServer) -> int:
    """The one child of a server that has nothing to do."""
    found: list[int] = []

    def stays() -> bool:  # unlike one that has just answered
        nonlocal found
        before, found = found, children(forks.pid)
        return len(found) == 1 and found == before

    until(stays)
    return found[0]


def begun(line: Line) -> tuple[int, int]:
    message, fds = wire.receive(line.status, 1)
    return wire.read_begun(message), fds[0]


def test_a_job_answers_and_takes_descriptors(forks: ForkServer) -> None:
    read, write = os.pipe()
    os.write(write, b" world")
    assert forks.run("echo", b"hello", (read,), BOUNDS) == b"hello world"
    os.close(read)
    os.close(write)


def test_arguments_and_answers_of_any_size_come_whole(forks: ForkServer) -> None:
    for size in (0, wire.MAX_MESSAGE - 100, wire.MAX_MESSAGE, 5_000_000):
        data = os.urandom(size)
        assert forks.run("echo", data, (), BOUNDS) == data


def test_a_child_has_no_descriptor_of_others(forks: ForkServer) -> None:
    waiting = [forks.begin("wait", b"", ()) for _ in range(3)]
    for line in waiting:
        line.answers.recv(100)
    assert forks.run("descriptors", b"", (), BOUNDS) == b"1"  # that of its answers
    for line in waiting:
        line.close()


@pytest.mark.parametrize(
    ("name", "argument", "said"),
    [
        ("die", b"11", "its process ended by signal 11"),
        ("die", b"6", "it needed more memory than it may have"),
        ("sleep", b"nonsense", "ValueError: could not convert string to float: b'nonsense'"),
    ],
)
def test_a_job_that_gives_no_answer_says_why(forks: ForkServer, name: str, argument: bytes, said: str) -> None:
    with pytest.raises(JobFailed) as caught:
        forks.run(name, argument, (), BOUNDS)
    assert str(caught.value) == said


def test_a_job_over_its_time_is_killed(forks: ForkServer) -> None:
    forks.start()
    with pytest.raises(JobFailed, match=r"it took more than 0\.3 s"):
        forks.run("sleep", b"600", (), Bounds(memory=1 << 30, seconds=0.3))
    spare(forks)  # alone


def test_a_child_is_always_ready_before_it_is_asked_for(forks: ForkServer) -> None:
    forks.start()
    waiting = spare(forks)
    line = forks.begin("wait", b"", ())
    pid, pidfd = begun(line)
    assert pid == waiting
    until(lambda: len(children(forks.pid)) == 2)
    line.close()
    os.close(pidfd)


def test_a_spare_child_that_dies_is_replaced(forks: ForkServer) -> None:
    forks.start()
    first = spare(forks)
    os.kill(first, signal.SIGKILL)
    until(lambda: gone(first))
    assert forks.run("echo", b"at once", (), BOUNDS) == b"at once"
    second = spare(forks)
    os.kill(second, signal.SIGKILL)
    until(lambda: children(forks.pid) not in ([], [second]))  # unasked too


def test_a_process_tells_and_its_end_is_the_kernels(forks: ForkServer) -> None:
    line = forks.begin("talk", b"7", ())
    pid, pidfd = begun(line)
    assert [line.answers.recv(100), line.answers.recv(100)] == [b"my pid is %d" % pid, b"my group is %d" % pid]
    end = wire.read_ended(line.status.recv(100))
    assert (os.WIFEXITED(end.status), os.WEXITSTATUS(end.status)) == (True, 7)
    assert end.peak_memory > 1 << 20
    line.close()
    os.close(pidfd)


def test_hanging_up_kills_a_process_and_its_group(forks: ForkServer) -> None:
    line = forks.begin("family", b"", ())
    pid, pidfd = begun(line)
    inner = int(line.answers.recv(100))
    line.close()
    until(lambda: gone(pid) and gone(inner))
    os.close(pidfd)
    spare(forks)


def test_what_is_preloaded_is_in_every_child_also_of_the_next_server(forks: ForkServer) -> None:
    file = os.memfd_create("data")
    os.write(file, b" of a file")
    forks.start()
    spare(forks)
    forks.preload("load", b"content", (file,))
    assert forks.run("loaded", b"", (), BOUNDS) == b"content of a file"
    os.kill(forks.pid, signal.SIGKILL)
    assert forks.run("loaded", b"", (), BOUNDS) == b"content of a file"
    os.close(file)


def test_the_death_of_the_server_takes_its_children_and_fails_what_runs(forks: ForkServer) -> None:
    line = forks.begin("wait", b"", ())
    pid, pidfd = begun(line)
    first = forks.pid
    os.kill(first, signal.SIGKILL)
    assert line.status.recv(100) == b""
    until(lambda: gone(pid))
    assert forks.run("echo", b"works", (), BOUNDS) == b"works"
    assert forks.pid != first
    line.close()
    os.close(pidfd)


def test_a_job_under_way_when_the_server_dies_fails_with_one_line(forks: ForkServer) -> None:
    failures: list[WasmSandboxerError] = []

    def run() -> None:
        try:
            forks.run("sleep", b"600", (), BOUNDS)
        except WasmSandboxerError as error:
            failures.append(error)

    forks.start()
    waiting = spare(forks)
    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: len(children(forks.pid)) == 2 or waiting not in children(forks.pid))
    os.kill(forks.pid, signal.SIGKILL)
    thread.join(PATIENCE)
    assert [str(error) for error in failures] == ["the fork server died under it"]


def test_a_server_that_is_stopped_takes_everything_with_it(forks: ForkServer) -> None:
    lines = [forks.begin("family", b"", ()) for _ in range(5)]
    pids = [int(line.answers.recv(100)) for line in lines]
    forks.stop()
    until(lambda: all(gone(pid) for pid in pids))
    for line in lines:
        line.close()
