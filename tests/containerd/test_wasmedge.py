"""Guests of a real WasmEdge in pods, through the real containerd."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testing.cri import Container, Cri, Pod
from testing.streaming import StreamError
from tests.support.node import IMAGE, Node, new_node

pytestmark = pytest.mark.xdist_group("containerd")
ENGINE = "wasm-sandboxer.io/engine"
PORT = 8080


@pytest.fixture(scope="module")
def shared_node(store_root: Path, wasmedge: Path) -> Iterator[Node]:
    """One whose daemon has a WasmEdge."""
    with new_node(store_root, wasmedge=wasmedge) as made:
        yield made


@pytest.fixture
def server(cri: Cri, pod: Pod, run: Callable[..., Container]) -> Container:
    """A server in the pod's network namespace; nothing but its imports says that it is for WasmEdge."""
    made = run("/socket-server.wasm", str(PORT))
    cri.wait_output(made, b"listening on port 8080\n")
    return made


def hello(cri: Cri, pod: Pod) -> bytes:
    with cri.port_forward(pod, PORT) as forward:
        return forward.read_until(b"\n")


def test_its_sockets_serve_in_the_pods_network(cri: Cri, pod: Pod, server: Container) -> None:
    assert [hello(cri, pod) for _ in range(3)] == [b"hello 1\n", b"hello 2\n", b"hello 3\n"]


def test_its_sockets_are_not_the_hosts_nor_another_pods(cri: Cri, pod: Pod, server: Container) -> None:
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(("127.0.0.1", PORT))
    other = cri.run_pod("other")
    with cri.port_forward(other, PORT) as forward, pytest.raises(StreamError, match=str(PORT)):
        forward.wait()


def test_a_host_network_pods_are_the_hosts(cri: Cri) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pod = cri.run_pod("hosts", host_network=True)
    made = cri.run(pod, IMAGE, command=["/socket-server.wasm"], args=[str(port)])
    cri.wait_output(made, b"listening on port")
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        assert connection.makefile().read() == "hello 1\n"


def test_it_is_stopped_while_it_waits_for_a_connection(cri: Cri, pod: Pod, server: Container) -> None:
    begun = time.monotonic()
    cri.stop(server, grace=20)
    assert time.monotonic() - begun < 10
    assert cri.status(server).exit_code == 143


def test_execs_run_beside_it(cri: Cri, pod: Pod, server: Container) -> None:
    found = cri.exec_sync(server, ["/hello.wasm"])
    assert (found.stdout, found.exit_code) == (b"Hello from WebAssembly!\n", 0)
    second = cri.exec_sync(server, ["/socket-server.wasm", str(PORT)])
    # In the same network: the port is taken.
    assert (second.stdout, second.exit_code) == (b"socket-server: bind: error 3\n", 1)
    assert hello(cri, pod) == b"hello 1\n"


def test_its_statistics_are_the_kernels(cri: Cri, server: Container) -> None:
    stats = cri.stats(server)
    assert stats.memory.working_set_bytes.value > 1 << 20
    assert stats.cpu.usage_core_nano_seconds.value > 1_000_000


def test_an_annotation_of_the_pods_chooses_it(node: Node, cri: Cri) -> None:
    pod = cri.run_pod("chosen", annotations={ENGINE: "wasmedge"})
    made = cri.run(pod, IMAGE, command=["/args.wasm"], args=["one"])
    assert cri.wait_exit(made).exit_code == 0
    assert cri.output(made).startswith(b"argv[0]=args.wasm\nargv[1]=one\n")
    assert "/args.wasm runs on WasmEdge: it is asked for" in node.daemon.log


def test_what_the_kernel_ends_for_memory_is_oom_killed(cri: Cri, run: Callable[..., Container]) -> None:
    made = run("/memhog.wasm", "200", annotations={ENGINE: "wasmedge"}, resources={"memory_limit_in_bytes": 64 << 20})
    status = cri.wait_exit(made)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


def test_a_paused_guest_stands_still(node: Node, cri: Cri, run: Callable[..., Container]) -> None:
    made = run("/spin.wasm", annotations={ENGINE: "wasmedge"})
    node.ctr("tasks", "pause", made.id)
    time.sleep(0.05)
    before = cri.stats(made).cpu.usage_core_nano_seconds.value
    time.sleep(0.3)
    assert cri.stats(made).cpu.usage_core_nano_seconds.value - before < 20_000_000
    node.ctr("tasks", "resume", made.id)
