"""A pod's sysctls at the daemon's socket, with a real network namespace: set, kept, refused. No containerd."""

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.rpc import Client, controller
from wasm_sandboxer.api import cri_pb2, typeurl
from wasm_sandboxer.core import sysctls
from wasm_sandboxer.core.sandbox import SandboxRecord
from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode

PORTS = "net.ipv4.ip_unprivileged_port_start"
PINGS = "net.ipv4.ping_group_range"
KERNELS_OWN = {PORTS: "1024", PINGS: "1 0"}
DEFAULTS = {PORTS: "0", PINGS: "0 2147483647"}
THE_DAEMONS = "/proc/self/ns/net"


def read(netns: Path, *names: str) -> dict[str, str]:
    """What holds in a network namespace; by the kernel's own paths, or with dots."""
    paths = [f"/proc/sys/{name if '/' in name else name.replace('.', '/')}" for name in names]
    told = subprocess.run(["nsenter", f"--net={netns}", "cat", *paths], capture_output=True, text=True, check=True)
    values = (" ".join(line.split()) for line in told.stdout.splitlines())
    return dict(zip(names, values, strict=True))


def of_the_pod(asked: dict[str, str]) -> dict[str, Any]:
    """The field of Controller.Create by which containerd hands them over."""
    return {"options": typeurl.pack(cri_pb2.PodSandboxConfig(linux=cri_pb2.LinuxPodSandboxConfig(sysctls=asked)))}


@pytest.fixture
def pod(sandboxes: Client, ident: str):
    """Makes a sandbox with these sysctls and starts it; gone afterwards."""

    def start(netns: Path | str, asked: dict[str, str] | None = None) -> str:
        sandboxes.Create(sandbox_id=ident, netns_path=str(netns), **of_the_pod(asked or {}))
        sandboxes.Start(sandbox_id=ident)
        return ident

    yield start
    with suppress(RpcError):  # it could not start
        sandboxes.Shutdown(sandbox_id=ident)


def test_a_pod_with_a_network_of_its_own_has_what_containerd_gives_every_pod(pod, netns):
    assert read(netns, PORTS, PINGS) == KERNELS_OWN
    pod(netns)
    assert read(netns, PORTS, PINGS) == DEFAULTS


def test_what_a_pod_asks_for_goes_before_that(pod, netns):
    asked = {PORTS: "80", "net/ipv4/ping_group_range": "7 8", "net.ipv4.ip_local_port_range": "2000 3000"}
    pod(netns, asked)
    assert read(netns, PORTS, PINGS, "net.ipv4.ip_local_port_range") == {
        PORTS: "80",
        PINGS: "7 8",
        "net.ipv4.ip_local_port_range": "2000 3000",
    }


@pytest.mark.parametrize("name", ["net.ipv4.conf.eth0/7.forwarding", "net/ipv4/conf/eth0.7/forwarding"])
def test_an_interface_may_have_a_dot_in_its_name(pod, netns, name):
    subprocess.run(["ip", "-n", netns.name, "link", "set", "lo", "name", "eth0.7"], check=True)
    path = "net/ipv4/conf/eth0.7/forwarding"
    assert read(netns, path) == {path: "0"}
    pod(netns, {name: "1"})
    assert read(netns, path) == {path: "1"}


def test_the_hosts_own_are_left_alone(pod, netns):
    before = {name: Path("/proc/sys", name.replace(".", "/")).read_text() for name in (PORTS, PINGS)}
    pod(netns, {PORTS: "81"})
    assert {name: Path("/proc/sys", name.replace(".", "/")).read_text() for name in (PORTS, PINGS)} == before


def test_sysctls_of_ipc_are_passed_over(pod, netns, daemon):
    before = Path("/proc/sys/kernel/shm_rmid_forced").read_text()
    ident = pod(netns, {"kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "20", "kernel/sem": "1 2 3 4"})
    assert Path("/proc/sys/kernel/shm_rmid_forced").read_text() == before
    for name in ("kernel.shm_rmid_forced", "fs.mqueue.msg_max", "kernel/sem"):
        assert f"sandbox {ident}: sysctl {name} is passed over" in daemon.log


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vm.swappiness", "no pod has its own"),
        ("kernel.hostname", "no pod has its own"),
        ("kernel.shm_next_id", "no pod has its own"),
        ("network.x", "no pod has its own"),
        ("net", "no pod has its own"),
        ("", "is no name of a sysctl"),
        ("net..x", "is no name of a sysctl"),
        ("net/../kernel/hostname", "is no name of a sysctl"),
        ("net.//.kernel.hostname", "is no name of a sysctl"),
        ("/proc/sys/net/ipv4/ip_forward", "is no name of a sysctl"),
        ("net.ipv4.x\n", "is no name of a sysctl"),
        ("net.ipv4.x\0", "is no name of a sysctl"),
    ],
)
def test_what_is_not_the_pods_own_is_refused_before_anything_is_set(pod, netns, refused, name, said):
    message = refused(StatusCode.INVALID_ARGUMENT, pod, netns=netns, asked={PORTS: "80", name: "1"})
    assert said in message
    assert repr(name) in message
    assert read(netns, PORTS, PINGS) == KERNELS_OWN


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (PORTS, "many", "Invalid argument"),
        (PORTS, "70000", "Invalid argument"),
        ("net.ipv4.no_such_thing", "1", "No such file or directory"),
        ("net.ipv4", "1", "Is a directory"),
        ("net.ipv4.route", "1", "Is a directory"),
    ],
)
def test_what_the_kernel_refuses_fails_the_start_and_leaves_nothing(
    pod, netns, sandboxes, daemon, ident, refused, name, value, reason
):
    message = refused(StatusCode.INVALID_ARGUMENT, pod, netns=netns, asked={name: value})
    assert message == f"sandbox {ident}: sysctl {name!r} cannot be set to {value!r}: {reason}"
    refused(StatusCode.NOT_FOUND, sandboxes.Status, sandbox_id=ident)
    assert daemon.records() == []
    assert not [group for group in daemon.groups() if ident in group.name]
    assert not (daemon.state / "sandboxes" / "test" / ident).exists()
    pod(netns, {PORTS: "80"})


@pytest.mark.parametrize("network", ["", THE_DAEMONS])
def test_the_hosts_network_is_nobodys_to_set(pod, sandboxes, ident, refused, network):
    before = Path("/proc/sys/net/ipv4/ping_group_range").read_text()
    message = refused(StatusCode.INVALID_ARGUMENT, pod, netns=network, asked={PINGS: "7 8"})
    assert message == f"sandbox {ident}: sysctl {PINGS!r} cannot be set: the pod has the host's network"
    pod(network, {"kernel.shmmax": "1"})
    assert Path("/proc/sys/net/ipv4/ping_group_range").read_text() == before


@pytest.mark.parametrize("path", ["/run/netns/nobodys", "/proc/self/ns/uts"])
def test_a_network_that_cannot_be_entered_fails_those_that_ask_for_sysctls(pod, daemon, ident, path):
    with pytest.raises(RpcError, match=f"sandbox {ident}: cannot enter its network namespace {path}: "):
        pod(path, {PORTS: "80"})
    pod(path)
    assert f"sandbox {ident}: cannot enter its network namespace {path}" in daemon.log


def test_a_default_that_the_kernel_does_not_know_is_passed_over(netns, monkeypatch, superuser):
    monkeypatch.setattr(
        sysctls, "_DEFAULTS", {"net/ipv4/no_such_thing": "1", "net/ipv4/ip_unprivileged_port_start": "0"}
    )
    own = os.stat(THE_DAEMONS).st_ino  # noqa: PTH116
    sysctls.set_sysctls(SandboxRecord(namespace="test", id="a", netns_path=str(netns)))
    assert read(netns, PORTS) == {PORTS: "0"}
    assert os.stat("/proc/thread-self/ns/net").st_ino == own  # noqa: PTH116


def test_a_pod_that_has_started_keeps_its_sysctls_whatever_comes(own_daemon: Callable[..., Daemon], netns, superuser):
    daemon = own_daemon()
    daemon.start()
    with controller(daemon.listen) as client:
        client.Create(sandbox_id="kept", netns_path=str(netns), **of_the_pod({PORTS: "80"}))
        client.Start(sandbox_id="kept")
        subprocess.run(["nsenter", f"--net={netns}", "sysctl", "-qw", f"{PORTS}=90"], check=True)
        client.Start(sandbox_id="kept")
        assert read(netns, PORTS) == {PORTS: "90"}
    daemon.kill()
    daemon.start()
    with controller(daemon.listen) as client:
        assert client.Status(sandbox_id="kept").state == "SANDBOX_READY"
        assert read(netns, PORTS, PINGS) == {PORTS: "90", PINGS: DEFAULTS[PINGS]}
        client.Shutdown(sandbox_id="kept")
