"""Limits of pods and containers, as the kernel holds them: CPU quotas, changes while running, metrics, groups."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing import oci
from testing.containerd import Containerd
from tests.support.cli import PATIENCE, example
from tests.support.daemon import Daemon
from tests.support.proc import threads
from wasm_sandboxer.core.identifiers import joined
from wasm_sandboxer.daemon import group_name
from wasm_sandboxer.linux.cgroup.host import detect
from wasm_sandboxer.linux.cgroup.protocol import Group

pytestmark = pytest.mark.xdist_group("containerd")
ISOLATION = "wasm-sandboxer.io/isolation"


def groups(daemon: Daemon) -> set[str]:
    """The daemon's control groups, those of sandboxes."""
    return root(daemon).names()


def root(daemon: Daemon) -> Group:
    return detect().root(group_name(daemon.state))


@pytest.fixture(scope="module")
def node(store_root: Path) -> Iterator[tuple[Containerd, Daemon, str]]:
    """A containerd with a daemon, and an image."""
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: containerd needs root")
    if detect().missing:
        pytest.skip(f"NOT RUN: needs control groups; this host has {detect().describe()}")
    folder = Path(tempfile.mkdtemp(prefix="wsl-", dir="/tmp"))
    containerd = Containerd({"wasm-sandboxer": folder / "s.sock"})
    with Daemon(folder, store_root, containerd=containerd.address) as daemon, containerd:
        files = {f"{name}.wasm": example(name).read_bytes() for name in ("hello", "spin", "sleep", "memhog")}
        image = oci.build(folder / "image.tar", "localhost/limits:1", [files], entrypoint=["/hello.wasm"])
        yield containerd, daemon, containerd.import_image(image).reference
    shutil.rmtree(folder)


def cpu_share(daemon: Daemon, name: str, seconds: float) -> float:
    """Which part of a core a guest's thread gets."""
    tid = next(tid for tid, comm in threads(daemon.pid).items() if comm.startswith(name))
    thread = Path(f"/proc/{daemon.pid}/task/{tid}")

    def ticks() -> int:
        fields = (thread / "stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    begun, before = time.monotonic(), ticks()
    time.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - begun)


def test_a_quota_holds_and_changes_while_the_guest_runs(node: tuple[Containerd, Daemon, str]) -> None:
    containerd, daemon, image = node
    pod = containerd.cri.run_pod("quota")
    spinner = containerd.cri.run(
        pod, image, command=["/spin.wasm"], resources={"cpu_quota": 20_000, "cpu_period": 100_000}
    )
    assert cpu_share(daemon, spinner.id[:15], 2) < 0.25
    containerd.cri.update(spinner, cpu_quota=60_000, cpu_period=100_000)
    assert 0.25 < cpu_share(daemon, spinner.id[:15], 2) < 0.7
    containerd.cri.stop(spinner)
    containerd.cri.remove_pod(pod)


def test_a_guest_that_has_used_up_its_quota_is_killed_at_once(node: tuple[Containerd, Daemon, str]) -> None:
    containerd, _, image = node
    pod = containerd.cri.run_pod("throttled")
    resources = {"cpu_quota": 1_000, "cpu_period": 1_000_000}  # a millisecond a second
    spinner = containerd.cri.run(pod, image, command=["/spin.wasm"], resources=resources)
    time.sleep(0.1)
    begun = time.monotonic()
    containerd.cri.stop(spinner)
    assert time.monotonic() - begun < 0.8  # it would take a second to get its next millisecond
    assert containerd.cri.wait_exit(spinner).exit_code == 137
    containerd.cri.remove_pod(pod)


def test_metrics_count_what_the_kernel_counts(node: tuple[Containerd, Daemon, str]) -> None:
    containerd, _, image = node
    pod = containerd.cri.run_pod("metrics")
    spinner = containerd.cri.run(pod, image, command=["/spin.wasm", "0.3"])
    sleeper = containerd.cri.run(pod, image, command=["/sleep.wasm", "forever"], name="sleeper")
    time.sleep(0.5)
    assert containerd.cri.stats(sleeper).attributes.id == sleeper.id
    assert containerd.cri.stats(sleeper).memory.usage_bytes.value > 0
    assert containerd.cri.stats(sleeper).cpu.usage_core_nano_seconds.value < 100_000_000
    containerd.cri.wait_exit(spinner)
    containerd.cri.remove_pod(pod)


def test_groups_come_and_go_with_their_sandbox(node: tuple[Containerd, Daemon, str]) -> None:
    containerd, daemon, image = node
    before = groups(daemon)
    pod = containerd.cri.run_pod("groups")
    container = containerd.cri.run(pod, image, command=["/sleep.wasm", "forever"])
    (made,) = groups(daemon) - before
    assert made == joined("k8s.io", pod.id)
    deadline = time.monotonic() + PATIENCE
    while not root(daemon).child(made).child(container.id).threads() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert len(root(daemon).child(made).child(container.id).threads()) == 1
    containerd.cri.remove_pod(pod)
    assert groups(daemon) == before


def test_limits_that_the_kernel_refuses_fail_the_create_with_words(node: tuple[Containerd, Daemon, str]) -> None:
    import grpc

    containerd, _, image = node
    pod = containerd.cri.run_pod("refused")
    container = containerd.cri.create(pod, image, resources={"cpuset_cpus": "700-800"})
    with pytest.raises(grpc.RpcError, match="the kernel refuses the limits of container"):
        containerd.cri.start(container)
    containerd.cri.remove_pod(pod)


@pytest.mark.parametrize(("held", "grown"), [("thread", "thread"), ("thread", "process"), ("process", "thread")])
def test_a_pod_shares_a_pool_and_whoever_dies_of_it_was_oomkilled(
    node: tuple[Containerd, Daemon, str], held: str, grown: str
) -> None:
    containerd, _, image = node
    pod = containerd.cri.run_pod(f"pool-{held}-{grown}", resources={"memory_limit_in_bytes": 64 << 20})
    own = {"memory_limit_in_bytes": 48 << 20}
    hogs = [
        containerd.cri.run(
            pod,
            image,
            command=["/memhog.wasm", "24", "8", "hold"],
            resources=own,
            name=f"hog{number}",
            annotations={ISOLATION: held},
        )
        for number in range(2)
    ]
    for hog in hogs:
        containerd.cri.wait_output(hog, b"24 MiB")
    greedy = containerd.cri.run(
        pod, image, command=["/memhog.wasm", "40", "4", "abort"], resources=own, name="greedy",
        annotations={ISOLATION: grown},
    )  # fmt: skip
    end = containerd.cri.wait_exit(greedy)
    assert (end.exit_code, end.reason) == (137, "OOMKilled")
    assert b"refused at 12 MiB" in containerd.cri.output(greedy)
    assert b"out of memory: more than" in containerd.cri.output(greedy, "stderr")
    assert [containerd.cri.state(hog) for hog in hogs] == ["CONTAINER_RUNNING"] * 2
    polite = containerd.cri.run(
        pod, image, command=["/memhog.wasm", "40", "4"], resources=own, name="polite", annotations={ISOLATION: grown}
    )
    end = containerd.cri.wait_exit(polite)
    assert (end.exit_code, end.reason) == (3, "Error")  # it handled the refusal
    containerd.cri.remove_pod(pod)


def test_memory_limits_change_while_the_guest_runs(node: tuple[Containerd, Daemon, str]) -> None:
    containerd, _, image = node
    pod = containerd.cri.run_pod("resize")
    resources = {"memory_limit_in_bytes": 8 << 20}
    grower = containerd.cri.run(pod, image, command=["/sleep.wasm", "forever"], resources=resources)
    refused = containerd.cri.exec_sync(grower, ["/memhog.wasm", "16", "2"])
    assert (refused.exit_code, refused.stdout.splitlines()[-1]) == (3, b"refused at 6 MiB")
    containerd.cri.update(grower, memory_limit_in_bytes=32 << 20)
    assert containerd.cri.exec_sync(grower, ["/memhog.wasm", "16", "2"]).exit_code == 0
    containerd.cri.remove_pod(pod)
