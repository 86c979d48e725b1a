"""The guest's stdin, stdout and stderr are the caller's own, byte for byte."""

import os
import pty
import random
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import PATIENCE, PROGRAM, Cli, example, wait_for_guest
from tests.support.modules import wasi

BYTES = random.Random(1).randbytes(3_000_000) + bytes(range(256))
TERMINAL, SEEKS = 2, 50
CLOSE = {
    "stdin": ("sh", "-c", 'exec "$@" <&-', "sh"),
    "stdout": ("sh", "-c", 'exec "$@" >&-', "sh"),
    "stderr": ("sh", "-c", 'exec "$@" 2>&-', "sh"),
    "all": ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"),
}


@pytest.fixture
def filetype(wat: Callable[..., Path]) -> Callable[[int], Path]:
    """A module that exits with WASI's type of one of its descriptors, and 50 more if it can seek or tell."""

    def make(fd: int) -> Path:
        return wat(
            f"""(module {wasi("fd_fdstat_get proc_exit")}
              (memory (export "memory") 1)
              (func (export "_start")
                (if (call $fd_fdstat_get (i32.const {fd}) (i32.const 0)) (then (unreachable)))
                (call $proc_exit (i32.add (i32.load8_u (i32.const 0))
                  (i32.mul (i32.const {SEEKS}) (i64.ne (i64.const 0)
                    (i64.and (i64.const 0x24) (i64.load (i32.const 8)))))))))""",
            f"filetype{fd}.wasm",
        )

    return make


# --- bytes


def test_bytes_come_through_pipes_unchanged(cli: Cli) -> None:
    ended = cli("run", example("cat"), stdin=BYTES)
    assert (ended.code, ended.stdout == BYTES, ended.stderr) == (0, True, "")


def test_bytes_come_through_files_unchanged(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(BYTES)
    with (tmp_path / "in").open("rb") as stdin, (tmp_path / "out").open("wb") as stdout:
        assert cli("run", example("cat"), stdin=stdin, stdout=stdout).code == 0
    assert (tmp_path / "out").read_bytes() == BYTES


def test_bytes_come_through_a_component_unchanged(cli: Cli) -> None:
    text = "ä\n\t\x01 \U0001f600" * 100
    assert cli("run", example("hello-component"), text).text == f"Hello from a component!\n{text}\n"


def test_output_is_added_where_the_caller_was(cli: Cli, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as stdout:
        stdout.write(b"before\n")
        stdout.flush()
        cli("run", example("hello"), stdout=stdout)
    assert (tmp_path / "out").read_text() == "before\nHello from WebAssembly!\n"


def test_stderr_is_the_callers_own(cli: Cli) -> None:
    ended = cli("run", example("files"))
    assert (ended.code, ended.stdout, ended.stderr[:13]) == (2, b"", "usage: files ")


def test_stdout_and_stderr_may_be_one(cli: Cli) -> None:
    ended = cli("run", example("memhog"), "1", "1", stderr=subprocess.STDOUT)
    assert ended.lines == ["1 MiB"]


def test_what_the_guest_does_not_read_is_left_to_others(cli: Cli) -> None:
    command = ["sh", "-c", f"{PROGRAM} run {example('hello')}; cat"]
    both = subprocess.run(command, env=cli.environment, input=b"rest\n", capture_output=True, check=True)
    assert both.stdout == b"Hello from WebAssembly!\nrest\n"


# --- a stdin of every kind


def test_stdin_may_be_dev_null(cli: Cli) -> None:
    assert cli("run", example("cat"), stdin=subprocess.DEVNULL).stdout == b""


def test_no_stdin_gives_the_guest_none(cli: Cli) -> None:
    ended = cli("run", "--no-stdin", example("cat"), stdin=b"mine")
    assert (ended.code, ended.stdout) == (0, b"")


def test_no_stdin_gives_a_component_none(cli: Cli) -> None:
    assert cli("run", "--no-stdin", example("hello-component"), stdin=b"mine").code == 0


def test_a_stdin_that_comes_late_is_awaited(cli: Cli) -> None:
    process = cli.start("run", example("cat"))
    wait_for_guest(process, "cat.wasm")
    assert process.stdin is not None
    assert process.stdout is not None
    for line in (b"one\n", b"two\n"):
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline() == line
    process.stdin.close()
    assert process.wait(PATIENCE) == 0


def test_a_non_blocking_stdin_is_awaited_too(cli: Cli) -> None:
    read, write = os.pipe()
    os.set_blocking(read, False)
    process = cli.start("run", example("cat"), stdin=read)
    os.close(read)
    wait_for_guest(process, "cat.wasm")
    os.write(write, b"late")
    os.close(write)
    assert process.communicate(timeout=PATIENCE)[0] == b"late"


@pytest.mark.parametrize("which", ["stdin", "all"])
def test_a_closed_stdin_reads_as_its_end(cli: Cli, which: str) -> None:
    ended = cli("run", example("cat"), wrapper=CLOSE[which])
    assert (ended.code, ended.stdout, ended.stderr) == (0, b"", "")


def test_a_closed_stdin_is_its_end_to_a_component_too(cli: Cli) -> None:
    ended = cli("run", example("hello-component"), wrapper=CLOSE["stdin"])
    assert (ended.code, ended.stderr) == (0, "")


# --- a stdout of every kind


@pytest.mark.parametrize("module", ["hello", "hello-component"])
@pytest.mark.parametrize("which", ["stdout", "stderr", "all"])
def test_output_to_a_closed_descriptor_is_lost_quietly(cli: Cli, module: str, which: str) -> None:
    ended = cli("run", example(module), wrapper=CLOSE[which])
    assert (ended.code, ended.stderr) == (0, "")


def test_a_trap_without_a_stderr_still_exits_with_134(cli: Cli) -> None:
    ended = cli("run", example("trap"), wrapper=CLOSE["stderr"])
    assert (ended.code, ended.stdout) == (134, b"")


def test_a_refusal_without_a_stderr_still_exits_with_2(cli: Cli) -> None:
    assert cli("run", "none", wrapper=CLOSE["all"]).code == 2


@pytest.mark.parametrize("module", ["flood", "worker"])
def test_a_reader_that_leaves_ends_the_program_as_it_ends_others(cli: Cli, module: str) -> None:
    process = cli.start("run", example(module))
    assert process.stdin is not None
    assert process.stdout is not None
    request = b"GET / HTTP/1.1\r\n\r\n"
    if module == "worker":
        process.stdin.write(request)
        process.stdin.flush()
    assert process.stdout.readline()
    process.stdout.close()
    if module == "worker":
        process.stdin.write(request)
        process.stdin.flush()
    assert process.wait(PATIENCE) == -signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_head_ends_a_pipeline_quietly(cli: Cli) -> None:
    command = ["sh", "-c", f"{PROGRAM} run {example('flood')} | head -1"]
    ended = subprocess.run(command, env=cli.environment, capture_output=True, timeout=PATIENCE, check=True)
    assert (ended.stdout[:6], ended.stderr) == (b"flood ", b"")


def test_a_component_whose_reader_has_left_ends_quietly(cli: Cli) -> None:
    read, write = os.pipe()
    os.close(read)
    ended = cli("run", example("hello-component"), stdout=write)
    os.close(write)
    assert ended.code in (-signal.SIGPIPE, 1)
    assert ended.stderr == ""


def test_a_full_device_is_the_guests_error(cli: Cli) -> None:
    with Path("/dev/full").open("wb") as full:
        assert cli("run", example("flood"), "100", stdout=full).code == 1


def test_a_slow_reader_of_a_non_blocking_stdout_gets_everything(cli: Cli) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    process = cli.start("run", example("flood"), "1000000", stdout=write)
    os.close(write)
    count = 0
    while data := os.read(read, 1 << 14):
        count += len(data)
        time.sleep(0.001)
    os.close(read)
    assert (process.wait(PATIENCE), count) == (0, 1_000_000)


@pytest.mark.parametrize("verb", [["modules", "ls"], ["inspect", example("hello")], ["run", "--help"], ["--version"]])
def test_our_own_output_to_a_full_device_is_an_error_in_one_line(cli: Cli, verb: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = cli(*verb, stdout=full)
    said = "wasm-sandboxer: the output cannot be written: No space left on device\n"
    assert (ended.code, ended.stderr) == (1, said)


@pytest.mark.parametrize(
    ("command", "code"),
    [(["run", "--json", example("exit"), "3"], 3), (["run", "none"], 2), (["inspect", "none"], 2)],
)
def test_a_message_that_cannot_be_written_changes_no_exit_code(cli: Cli, command: list[str], code: int) -> None:
    with Path("/dev/full").open("wb") as full:
        assert cli(*command, stderr=full).code == code


# --- terminals


@pytest.mark.parametrize("fd", [0, 1, 2])
def test_a_terminal_is_seen_as_one(cli: Cli, filetype: Callable[[int], Path], fd: int) -> None:
    leader, follower = pty.openpty()
    stream = {("stdin", "stdout", "stderr")[fd]: follower}
    try:
        assert cli("run", filetype(fd), **stream).code == TERMINAL
    finally:
        os.close(leader)
        os.close(follower)


@pytest.mark.parametrize("fd", [0, 1, 2])
def test_a_pipe_is_no_terminal(cli: Cli, filetype: Callable[[int], Path], fd: int) -> None:
    assert cli("run", filetype(fd)).code % SEEKS != TERMINAL


def test_lines_come_and_go_over_a_terminal(cli: Cli) -> None:
    leader, follower = pty.openpty()
    settings = termios.tcgetattr(follower)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(follower, termios.TCSANOW, settings)
    process = cli.start("run", example("cat"), stdin=follower, stdout=follower)
    os.close(follower)
    os.write(leader, b"one\n")
    assert os.read(leader, 100) == b"one\r\n"
    os.write(leader, b"two\n\x04")  # Ctrl-D
    assert os.read(leader, 100) == b"two\r\n"
    assert process.wait(PATIENCE) == 0
    os.close(leader)


def test_a_terminal_that_is_gone_reads_as_its_end(cli: Cli) -> None:
    leader, follower = pty.openpty()
    process = cli.start("run", example("cat"), stdin=follower)
    os.close(follower)
    wait_for_guest(process, "cat.wasm")
    os.close(leader)
    assert process.wait(PATIENCE) == 0
