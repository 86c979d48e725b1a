"""Guests in processes through CRI: components that serve, kernel's memory limits, pods of both kinds."""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from testing.cri import Container, Cri, ExecResult, Pod
from tests.support.node import IMAGE, Node
from tests.support.proc import children, gone
from wasm_sandboxer.linux.cgroup.host import find_hierarchies
from wasm_sandboxer.linux.namespace import CLONE_NEWNET, set_namespace

pytestmark = pytest.mark.xdist_group("containerd")

ISOLATION = "wasm-sandboxer.io/isolation"
IN_PROCESS = {ISOLATION: "process"}


def pid_of(node: Node, container: Container) -> int:
    return int(node.cri.info(container)["pid"])


def ask(port: int, *, address: str = "127.0.0.1", netns: str = "") -> bytes:
    """What a server says, asked from this network namespace or from the one at a path."""
    said: list[bytes] = []

    def connect() -> None:
        if netns:
            fd = os.open(netns, os.O_RDONLY)
            set_namespace(fd, CLONE_NEWNET)  # of this thread, which ends soon
            os.close(fd)
        with suppress(OSError), socket.create_connection((address, port), timeout=10) as connection:
            said.append(connection.recv(100))

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    return said[0] if said else b""


@pytest.fixture
def server(cri: Cri, pod: Pod, run: Callable[..., Container]) -> Container:
    """A component that serves on port 7000, once it does."""
    container = run("/tcp-server.wasm", "7000")
    cri.wait_output(container, b"listening on port 7000")
    return container


def test_a_component_serves_in_its_pod_and_nowhere_else(node: Node, pod: Pod, server: Container, cri: Cri) -> None:
    netns = f"/proc/{pid_of(node, server)}/ns/net"
    address = cri.pod_status(pod).network.ip
    subprocess.run(["nsenter", f"--net={netns}", "ip", "address", "add", f"{address}/16", "dev", "lo"], check=True)
    for number in range(1, 21):
        assert ask(7000, address=address, netns=netns) == b"hello %d\n" % number
    assert ask(7000) == b""
    assert ask(7000, address=address) == b""


def test_a_component_of_a_pod_with_the_hosts_network_serves_there(cri: Cri) -> None:
    pod = cri.run_pod(host_network=True)
    container = cri.run(pod, IMAGE, command=["/tcp-server.wasm"], args=["0"])
    said = cri.wait_output(container, b"listening on port ")
    assert ask(int(said.split()[-1])) == b"hello 1\n"


def test_port_forward_reaches_a_component(cri: Cri, pod: Pod, server: Container) -> None:
    with cri.port_forward(pod, 7000) as forward:
        assert forward.read_until(b"\n") == b"hello 1\n"


def test_a_component_that_waits_for_a_connection_is_killed_at_once(node: Node, cri: Cri, server: Container) -> None:
    pid = pid_of(node, server)
    cri.stop(server, grace=10)
    assert cri.wait_exit(server).exit_code == 143
    assert gone(pid)


def test_a_component_and_a_core_module_in_one_pod_and_execs_into_both(
    node: Node, cri: Cri, run: Callable[..., Container], server: Container
) -> None:
    sleeper = run("/sleep.wasm", "forever")
    daemon = node.daemon.pid
    assert Path(f"/proc/{daemon}/task/{pid_of(node, sleeper)}").exists()
    assert not Path(f"/proc/{daemon}/task/{pid_of(node, server)}").exists()
    for container in (sleeper, server):
        for command, said in (
            (["/hello.wasm"], b"Hello from WebAssembly!\n"),
            (["/hello-component.wasm", "x"], b"Hello from a component!\nx\n"),
        ):
            result: ExecResult = cri.exec_sync(container, command)
            assert (result.exit_code, result.stdout[: len(said)]) == (0, said)
    assert ask(7000, netns=f"/proc/{pid_of(node, server)}/ns/net") == b"hello 1\n"


def test_an_annotation_of_the_pod_is_for_all_its_containers(node: Node, cri: Cri) -> None:
    pod = cri.run_pod(annotations=IN_PROCESS)
    container = cri.run(pod, IMAGE, command=["/sleep.wasm", "forever"])
    assert not Path(f"/proc/{node.daemon.pid}/task/{pid_of(node, container)}").exists()
    other = cri.run(pod, IMAGE, name="other", command=["/sleep.wasm", "forever"])
    assert pid_of(node, other) != pid_of(node, container)


def test_a_process_that_the_kernel_kills_for_memory_is_oom_killed(cri: Cri) -> None:
    pod = cri.run_pod(annotations=IN_PROCESS)
    # Its linear memory and tables, of 47.3 MiB or so, may have what the group may, but its process needs some too.
    limited = {"memory_limit_in_bytes": (47 << 20) + (512 << 10)}
    container = cri.run(pod, IMAGE, command=["/memhog.wasm"], args=["47", "1", "hold"], resources=limited)
    status = cri.wait_exit(container)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


def test_a_processs_statistics_are_the_kernels(cri: Cri) -> None:
    pod = cri.run_pod(annotations=IN_PROCESS)
    limited = {"memory_limit_in_bytes": 200 << 20}
    container = cri.run(pod, IMAGE, command=["/memhog.wasm"], args=["100", "1", "hold"], resources=limited)
    cri.wait_output(container, b"100 MiB\n")
    stats = cri.stats(container)
    assert 100 << 20 <= stats.memory.usage_bytes.value < 160 << 20
    assert stats.cpu.usage_core_nano_seconds.value > 10_000_000


def test_a_processs_memory_limit_changes_while_it_runs(cri: Cri) -> None:
    pod = cri.run_pod(annotations=IN_PROCESS)
    limited = {"memory_limit_in_bytes": 200 << 20}
    container = cri.run(pod, IMAGE, command=["/sleep.wasm"], args=["forever"], resources=limited)
    cri.update(container, memory_limit_in_bytes=100 << 20)
    assert limit_of(cri, container) == 100 << 20


def limit_of(cri: Cri, container: Container) -> int:
    """What the kernel says of the container's group."""
    found = find_hierarchies()
    assert found is not None
    path = cri.info(container)["runtimeSpec"]["linux"]["cgroupsPath"].lstrip("/")
    if found.unified is not None:
        return int((found.unified / path / "memory.max").read_text())
    return int((found.v1["memory"] / path / "memory.limit_in_bytes").read_text())


def test_a_process_is_the_user_of_its_security_context(node: Node, cri: Cri, pod: Pod) -> None:
    security = {"run_as_user": {"value": 1000}, "supplemental_groups": [7]}
    container = cri.run(pod, IMAGE, command=["/sleep-component.wasm"], security=security)
    status = Path(f"/proc/{pid_of(node, container)}/status").read_text()
    assert "Uid:\t1000\t1000\t1000\t1000\n" in status
    assert "NoNewPrivs:\t1\n" in status


def test_a_component_of_an_ordinary_user_binds_port_80_in_its_pod(node: Node, cri: Cri, pod: Pod) -> None:
    """As a container of runc may: containerd's enable_unprivileged_ports, which is on."""
    security = {"run_as_user": {"value": 1000}}
    container = cri.run(pod, IMAGE, command=["/tcp-server.wasm"], args=["80"], security=security)
    cri.wait_output(container, b"listening on port 80")
    pid = pid_of(node, container)
    assert "Uid:\t1000\t1000\t1000\t1000\n" in Path(f"/proc/{pid}/status").read_text()
    assert ask(80, netns=f"/proc/{pid}/ns/net") == b"hello 1\n"


def test_a_pods_sysctls_hold_for_its_components(
    cri: Cri, output: Callable[..., tuple[int, str]], fails: Callable[..., str]
) -> None:
    pod = cri.run_pod(sysctls={"net.ipv4.ip_unprivileged_port_start": "90", "kernel.shm_rmid_forced": "1"})
    security = {"run_as_user": {"value": 1000}}
    container = cri.run(pod, IMAGE, command=["/tcp-server.wasm"], args=["89"], security=security)
    code, _ = output(container)
    assert code
    container = cri.run(pod, IMAGE, name="second", command=["/tcp-server.wasm"], args=["90"], security=security)
    cri.wait_output(container, b"listening on port 90")
    known = len(cri.pods())
    assert "sysctl 'vm.swappiness' is the host's" in fails(cri.run_pod, "bad", sysctls={"vm.swappiness": "1"})
    assert len(cri.pods()) == known


def test_a_process_has_the_runtimes_own_filter_of_system_calls(node: Node, cri: Cri, pod: Pod) -> None:
    default = {"seccomp": {"profile_type": "RuntimeDefault"}}
    container = cri.run(pod, IMAGE, command=["/tcp-server.wasm"], args=["7001"], security=default)
    cri.wait_output(container, b"listening on port 7001")
    pid = pid_of(node, container)
    assert "Seccomp:\t2\n" in Path(f"/proc/{pid}/status").read_text()
    assert ask(7001, netns=f"/proc/{pid}/ns/net") == b"hello 1\n"


def test_a_fork_server_that_dies_is_replaced_and_its_pods_restart(node: Node, cri: Cri, pod: Pod) -> None:
    container = cri.run(pod, IMAGE, command=["/sleep-component.wasm"])
    (server,) = [
        each for each in children(node.daemon.pid) if "forkserver" in Path(f"/proc/{each}/cmdline").read_text()
    ]
    os.kill(server, signal.SIGKILL)
    assert cri.wait_exit(container).exit_code == 137
    again = cri.run(pod, IMAGE, name="again", command=["/hello-component.wasm"])
    assert cri.wait_exit(again).exit_code == 0
