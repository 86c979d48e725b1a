"""Control groups of sandboxes and containers at the daemon's sockets: who is in them, what holds, what is left."""

import itertools
import json
import time

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from benchmarks import fairness
from benchmarks.sandboxes import sandboxes as sandboxes_of
from tests.support.guests import in_loop
from tests.support.rpc import controller
from wasm_sandboxer.api import cri_pb2, typeurl
from wasm_sandboxer.daemon import group_name
from wasm_sandboxer.linux.cgroup.host import detect
from wasm_sandboxer.rpc.ttrpc import StatusCode


@pytest.fixture(autouse=True)
def host():
    found = detect()
    if found.missing:
        pytest.skip(f"NOT RUN: needs control groups; this host has {found.describe()}")
    return found


def exec_spec(*args):
    return AnyMessage(type_url=typeurl.PROCESS, value=json.dumps({"args": list(args), "cwd": "/"}).encode())


def test_the_engines_threads_are_there_before_the_first_guest(daemon, host):
    """Those of its runtime; born in a guest's group they would stay there, bounded as that guest is."""
    assert "tokio-rt-worker" in daemon.threads()
    root = host.root(group_name(daemon.state))
    assert root.threads() == []


def test_a_guest_that_may_have_one_thread_can_use_files(ttrpc, ident, bundle):
    """The engine then makes threads, which the kernel would count as the guest's own."""
    made = bundle("files", "ls", "/", linux={"resources": {"pids": {"limit": 1}}})
    ttrpc.Create(id=ident, bundle=str(made.folder), **made.streams())
    ttrpc.Start(id=ident)
    assert ttrpc.Wait(id=ident).exit_status == 0
    assert b"files.wasm" in made.read()
    ttrpc.Delete(id=ident)


def test_no_more_processes_run_than_may(ttrpc, ident, bundle, refused):
    made = bundle("sleep", "forever", linux={"resources": {"pids": {"limit": 2}}})
    ttrpc.Create(id=ident, bundle=str(made.folder))
    ttrpc.Start(id=ident)
    for name in ("one", "two"):
        ttrpc.Exec(id=ident, exec_id=name, spec=exec_spec("/sleep.wasm", "forever"))
    ttrpc.Start(id=ident, exec_id="one")
    words = refused(StatusCode.RESOURCE_EXHAUSTED, ttrpc.Start, id=ident, exec_id="two")
    assert words == f"container {ident} runs 2 processes, and its limit is 2 (pids)"
    more = AnyMessage(type_url=typeurl.LINUX_RESOURCES, value=b'{"pids": {"limit": 3}}')
    ttrpc.Update(id=ident, resources=more)
    ttrpc.Start(id=ident, exec_id="two")
    ttrpc.Kill(id=ident, signal=9)
    ttrpc.Wait(id=ident)
    ttrpc.Delete(id=ident)


@pytest.mark.parametrize("cpu", [{"period": 50_000}, {"quota": 0, "period": 50_000}, {"quota": -1, "period": 50_000}])
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_period_without_a_quota_is_taken(ttrpc, ident, bundle, cpu, isolation):
    """The kubelet's word for a container without a limit on CPU."""
    made = bundle(
        "sleep", "forever", annotations={"wasm-sandboxer.io/isolation": isolation},
        linux={"cgroupsPath": f"/wst-{ident}", "resources": {"cpu": cpu}},
    )  # fmt: skip
    ttrpc.Create(id=ident, bundle=str(made.folder))
    ttrpc.Start(id=ident)
    limits = AnyMessage(type_url=typeurl.LINUX_RESOURCES, value=json.dumps({"cpu": cpu}).encode())
    ttrpc.Update(id=ident, resources=limits)
    ttrpc.Kill(id=ident, signal=9)
    ttrpc.Wait(id=ident)
    ttrpc.Delete(id=ident)


def test_a_pod_may_have_a_period_without_a_quota(sandboxes, ident):
    resources = cri_pb2.LinuxContainerResources(cpu_period=100_000, cpu_shares=2)
    pod = cri_pb2.PodSandboxConfig(linux=cri_pb2.LinuxPodSandboxConfig(resources=resources))
    sandboxes.Create(sandbox_id=ident, options=typeurl.pack(pod))
    sandboxes.Start(sandbox_id=ident)
    sandboxes.Shutdown(sandbox_id=ident)


def test_a_process_that_has_ended_makes_room(ttrpc, ident, bundle):
    made = bundle("sleep", "forever", linux={"resources": {"pids": {"limit": 2}}})
    ttrpc.Create(id=ident, bundle=str(made.folder))
    ttrpc.Start(id=ident)
    for name in ("one", "two", "three"):
        ttrpc.Exec(id=ident, exec_id=name, spec=exec_spec("/sleep.wasm", "0"))
        ttrpc.Start(id=ident, exec_id=name)
        assert ttrpc.Wait(id=ident, exec_id=name).exit_status == 0
    ttrpc.Kill(id=ident, signal=9)
    ttrpc.Wait(id=ident)
    ttrpc.Delete(id=ident)


def test_guests_that_end_with_their_quota_used_up_hold_up_nobody(ttrpc, ident, bundle):
    """The kernel holds each for a second; if one held the GIL then, the daemon would stand still for as long."""
    slow = {"cpu": {"quota": 1000, "period": 1_000_000}}
    made = bundle("sleep", "forever", linux={"resources": slow})
    made.add("hello")
    ttrpc.Create(id=ident, bundle=str(made.folder))
    ttrpc.Start(id=ident)
    names = [f"e{number}" for number in range(20)]
    for name in names:
        ttrpc.Exec(id=ident, exec_id=name, spec=exec_spec("/hello.wasm"))
    for name in names:
        ttrpc.begin("Start", id=ident, exec_id=name)
    worst = 0.0
    for _ in range(400):
        begun = time.monotonic()
        ttrpc.State(id=ident)
        worst = max(worst, time.monotonic() - begun)
        time.sleep(0.005)
    ttrpc.Kill(id=ident, signal=9)
    ttrpc.Wait(id=ident)
    ttrpc.Delete(id=ident)
    assert worst < 0.4


def test_containers_of_one_id_in_two_namespaces_have_groups_of_their_own(daemon, host, connect, ident, bundle):
    root = host.root(group_name(daemon.state))
    before = root.names()
    clients = [connect(namespace="one"), connect(namespace="two")]
    for number, client in enumerate(clients):
        client.Create(id=ident, bundle=str(bundle("sleep", "forever", name=f"b{number}").folder))
        client.Start(id=ident)
    assert len(root.names() - before) == 2
    for client in clients:
        client.Kill(id=ident, signal=9)
        client.Wait(id=ident)
        client.Delete(id=ident)
    assert root.names() == before


def test_sandboxes_whose_names_run_together_have_groups_of_their_own(daemon, host, bundle):
    root = host.root(group_name(daemon.state))
    before = root.names()
    with controller(daemon.listen, "a-b") as one, controller(daemon.listen, "a") as two:
        one.Create(sandbox_id="c")
        two.Create(sandbox_id="b-c")
        for client, name in ((one, "c"), (two, "b-c")):
            client.Start(sandbox_id=name)
        assert len(root.names() - before) == 2
        for client, name in ((one, "c"), (two, "b-c")):
            client.Shutdown(sandbox_id=name)
    assert root.names() == before


# Bounds are loose where another process may take the processor that the kernel would give.


@pytest.fixture
def measured(daemon, tmp_path):
    """Measures with sandboxes of the benchmark's in the running daemon."""

    numbers = itertools.count()

    def run(what, seconds=1.5):
        async def main():
            async with sandboxes_of(daemon, tmp_path / f"bundles-{next(numbers)}") as made:
                return await what(made, seconds)

        return in_loop(main())

    return run


def measured_until(measured, what, holds):
    """Measure again where it does not hold: others may have taken the processor that was to be shared."""
    for _ in range(5):
        if holds(found := measured(what)):
            return found
    pytest.fail(f"five times in a row: {found}")


def test_a_quota_holds(measured):
    found = measured(fairness.quota)
    assert 5 < found.percent[0] < 24


def test_sandboxes_share_a_processor_by_their_weights(measured):
    measured_until(measured, fairness.weights, lambda found: 2.4 * found.cpu[0] < found.cpu[1] < 3.6 * found.cpu[0])


def test_a_pod_that_spins_without_a_limit_leaves_a_neighbour_its_quota(measured):
    found = measured(fairness.neighbours)
    mine, others = found.cpu[0], sum(found.cpu[1:])
    fair = min(fairness.QUOTA / 100 * found.wall, (mine + others) / 2)  # of what others than us have left them
    assert mine > 0.85 * fair
    assert found.percent[0] < 24


def test_a_paused_guest_uses_nothing(measured):
    assert measured(fairness.paused, 0.5) < 1


def test_stats_are_what_the_kernel_counts(measured):
    assert 98 < measured(fairness.counted, 0.5) < 102


def test_a_cpuset_holds(measured):
    assert measured(fairness.cpuset, 0.5) == 1


def test_no_group_is_left(measured):
    async def both(made, seconds):
        await fairness.weights(made, seconds)
        return await fairness.leftovers(made)

    assert measured(both, 0.1) == 0
