"""What containers and sandboxes use, as the daemon tells it: the kernel's own figures, and the engine's."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import Bundle
from tests.support.daemon import Daemon
from tests.support.modules import binary
from tests.support.rpc import Client
from tests.support.waiting import stands_still
from wasm_sandboxer.api import admin_pb2, cgroups_v1_pb2, typeurl
from wasm_sandboxer.api.services import ADMIN
from wasm_sandboxer.core.identifiers import joined
from wasm_sandboxer.linux.cgroup.host import Version, detect

pytestmark = pytest.mark.skipif(
    detect().version is not Version.V1,
    reason=f"NOT RUN: reads cgroup v1's files; this host has {detect().describe()}",
)
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
PAGE = 1 << 16
# Has 160 pages of memory and waits.
HOLDER = """(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 160)
  (func (export "_start")
    (i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 1000000000000))
    (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 16)))))"""


@pytest.fixture
def pod(sandboxes: Client) -> Iterator[str]:
    sandboxes.Create(sandbox_id="counted")
    sandboxes.Start(sandbox_id="counted")
    yield "counted"
    sandboxes.Shutdown(sandbox_id="counted")


@pytest.fixture
def run(ttrpc: Client, bundle: Callable[..., Bundle]) -> Iterator[Callable[..., str]]:
    """Starts a container: `run("spin", pod)`; its id."""
    made: list[str] = []

    def start(module: str, pod: str = "", **settings: Any) -> str:
        ident = f"counted-{len(made)}"
        made.append(ident)
        folder = bundle("sleep", name=ident)
        (folder.root / "holder.wasm").write_bytes(binary(HOLDER))
        folder.add("spin")
        annotations = {SANDBOX_ID: pod} if pod else {}
        folder.configure(f"/{module}.wasm", annotations=annotations, **settings)
        ttrpc.Create(id=ident, bundle=str(folder.folder))
        ttrpc.Start(id=ident)
        return ident

    yield start
    for ident in made:
        try:
            ttrpc.Kill(id=ident, signal=signal.SIGKILL)
        finally:
            ttrpc.Wait(id=ident)
            ttrpc.Delete(id=ident)


@pytest.fixture
def stats(ttrpc: Client) -> Callable[[str], Any]:
    return lambda ident: _metrics(ttrpc, ident)


def _metrics(client: Client, ident: str) -> Any:
    return typeurl.unpack(client.Stats(id=ident).stats, cgroups_v1_pb2.Metrics)


@pytest.fixture
def metrics(sandboxes: Client) -> Callable[[str], Any]:
    """A sandbox's metrics, by Controller.Metrics."""

    def ask(ident: str) -> Any:
        answer = sandboxes.Metrics(sandbox_id=ident).metrics
        assert answer.id == ident
        assert abs(answer.timestamp.ToMilliseconds() / 1e3 - time.time()) < 60
        return typeurl.unpack(answer.data, cgroups_v1_pb2.Metrics)

    return ask


def group_of(daemon: Daemon, name: str, controller: str) -> Path:
    found = [
        path for path in daemon.groups() if path.name == name and path.is_relative_to(f"/sys/fs/cgroup/{controller}")
    ]
    assert len(found) == 1, found
    return found[0]


def pause(client: Client, ident: str) -> None:
    """From here on its CPU time stands still."""
    client.Pause(id=ident)
    stands_still(lambda: _metrics(client, ident).cpu.usage.total, 0.05)


def test_cpu_time_is_what_the_kernel_counts(
    daemon: Daemon, ttrpc: Client, run: Callable[..., str], stats: Callable[[str], Any]
) -> None:
    ident = run("spin")
    time.sleep(0.2)
    pause(ttrpc, ident)
    found = stats(ident).cpu.usage
    kernels = int((group_of(daemon, joined("container", "test", ident), "cpuacct") / "cpuacct.usage").read_text())
    assert found.total == kernels // 1000 * 1000
    assert found.user + found.kernel == found.total > 20e6
    ttrpc.Resume(id=ident)


def test_threads_and_throttling_are_what_the_kernel_counts(
    daemon: Daemon, ttrpc: Client, run: Callable[..., str], stats: Callable[[str], Any]
) -> None:
    ident = run("spin", linux={"resources": {"cpu": {"quota": 10000, "period": 100000}}})
    time.sleep(0.5)
    pause(ttrpc, ident)
    time.sleep(0.3)  # until its group, which may be throttled, has come to a new period
    found = stats(ident)
    lines = (group_of(daemon, joined("container", "test", ident), "cpu") / "cpu.stat").read_text().split()
    kernels = dict(zip(lines[::2], map(int, lines[1::2]), strict=True))
    assert found.cpu.throttling.throttled_periods == kernels["nr_throttled"] > 0
    assert found.cpu.throttling.throttled_time == kernels["throttled_time"] // 1000 * 1000 > 0
    assert found.pids.current == 1
    ttrpc.Resume(id=ident)


def test_memory_is_the_engines(run: Callable[..., str], stats: Callable[[str], Any]) -> None:
    ident = run("holder", memory=1 << 28)
    deadline = time.monotonic() + 10
    while not (found := stats(ident).memory).total_rss:  # it has not written yet
        assert time.monotonic() < deadline
    assert found.total_rss < 160 * PAGE
    assert found.usage.usage == 160 * PAGE
    assert found.usage.limit == 1 << 28


def test_a_container_that_has_ended_uses_no_memory_and_no_thread(
    ttrpc: Client, bundle: Callable[..., Bundle], ident: str, stats: Callable[[str], Any]
) -> None:
    folder = bundle("hello")
    ttrpc.Create(id=ident, bundle=str(folder.folder))
    ttrpc.Start(id=ident)
    ttrpc.Wait(id=ident)
    deadline = time.monotonic() + 10
    while stats(ident).pids.current:  # its thread may be about to leave
        assert time.monotonic() < deadline
    found = stats(ident)
    assert found.memory.usage.usage == 0
    assert found.memory.usage.max >= PAGE
    ttrpc.Delete(id=ident)


def test_a_sandbox_uses_what_its_containers_use(
    daemon: Daemon, ttrpc: Client, pod: str, run: Callable[..., str], metrics: Callable[[str], Any], stats: Any
) -> None:
    idents = [run("holder", pod), run("holder", pod), run("spin", pod)]
    time.sleep(0.2)
    pause(ttrpc, idents[2])
    found = metrics(pod)
    each = [stats(ident) for ident in idents]
    kernels = int((group_of(daemon, joined("test", pod), "cpuacct") / "cpuacct.usage").read_text())
    assert found.cpu.usage.total == kernels // 1000 * 1000 > 20e6
    assert found.pids.current == sum(one.pids.current for one in each) == 3
    assert found.memory.usage.usage == sum(one.memory.usage.usage for one in each) > 320 * PAGE
    assert found.memory.total_rss == sum(one.memory.total_rss for one in each)
    ttrpc.Resume(id=idents[2])


def test_cpu_time_of_containers_that_are_gone_stays_the_sandboxes(
    ttrpc: Client, pod: str, bundle: Callable[..., Bundle], metrics: Callable[[str], Any]
) -> None:
    folder = bundle("spin")
    folder.configure("/spin.wasm", annotations={SANDBOX_ID: pod})
    ttrpc.Create(id="gone", bundle=str(folder.folder))
    ttrpc.Start(id="gone")
    time.sleep(0.1)
    ttrpc.Kill(id="gone", signal=signal.SIGKILL)
    ttrpc.Wait(id="gone")
    ttrpc.Delete(id="gone")
    found = metrics(pod)
    assert found.cpu.usage.total > 20e6
    assert found.memory.usage.usage == 0


def test_an_empty_sandbox_uses_nothing(pod: str, metrics: Callable[[str], Any]) -> None:
    found = metrics(pod)
    assert (found.cpu.usage.total, found.pids.current, found.memory.usage.usage) == (0, 0, 0)


def test_counters_are_kept_open_and_closed_with_their_group(
    daemon: Daemon, ttrpc: Client, bundle: Callable[..., Bundle], ident: str, stats: Callable[[str], Any]
) -> None:
    folder = bundle("hello")
    ttrpc.Create(id=ident, bundle=str(folder.folder))
    stats(ident)
    name = joined("container", "test", ident)
    open_before = daemon.descriptors()
    stats(ident)
    assert daemon.descriptors() == open_before
    assert [each for each in open_before if f"/{name}/cpuacct.usage" in each]
    ttrpc.Delete(id=ident)
    assert [each for each in daemon.descriptors() if f"/{name}/" in each] == []


def test_the_listing_tells_the_same(
    ttrpc: Client, pod: str, run: Callable[..., str], connect: Callable[..., Client], stats: Callable[[str], Any]
) -> None:
    idents = [run("holder", pod, memory=1 << 26), run("spin", pod)]
    time.sleep(0.1)
    pause(ttrpc, idents[1])
    listing: admin_pb2.ListResponse = connect(service=ADMIN).List()
    found = {each.id: each for each in listing.containers}
    for ident in idents:
        told = stats(ident)
        assert found[ident].cpu_usec == told.cpu.usage.total // 1000
        assert found[ident].memory == told.memory.usage.usage
        assert found[ident].memory_resident == told.memory.total_rss
    assert found[idents[0]].memory_limit == 1 << 26
    whole = next(each for each in listing.sandboxes if each.id == pod)
    assert abs(whole.cpu_usec - sum(found[ident].cpu_usec for ident in idents)) <= len(idents)  # rounded
    assert whole.memory == sum(found[ident].memory for ident in idents)
    assert whole.threads == 2
    ttrpc.Resume(id=idents[1])
