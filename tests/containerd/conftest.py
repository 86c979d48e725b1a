"""Fixtures of the tests with a real containerd: a daemon of ours, a containerd that it serves, images, pods."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from testing.containerd import log_sections
from testing.cri import Container, Cri, Pod
from tests.support.node import IMAGE, Node, new_node


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[Any]:
    """Show the end of containerd's log and the daemon's with a failure."""
    report = yield
    if report.failed:
        report.sections += log_sections()
        nodes = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Node)]
        report.sections += [("the daemon's log ends:", node.daemon.log[-6000:]) for node in nodes]
    return report


@pytest.fixture(scope="package")
def shared_node(store_root: Path) -> Iterator[Node]:
    """One for all tests that leave it as it was."""
    with new_node(store_root) as made:
        yield made


@pytest.fixture
def node(shared_node: Node) -> Iterator[Node]:
    """That one; afterwards no container of the test's is mounted any more."""
    yield shared_node
    for pod in shared_node.cri.pods():
        shared_node.cri.runtime.StopPodSandbox(pod_sandbox_id=pod.id)
        shared_node.cri.runtime.RemovePodSandbox(pod_sandbox_id=pod.id)
    assert shared_node.task_mounts() == []
    assert shared_node.daemon.records() == []


@pytest.fixture(scope="module")
def rough_node(store_root: Path) -> Iterator[Node]:
    """One to each module, for tests that kill and restart."""
    with new_node(store_root) as made:
        yield made


@pytest.fixture
def cri(node: Node) -> Cri:
    return node.cri


@pytest.fixture
def pod(cri: Cri) -> Pod:
    return cri.run_pod()


@pytest.fixture
def run(cri: Cri, pod: Pod) -> Callable[..., Container]:
    """Creates and starts a container: `run("/exit.wasm", "7")`."""
    count = 0

    def start(*command: str, image: str = IMAGE, **settings: Any) -> Container:
        nonlocal count
        count += 1
        settings.setdefault("name", f"c{count}")
        return cri.run(pod, image, command=command[:1], args=command[1:], **settings)

    return start


@pytest.fixture
def output(cri: Cri) -> Callable[..., tuple[int, str]]:
    """Waits for a container's end: its exit code and what it wrote to stdout, or to both with `both`."""

    def end(container: Container, *, both: bool = False) -> tuple[int, str]:
        code = cri.wait_exit(container).exit_code
        text = cri.output(container) + (cri.output(container, "stderr") if both else b"")
        return code, text.decode(errors="replace")

    return end


@pytest.fixture
def fails() -> Callable[..., str]:
    """Calls CRI, and gives the message of the error that must come."""

    def call(method: Callable[..., Any], *arguments: Any, **settings: Any) -> str:
        with pytest.raises(grpc.RpcError) as caught:
            method(*arguments, **settings)
        return str(caught.value.details())

    return call
