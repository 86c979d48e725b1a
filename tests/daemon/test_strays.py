"""Threads that the engine makes while a guest calls into the file system do not stay in that guest's group."""

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.bundles import Bundle
from tests.support.daemon import Daemon
from tests.support.modules import binary, wasi
from tests.support.proc import threads
from tests.support.rpc import Client
from wasm_sandboxer.core.identifiers import joined
from wasm_sandboxer.linux.cgroup.host import Version, detect

pytestmark = pytest.mark.skipif(
    detect().version is not Version.V1,
    reason=f"NOT RUN: reads cgroup v1's files; this host has {detect().describe()}",
)
ENGINES = "tokio-rt-worker"
# Opens a file, again and again with a rest of 10 ms between, for ever.
OPENER = f"""(module
  {wasi("path_open fd_close poll_oneoff")}
  (memory (export "memory") 1)
  (data (i32.const 32) "file")
  (func (export "_start")
    (i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 10000000))
    (loop $again
      (drop (call $path_open (i32.const 3) (i32.const 0) (i32.const 32) (i32.const 4) (i32.const 0)
        (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 48)))
      (drop (call $fd_close (i32.load (i32.const 48))))
      (drop (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 16)))
      (br $again))))"""


@pytest.fixture
def fresh_daemon(own_daemon: Callable[..., Daemon]) -> Iterator[Daemon]:
    """One whose engine has no idle thread yet."""
    with own_daemon() as running:
        yield running


@pytest.fixture
def opener(bundle: Callable[..., Bundle]) -> Callable[..., str]:
    """A bundle of that guest: its folder."""

    def make(**settings: object) -> str:
        made = bundle("hello")
        (made.root / "opener.wasm").write_bytes(binary(OPENER))
        (made.root / "file").write_text("x")
        made.configure("/opener.wasm", **settings)
        return str(made.folder)

    return make


def inside(daemon: Daemon, ident: str) -> dict[int, str]:
    """The threads in a container's group with their names."""
    name = joined("container", "test", ident)
    group = next(path for path in daemon.groups() if path.name == name and path.parts[4] == "cpu")
    tids = set(map(int, (group / "tasks").read_text().split()))
    return {tid: comm for tid, comm in threads(daemon.pid).items() if tid in tids}


def test_the_engines_threads_are_there_before_the_first_guest(fresh_daemon: Daemon) -> None:
    assert fresh_daemon.threads().count(ENGINES) >= 1


def test_a_thread_born_in_a_guests_group_is_home_while_the_guest_lives(
    fresh_daemon: Daemon, connect: Callable[..., Client], opener: Callable[..., str], ident: str
) -> None:
    before = fresh_daemon.threads().count(ENGINES)
    client = connect(to=fresh_daemon)
    client.Create(id=ident, bundle=opener())
    client.Start(id=ident)
    tid = client.State(id=ident).pid
    deadline = time.monotonic() + 10
    while fresh_daemon.threads().count(ENGINES) == before:  # one more serves its calls
        assert time.monotonic() < deadline
    while set(inside(fresh_daemon, ident)) != {tid}:
        assert time.monotonic() < deadline, inside(fresh_daemon, ident)
        time.sleep(0.02)
    assert fresh_daemon.threads().count(ENGINES) > before  # it is still there: at home
    client.Kill(id=ident, signal=signal.SIGKILL)
    client.Wait(id=ident)
    client.Delete(id=ident)


def test_a_bound_on_threads_leaves_room_for_the_engines(
    fresh_daemon: Daemon, connect: Callable[..., Client], bundle: Callable[..., Bundle], ident: str
) -> None:
    made = bundle("files")
    made.configure("/files.wasm", "write", "/made", "text", linux={"resources": {"pids": {"limit": 1}}})
    client = connect(to=fresh_daemon)
    client.Create(id=ident, bundle=str(made.folder))
    client.Start(id=ident)
    assert client.Wait(id=ident).exit_status == 0
    assert (made.root / "made").read_text() == "text"
    client.Delete(id=ident)


def test_a_container_that_is_called_as_the_engines_threads_stays_in_its_group(
    fresh_daemon: Daemon, connect: Callable[..., Client], bundle: Callable[..., Bundle]
) -> None:
    made = bundle("sleep")
    made.configure("/sleep.wasm", "forever")
    client = connect(to=fresh_daemon)
    client.Create(id=ENGINES, bundle=str(made.folder))
    client.Start(id=ENGINES)
    tid = client.State(id=ENGINES).pid
    time.sleep(1.5)  # three rounds of the search
    assert inside(fresh_daemon, ENGINES) == {tid: ENGINES}
    client.Kill(id=ENGINES, signal=signal.SIGKILL)
    client.Wait(id=ENGINES)
    client.Delete(id=ENGINES)
