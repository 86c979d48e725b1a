"""`run --isolation`: a guest in a child of the command's is to its caller as one on a thread."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.cli import PATIENCE, Cli, example
from tests.support.proc import wait_until_gone

PROCESS = ("run", "--isolation", "process")


@pytest.mark.parametrize(
    "arguments",
    [("hello",), ("hello-component", "a", "b"), ("exit", "7"), ("trap", "divide"), ("hello-component", "exit")],
)
def test_both_give_the_same_output_and_exit_code(cli: Cli, arguments: tuple[str, ...]) -> None:
    module, *rest = arguments
    thread = cli("run", "--isolation", "thread", example(module), *rest)
    process = cli(*PROCESS, example(module), *rest)
    assert (process.code, process.stdout, process.stderr) == (thread.code, thread.stdout, thread.stderr)


def test_streams_variables_and_folders_are_the_same(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    assert cli(*PROCESS, example("cat"), stdin=b"through").stdout == b"through"
    assert cli(*PROCESS, "--dir", f"{tmp_path}:/d", example("cat"), "/d/file").stdout == b"content"
    assert cli(*PROCESS, "-e", "K=V", example("hello-component")).lines == ["Hello from a component!", "K=V"]


@pytest.mark.usefixtures("namespaces")
def test_a_single_file_is_the_same(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    assert cli(*PROCESS, "--dir", f"{tmp_path}/file:/d/one", example("cat"), "/d/one").stdout == b"content"


def child_of(pid: int) -> int:
    """The guest's process: the child of the fork server that is busy."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):  # one that has ended since: not all run the guest
                for each in Path(f"/proc/{child}/task/{child}/children").read_text().split():
                    if Path(f"/proc/{each}/comm").read_text().startswith("sleep-compon"):
                        return int(each)
        time.sleep(0.01)
    raise TimeoutError


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_command_and_the_child(cli: Cli, number: int, code: int) -> None:
    process = cli.start(*PROCESS, example("sleep-component"))
    guest = child_of(process.pid)
    process.send_signal(number)
    assert process.wait(PATIENCE) == code
    wait_until_gone(guest)


def test_the_child_does_not_outlive_a_command_that_is_killed(cli: Cli) -> None:
    process = cli.start(*PROCESS, example("sleep-component"))
    guest = child_of(process.pid)
    process.kill()
    process.wait(PATIENCE)
    wait_until_gone(guest)


def test_the_time_limit_and_the_result_as_json(cli: Cli) -> None:
    ended = cli(*PROCESS, "--timeout", "0.3s", "--json", example("sleep-component"))
    result = json.loads(ended.stderr.splitlines()[-1])
    assert (ended.code, result["exit_code"], result["reason"]) == (124, 124, "timeout")


def test_a_bound_on_memory_ends_it_alike(cli: Cli) -> None:
    arguments = ("--memory", "8MiB", example("memhog"), "100", "1", "abort")
    assert cli(*PROCESS, *arguments).code == cli("run", *arguments).code == 137


def test_a_child_that_is_killed_by_somebody_else_is_told(cli: Cli) -> None:
    process = cli.start(*PROCESS, example("sleep-component"))
    os.kill(child_of(process.pid), signal.SIGKILL)
    assert process.wait(PATIENCE) == 137


def test_an_isolation_that_is_none_is_refused(cli: Cli) -> None:
    said = cli.refused("run", "--isolation", "maybe", example("hello"))
    assert "'maybe' is not one of 'auto', 'thread', 'process'" in said


TWO = """(component (core module $m (memory (export "memory") 12) (func (export "run") (result i32) (i32.const 0)))
  (core instance $a (instantiate $m)) (core instance $b (instantiate $m))
  (func $run (result (result)) (canon lift (core func $a "run")))
  (instance $run (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $run)))"""


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_one_that_finds_no_room_is_told_of_once_and_stderr_stays_as_it_was(
    cli: Cli, wat: Callable[..., Path], isolation: str
) -> None:
    read, write = os.pipe()
    process = cli.start("run", "--isolation", isolation, "--memory", "1MiB", wat(TWO, "two.wat"), stderr=write)
    assert process.wait(PATIENCE) == 2
    assert os.get_blocking(write)
    os.close(write)
    with os.fdopen(read) as told:
        (line,) = told.read().splitlines()
    assert "two.wat: its instance could not be made: it needs 768 KiB of memory, and its limit is 1 MiB" in line
