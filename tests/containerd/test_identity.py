"""Who a pod is and whom it asks, through the real containerd: hostname, hosts, resolv.conf, port-forward."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from testing import oci
from testing.streaming import StreamError, Wire
from tests.support.node import IMAGE, eventually, guests

pytestmark = pytest.mark.xdist_group("containerd")
DNS = {
    "servers": ["10.96.0.10", "fd00::10"],
    "searches": ["default.svc.cluster.local", "local"],
    "options": ["ndots:5"],
}
RESOLV_CONF = """nameserver 10.96.0.10
nameserver fd00::10
search default.svc.cluster.local local
options ndots:5
"""
# Listens where it runs; answers each line.
SERVER = """
import socket
server = socket.create_server(("127.0.0.1", 7000))
print("listening", flush=True)
while True:
    peer, _ = server.accept()
    with peer, peer.makefile("rb") as lines:
        for line in lines:
            peer.sendall(b"got " + line)
"""


@pytest.fixture
def read(cri):
    """What a guest in a pod reads from a file: `read(pod, "/etc/hosts")`."""
    count = 0

    def run(pod, path, *, image=IMAGE, **settings):
        nonlocal count
        count += 1
        container = cri.run(pod, image, name=f"r{count}", command=["/cat.wasm"], args=[path], **settings)
        assert cri.wait_exit(container).exit_code == 0, cri.output(container, "stderr")
        return cri.output(container).decode()

    return run


def address_of(cri, pod):
    return cri.pod_status(pod).network.ip


def test_a_guest_reads_who_its_pod_is(cri, read):
    pod = cri.run_pod("named", hostname="web-0", dns=DNS)
    assert read(pod, "/etc/hostname") == "web-0\n"
    assert read(pod, "/etc/resolv.conf") == RESOLV_CONF
    lines = [line.split() for line in read(pod, "/etc/hosts").splitlines()]
    assert ["127.0.0.1", "localhost"] in lines
    assert [address_of(cri, pod), "web-0"] in lines


def test_a_pod_without_dns_of_its_own_has_the_hosts(cri, read):
    pod = cri.run_pod("plain")
    assert read(pod, "/etc/resolv.conf") == Path("/etc/resolv.conf").read_text()


def test_a_pod_that_asks_nobody_has_an_empty_file(cri, read):
    assert read(cri.run_pod("alone", dns={}), "/etc/resolv.conf") == ""


def test_a_pod_on_the_hosts_network_has_the_hosts_names(cri, read):
    pod = cri.run_pod("host", host_network=True)
    assert read(pod, "/etc/hosts") == Path("/etc/hosts").read_text()
    assert read(pod, "/etc/hostname") == f"{os.uname().nodename}\n"


def test_what_the_spec_brings_goes_before(cri, read, tmp_path):
    from testing.cri import Mount

    (tmp_path / "hosts").write_text("10.1.2.3 own\n")
    pod = cri.run_pod("own", hostname="web-0")
    given = [Mount(source=tmp_path / "hosts", target="/etc/hosts")]
    assert read(pod, "/etc/hosts", mounts=given) == "10.1.2.3 own\n"
    assert read(pod, "/etc/hostname", mounts=given) == "web-0\n"


def test_a_volume_at_etc_hides_them_and_stays_as_it_was(cri, read, tmp_path):
    from testing.cri import Mount

    (tmp_path / "passwd").write_text("root\n")
    pod = cri.run_pod("volume")
    assert read(pod, "/etc/passwd", mounts=[Mount(source=tmp_path, target="/etc")]) == "root\n"
    assert [path.name for path in tmp_path.iterdir()] == ["passwd"]


def test_no_guest_may_write_them(cri, read):
    pod = cri.run_pod("written", hostname="web-0")
    writer = cri.run(pod, IMAGE, command=["/files.wasm"], args=["write", "/etc/hosts", "6.6.6.6 bank"])
    assert cri.wait_exit(writer).exit_code != 0
    assert "6.6.6.6" not in read(pod, "/etc/hosts")


def test_an_image_with_a_folder_in_their_place_runs_all_the_same(node, cri, read):
    odd = node.image(guests() | {"etc/hosts/file": "x", "etc/resolv.conf": oci.Symlink("/etc/resolv.conf")})
    pod = cri.run_pod("odd", hostname="web-0")
    assert read(pod, "/etc/hosts/file", image=odd) == "x"


def test_a_link_in_the_image_leads_nowhere_outside(node, cri, read):
    """What systemd's images have: a link to a file that only exists at run time."""
    linked = node.image(guests() | {"etc/resolv.conf": oci.Symlink("../run/systemd/resolve/stub-resolv.conf")})
    pod = cri.run_pod("linked", dns=DNS)
    assert read(pod, "/etc/resolv.conf", image=linked) == RESOLV_CONF
    assert not Path("/run/systemd/resolve").exists() or "10.96.0.10" not in Path("/etc/resolv.conf").read_text()


def test_they_are_gone_with_the_sandbox(node, cri):
    pod = cri.run_pod("gone")
    folder = node.daemon.state / "sandboxes" / "k8s.io" / pod.id
    assert sorted(path.name for path in folder.iterdir()) == ["hostname", "hosts", "resolv.conf"]
    cri.discard(pod)
    assert not folder.exists()


def test_they_outlive_the_daemon(rough_node, tmp_path):
    cri, daemon = rough_node.cri, rough_node.daemon
    pod = cri.run_pod("lasting", hostname="web-0", dns=DNS)
    folder = daemon.state / "sandboxes" / "k8s.io"
    (folder / "nobodys").mkdir()
    daemon.kill()
    (folder / pod.id / "hosts").unlink()
    daemon.start()
    assert [path.name for path in folder.iterdir()] == [pod.id]
    for path, content in (("/etc/resolv.conf", RESOLV_CONF), ("/etc/hostname", "web-0\n")):
        name = path[5:].replace(".", "-")
        container = eventually(lambda n=name, p=path: cri.run(pod, IMAGE, name=n, command=["/cat.wasm"], args=[p]))
        assert cri.wait_exit(container).exit_code == 0
        assert cri.output(container).decode() == content
    assert "web-0" in (folder / pod.id / "hosts").read_text()
    cri.discard(pod)


# ---- port-forward: containerd enters the pod's network namespace by itself ----


@pytest.fixture
def listening(node, cri):
    """A pod with something that listens on port 7000 in its network namespace."""
    pod = cri.run_pod("served")
    record = json.loads((node.daemon.state / "records" / "sandboxes" / "k8s.io" / f"{pod.id}.json").read_text())
    command = ["nsenter", f"--net={record['netns_path']}", sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            server.stdout.readline()
            yield pod
        finally:
            server.kill()


@pytest.mark.parametrize("wire", list(Wire))
def test_port_forward_reaches_what_listens_in_the_pods_network(cri, listening, wire):
    for _ in range(2):
        with cri.port_forward(listening, 7000, wire=wire) as forward:
            forward.send(b"word\n")
            assert forward.read_until(b"\n") == b"got word\n"


@pytest.mark.parametrize("wire", list(Wire))
def test_port_forward_does_not_reach_into_another_pod(cri, listening, wire):
    other = cri.run_pod("other")
    with cri.port_forward(other, 7000, wire=wire) as forward, pytest.raises(StreamError, match="7000"):
        forward.wait()
