"""The shim route: containerd's own client, with no pod, through the shim script and the running daemon."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing import oci
from testing.containerd import Containerd
from tests.support.cli import PATIENCE, example
from tests.support.daemon import Daemon
from tests.support.waiting import stands_still

RUNTIME = "io.containerd.wasm-sandboxer.v1"
IMAGE = "localhost/ctr:1"
SHIM = Path(__file__).parents[2] / "data" / "bin" / "containerd-shim-wasm-sandboxer-v1"
pytestmark = pytest.mark.xdist_group("containerd")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="wsc-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def node(folder: Path, store_root: Path) -> Iterator[tuple[Containerd, Daemon]]:
    """A containerd that finds the shim, and a daemon that the shim finds."""
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: containerd needs root")
    sockets = {"WASM_SANDBOXER_TASK_SOCKET": str(folder / "t.sock")}
    containerd = Containerd({"wasm-sandboxer": folder / "s.sock"}, path=[SHIM.parent], environment=sockets)
    with Daemon(folder, store_root, containerd=containerd.address) as daemon, containerd:
        files = {f"{name}.wasm": example(name).read_bytes() for name in ("hello", "cat", "exit", "sleep", "spin")}
        containerd.import_image(oci.build(folder / "image.tar", IMAGE, [files], entrypoint=["/hello.wasm"]))
        yield containerd, daemon


@pytest.fixture
def containerd(node: tuple[Containerd, Daemon]) -> Containerd:
    return node[0]


def test_run_gives_the_programs_output(containerd: Containerd) -> None:
    assert containerd.ctr("run", "--rm", "--runtime", RUNTIME, IMAGE, "hello").stdout == b"Hello from WebAssembly!\n"


def test_run_gives_the_programs_exit_code(containerd: Containerd) -> None:
    assert (
        containerd.ctr(
            "run", "--rm", "--runtime", RUNTIME, IMAGE, "exit", "/exit.wasm", "200", check=False
        ).returncode
        == 200
    )


def test_run_hands_over_stdin_to_its_end(containerd: Containerd) -> None:
    data = bytes(range(256)) * 1000
    run = containerd.ctr("run", "--rm", "--runtime", RUNTIME, IMAGE, "cat", "/cat.wasm", stdin=data)
    assert run.stdout == data


def test_exec_runs_another_module_of_the_image(containerd: Containerd) -> None:
    containerd.ctr("run", "--detach", "--runtime", RUNTIME, IMAGE, "execs", "/sleep.wasm", "forever")
    try:
        done = containerd.ctr("tasks", "exec", "--exec-id", "e1", "execs", "/exit.wasm", "9", check=False)
        assert done.returncode == 9
    finally:
        _remove(containerd, "execs")


def test_a_restarted_containerd_finds_the_task_again(containerd: Containerd) -> None:
    containerd.ctr("run", "--detach", "--runtime", RUNTIME, IMAGE, "stays", "/sleep.wasm", "forever")
    before = _task(containerd, "stays")
    containerd.restart(crash=True)
    assert _task(containerd, "stays") == before
    containerd.ctr("tasks", "kill", "stays")
    _remove(containerd, "stays")


def test_an_id_is_free_again_after_the_daemons_death(containerd: Containerd, node: tuple[Containerd, Daemon]) -> None:
    """containerd gives the task up itself, and never asks for its deletion."""
    daemon = node[1]
    containerd.ctr("run", "--detach", "--runtime", RUNTIME, IMAGE, "dies", "/sleep.wasm", "forever")
    daemon.kill()
    deadline = time.monotonic() + PATIENCE
    while b"dies" in containerd.ctr("tasks", "ls").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    daemon.start()
    assert daemon.records() == []
    containerd.ctr("containers", "rm", "dies")
    again = containerd.ctr("run", "--rm", "--runtime", RUNTIME, IMAGE, "dies")
    assert again.stdout == b"Hello from WebAssembly!\n"
    assert daemon.records() == []


def test_what_containerd_gave_up_while_the_daemon_stood_still_does_not_go_on(
    containerd: Containerd, node: tuple[Containerd, Daemon]
) -> None:
    """It waits five seconds for an answer when it starts, then takes the task for gone and deletes its bundle."""
    daemon = node[1]
    containerd.ctr("run", "--detach", "--runtime", RUNTIME, IMAGE, "frozen", "/spin.wasm")
    containerd.stop()
    daemon.signal(signal.SIGSTOP)
    try:
        containerd.start()
    finally:
        daemon.signal(signal.SIGCONT)
    deadline = time.monotonic() + PATIENCE
    while "frozen" in daemon.threads() or daemon.records():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert b"frozen" not in containerd.ctr("tasks", "ls").stdout
    assert daemon.mounts(containerd.folder) == []
    containerd.ctr("containers", "rm", "frozen")
    again = containerd.ctr("run", "--rm", "--runtime", RUNTIME, IMAGE, "frozen")
    assert again.stdout == b"Hello from WebAssembly!\n"


def test_pause_stops_its_time_and_resume_lets_it_go_on(
    containerd: Containerd, node: tuple[Containerd, Daemon]
) -> None:
    containerd.ctr("run", "--detach", "--runtime", RUNTIME, IMAGE, "spins", "/spin.wasm")
    try:
        thread = Path(f"/proc/{node[1].pid}/task/{_task(containerd, 'spins')[0]}/stat")
        containerd.ctr("tasks", "pause", "spins")
        assert _task(containerd, "spins")[1] == "PAUSED"
        first = stands_still(lambda: _cpu_ticks(thread), 0.5)
        containerd.ctr("tasks", "resume", "spins")
        assert _task(containerd, "spins")[1] == "RUNNING"
        deadline = time.monotonic() + PATIENCE
        while _cpu_ticks(thread) - first <= 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        _remove(containerd, "spins")


def test_without_a_daemon_the_shim_says_so_in_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone.sock"
    environment = {**os.environ, "WASM_SANDBOXER_TASK_SOCKET": str(gone)}
    answer = subprocess.run(
        [SHIM, "-namespace", "k8s.io", "-id", "x", "start"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr == (
        f"wasm-sandboxer is not running (no daemon at {gone}): start it with `wasm-sandboxer serve`\n"
    )


def test_a_dead_daemons_socket_is_no_daemon_whether_it_has_a_lock_or_not(tmp_path: Path) -> None:
    path = tmp_path / "t.sock"
    environment = {**os.environ, "WASM_SANDBOXER_TASK_SOCKET": str(path)}
    start = [SHIM, "-namespace", "k8s.io", "-id", "x", "start"]

    def ask() -> tuple[int, str]:
        done = subprocess.run(start, capture_output=True, text=True, env=environment, check=False)
        return done.returncode, done.stderr

    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert ask()[0] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["t.sock"]
    with (tmp_path / "t.sock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # another shim that looks at the same time
        assert ask()[0] == 1
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ask() == (0, "")


def test_the_shims_answers_are_the_messages_containerd_reads() -> None:
    from wasm_sandboxer import __version__
    from wasm_sandboxer.api.task_pb2 import DeleteResponse
    from wasm_sandboxer.api.types_pb2 import RuntimeInfo

    def answer(*words: str) -> bytes:
        return subprocess.run([SHIM, *words], capture_output=True, check=True).stdout

    info = RuntimeInfo.FromString(answer("-info"))
    assert (info.name, info.version.version) == (RUNTIME, __version__)
    assert info.features.type_url == "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
    features = json.loads(info.features.value)
    assert "rro" in features["mountOptions"]
    assert features["linux"]["mountExtensions"]["idmap"] == {"enabled": False}
    assert f"Version: {__version__}\n" in answer("-v").decode()
    assert DeleteResponse.FromString(answer("-id", "x", "-bundle", "/b", "delete")).exit_status == 137


def _remove(containerd: Containerd, name: str) -> None:
    """With its task, which is ended and waited for: `tasks kill` only tells it to end."""
    containerd.ctr("tasks", "rm", "--force", name)
    containerd.ctr("containers", "rm", name)


def _task(containerd: Containerd, ident: str) -> tuple[str, str]:
    """A task's thread and state, as containerd lists them."""
    lines = containerd.ctr("tasks", "ls").stdout.decode().splitlines()
    _, pid, state = next(line.split() for line in lines if line.startswith(f"{ident} "))
    return pid, state


def _cpu_ticks(stat: Path) -> int:
    """utime and stime of a thread, proc(5)."""
    fields = stat.read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
