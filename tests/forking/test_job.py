"""Jobs in bounded children: their result, or why there is none, and nothing left of them.

Each in a process of its own, since that of the tests has threads and may not fork.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.cli import PATIENCE
from tests.support.proc import wait_until_gone

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import mmap, os, signal, sys, threading, time
from wasm_sandboxer.errors import FailedPrecondition
from wasm_sandboxer.forking.job import LocalRunner
from wasm_sandboxer.forking.jobs import Bounds, JobFailed

def job(argument, fds):
    {job}

def run(memory=1 << 30, seconds=20, waiting=None, argument=b"given", fds=()):
    try:
        print(LocalRunner({{"job": job}}).run("job", argument, fds, Bounds(memory=memory, seconds=seconds), waiting))
    except JobFailed as failure:
        print(failure.end, failure, sep=": ")
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        print("no child is left")

{run}
"""


def run(job: str, call: str = "run()") -> list[str]:
    """What the script says that runs a job of this body."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(job=job, run=call)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    return ended.stdout.splitlines()


def test_a_jobs_result_is_what_it_returns() -> None:
    assert run("return argument + b'!'") == ["b'given!'", "no child is left"]
    assert run("return b''") == ["b''", "no child is left"]


def test_a_large_result_comes_whole() -> None:
    call = "import builtins; print = lambda *told, **how: builtins.print(len(told[0]), **how); run()"
    assert run("return bytes(3_000_000)", call) == ["3000000", "16"]


def test_a_job_may_use_the_descriptors_it_is_given() -> None:
    call = "read, write = os.pipe(); run(fds=(write,)); print(os.read(read, 9))"
    assert run("os.write(fds[0], b'hello'); return b''", call)[-1] == "b'hello'"


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("raise ValueError('no')", "crash: ValueError: no"),
        ("sys.exit(3)", "crash: SystemExit: 3"),
        ("raise KeyboardInterrupt", "crash: KeyboardInterrupt: "),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crash: its process ended by signal 11"),
        ("os._exit(5)", "crash: its process ended by exit code 5"),
        ("os.abort()", "memory: it needed more memory than it may have"),
        ("raise MemoryError", "memory: it needed more memory than it may have"),
    ],
)
def test_a_job_that_fails_says_why(job: str, said: str) -> None:
    assert run(job) == [said, "no child is left"]


def test_a_job_over_its_memory_is_stopped() -> None:
    said = ["memory: it needed more memory than it may have", "no child is left"]
    assert run("bytearray(200 << 20)", "run(memory=100 << 20)") == said
    assert run("mmap.mmap(-1, 200 << 20)", "run(memory=100 << 20)")[0].startswith("crash: OSError: [Errno 12]")
    assert run("bytearray(50 << 20); return b'fits'", "run(memory=100 << 20)")[0] == "b'fits'"


def test_a_job_over_its_time_is_stopped() -> None:
    begun = time.monotonic()
    assert run("time.sleep(60)", "run(seconds=0.2)") == ["time: it took more than 0.2 s", "no child is left"]
    assert run("while True: pass", "run(seconds=0.2)") == ["time: it took more than 0.2 s", "no child is left"]
    assert time.monotonic() - begun < PATIENCE


def test_whoever_waits_is_told_how_long() -> None:
    lines = run("time.sleep(0.5); return b''", "run(waiting=lambda seconds: print(seconds > 0))")
    assert lines[0] == "True"
    assert lines[-2:] == ["b''", "no child is left"]


def test_a_process_with_threads_may_not_fork() -> None:
    call = """
threading.Thread(target=time.sleep, args=(0.5,)).start()
try: run()
except FailedPrecondition as error: print(error)"""
    assert run("return b''", call) == ["cannot fork: this process has 2 threads"]


def test_a_job_says_nothing_on_the_callers_stderr() -> None:
    job = "os.write(2, b'noise'); os.system('echo noise >&2'); return b'ok'"
    assert run(job)[0] == "b'ok'"


def test_a_job_ends_with_its_caller() -> None:
    script = SCRIPT.format(job="print(os.getpid(), flush=True); time.sleep(600)", run="run()")
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)
    process.stdout.close()
    wait_until_gone(child)


def test_ctrl_c_while_waiting_ends_the_job() -> None:
    call = """
def interrupt(seconds): raise KeyboardInterrupt
try: run(waiting=interrupt)
except KeyboardInterrupt: print("interrupted")
try: os.waitpid(-1, 0)
except ChildProcessError: print("no child is left")"""
    assert run("time.sleep(600)", call) == ["interrupted", "no child is left"]
