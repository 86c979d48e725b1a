"""What stays of a sandbox that is stopped, and of its containers: their records and figures. No containerd.

The kubelet stops the sandbox of a finished job at once, and has it removed when the job's pod is, days later perhaps.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from tests.support.bundles import Bundle
from tests.support.daemon import Daemon
from tests.support.rpc import Client, controller
from tests.support.waiting import comes
from wasm_sandboxer.api import admin_pb2, typeurl
from wasm_sandboxer.api.cgroups_v1_pb2 import Metrics as V1Metrics
from wasm_sandboxer.api.cgroups_v2_pb2 import Metrics as V2Metrics
from wasm_sandboxer.api.services import ADMIN
from wasm_sandboxer.api.task_types_pb2 import STOPPED
from wasm_sandboxer.api.types_pb2 import Sandbox
from wasm_sandboxer.linux.cgroup.host import Version, detect, find_hierarchies
from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode

SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
ISOLATION = "wasm-sandboxer.io/isolation"
COUNT = 8


@pytest.fixture(autouse=True)
def groups() -> None:
    if detect().missing:
        pytest.skip(f"NOT RUN: needs control groups; this host has {detect().describe()}")


def cpu_of(data: AnyMessage) -> int:
    """Nanoseconds."""
    if detect().version is Version.V1:
        return int(typeurl.unpack(data, V1Metrics).cpu.usage.total)
    return int(typeurl.unpack(data, V2Metrics).cpu.usage_usec) * 1000


def threads_of(data: AnyMessage) -> int:
    return int(typeurl.unpack(data, V1Metrics if detect().version is Version.V1 else V2Metrics).pids.current)


def process_groups(ident: str) -> list[Path]:
    """The groups below this test's own path, in every hierarchy."""
    found = find_hierarchies()
    assert found is not None
    roots = [found.unified] if found.unified is not None else [*found.v1.values()]
    return [root / f"wst-{ident}" for root in roots if root is not None and (root / f"wst-{ident}").exists()]


def held(daemon: Daemon) -> dict[str, Any]:
    """What grows with each sandbox, if it does."""
    return {
        "descriptors": len(daemon.descriptors()),
        "groups": len(daemon.groups()),
        "files": len(list((daemon.state / "sandboxes").glob("*/*"))),
    }


class Pods:
    """Sandboxes of a test's own with containers: one that spins, in a process too, and one that never starts."""

    def __init__(self, daemon: Daemon, bundle: Callable[..., Bundle], ident: str) -> None:
        self.ident = ident
        self._bundle = bundle
        self.connect(daemon)

    def connect(self, daemon: Daemon) -> None:
        """To the daemon that is now."""
        self.pods = controller(daemon.listen)
        self.tasks = Client(daemon.task_listen)
        self.admin = Client(daemon.task_listen, service=ADMIN)

    def close(self) -> None:
        for client in (self.pods, self.tasks, self.admin):
            client.close()

    def start(self, number: int) -> str:
        name = f"{self.ident}-{number}"
        self.pods.Create(sandbox_id=name)
        self.pods.Start(sandbox_id=name)
        for kind, isolation in (("t", "thread"), ("p", "process"), ("n", "thread")):
            made = self._bundle(
                "spin", "60", name=f"{name}-{kind}", annotations={SANDBOX_ID: name, ISOLATION: isolation},
                linux={"cgroupsPath": f"/wst-{self.ident}/{name}/{kind}"},
            )  # fmt: skip
            self.tasks.Create(id=f"{name}-{kind}", bundle=str(made.folder))
            if kind != "n":
                self.tasks.Start(id=f"{name}-{kind}")
        return name

    def cpu(self, name: str) -> int:
        return cpu_of(self.pods.Metrics(sandbox_id=name).metrics.data)


@pytest.fixture
def pods(daemon: Daemon, bundle: Callable[..., Bundle], ident: str) -> Iterator[Pods]:
    made = Pods(daemon, bundle, ident)
    yield made
    made.close()


def test_a_stopped_sandbox_holds_nothing_and_is_still_told_of(daemon: Daemon, pods: Pods, ident: str) -> None:
    warm = pods.start(COUNT)  # connections, what the first of each kind takes
    pods.admin.List()
    pods.pods.Stop(sandbox_id=warm)
    pods.pods.Shutdown(sandbox_id=warm)
    before = held(daemon)
    names = [pods.start(number) for number in range(COUNT)]
    for name in names:
        comes(lambda name=name: pods.cpu(name) > 20e6)
        for kind in "tpn":
            pods.tasks.Stats(id=f"{name}-{kind}")  # which opens its counters
    running = held(daemon)
    assert all(running[what] >= before[what] + COUNT for what in before)
    used = {name: pods.cpu(name) for name in names}
    for name in names:
        pods.pods.Stop(sandbox_id=name)
        pods.pods.Stop(sandbox_id=name)
    comes(lambda: held(daemon) == before)
    assert process_groups(ident) == []

    listing: admin_pb2.ListResponse = pods.admin.List()
    found = {each.id: each for each in (*listing.sandboxes, *listing.containers)}
    for name in names:
        assert pods.pods.Status(sandbox_id=name).state == "SANDBOX_NOTREADY"
        metrics = pods.pods.Metrics(sandbox_id=name).metrics.data
        each = [pods.tasks.Stats(id=f"{name}-{kind}").stats for kind in "tpn"]
        assert cpu_of(metrics) >= used[name]
        assert abs(cpu_of(metrics) - sum(map(cpu_of, each))) < 10_000  # rounded, and what goes on while it is read
        assert min(map(cpu_of, each[:2])) > 0
        assert [threads_of(one) for one in (metrics, *each)] == [0] * 4
        assert found[name].cpu_usec == cpu_of(metrics) // 1000
        assert all(pods.tasks.State(id=f"{name}-{kind}").status == STOPPED for kind in "tpn")
    assert held(daemon) == before

    for name in names[::2]:  # as containerd does it, before or after it has deleted its containers
        used[name] = pods.cpu(name)
        for kind in "tpn":
            pods.tasks.Delete(id=f"{name}-{kind}")
        assert abs(pods.cpu(name) - used[name]) < 1000
    for name in names:
        pods.pods.Shutdown(sandbox_id=name)
    assert held(daemon) == before
    assert daemon.records() == []


def test_so_it_is_after_a_death(own_daemon: Callable[..., Daemon], bundle: Callable[..., Bundle], ident: str) -> None:
    with own_daemon() as daemon:
        pods = Pods(daemon, bundle, ident)
        before = held(daemon)
        names = [pods.start(number) for number in range(2)]
        for name in names:
            pods.pods.Stop(sandbox_id=name)
        pods.close()
        daemon.kill()
        daemon.start()
        pods.connect(daemon)
        assert held(daemon)["groups"] == before["groups"]
        assert held(daemon)["files"] == before["files"]
        assert process_groups(ident) == []
        listing: admin_pb2.ListResponse = pods.admin.List()
        assert {each.id for each in listing.sandboxes} == set(names)
        for name in names:
            assert pods.pods.Status(sandbox_id=name).state == "SANDBOX_NOTREADY"
            assert pods.tasks.State(id=f"{name}-t").status == STOPPED
            pods.cpu(name)
            pods.pods.Stop(sandbox_id=name)
            pods.pods.Shutdown(sandbox_id=name)
        assert daemon.records() == []
        pods.close()


def test_the_bounds_of_a_stopped_sandbox_may_change_and_nothing_is_made_in_it(
    daemon: Daemon, pods: Pods, bundle: Callable[..., Bundle], ident: str, refused: Callable[..., str]
) -> None:
    name = pods.start(0)
    pods.pods.Stop(sandbox_id=name)
    groups = daemon.groups()
    value = json.dumps({"Resources": {"cpu_quota": 20_000, "cpu_period": 100_000}}).encode()
    extension = {"updated-resources": AnyMessage(value=value)}
    pods.pods.Update(sandbox_id=name, sandbox=Sandbox(extensions=extension), fields=["extensions"])
    for isolation in ("thread", "process"):
        annotations = {SANDBOX_ID: name, ISOLATION: isolation}
        made = bundle("hello", name=isolation, annotations=annotations, linux={"cgroupsPath": f"/wst-{ident}/x"})
        words = refused(StatusCode.FAILED_PRECONDITION, pods.tasks.Create, id=f"{name}-x", bundle=str(made.folder))
        assert words == f"cannot create container {name}-x: sandbox {name} is stopped"
    with pytest.raises(RpcError):
        pods.tasks.Start(id=f"{name}-n")
    assert daemon.groups() == groups
    assert process_groups(ident) == []
    pods.pods.Shutdown(sandbox_id=name)


def test_what_is_being_created_while_a_sandbox_stops_leaves_nothing(
    daemon: Daemon, pods: Pods, bundle: Callable[..., Bundle], ident: str
) -> None:
    """It makes its group in the sandbox's before, while or after that goes."""
    for number in range(40):
        name = f"{ident}-{number}"
        made = bundle("hello", name=name, annotations={SANDBOX_ID: name})
        pods.pods.Create(sandbox_id=name)
        pods.pods.Start(sandbox_id=name)
        creating = pods.tasks.begin("Create", id=f"{name}-c", bundle=str(made.folder))
        time.sleep(number % 10 / 5000)
        stopping = pods.pods.begin("Stop", sandbox_id=name)
        error = creating.exception(10)
        assert error is None or "is stopped" in str(error)
        stopping.result(10)
        assert not [group for group in daemon.groups() if name in group.name]
        pods.pods.Shutdown(sandbox_id=name)
    assert "left behind" not in daemon.log
    assert daemon.records() == []
