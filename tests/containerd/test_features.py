"""What containerd knows a handler can do: it runs the shim with -info, and the kubelet goes by what CRI then says."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.containerd import Handler
from testing.cri import Mount
from tests.support.daemon import mounts
from tests.support.node import IMAGE, SHIM, Node, new_node

ISOLATION = "wasm-sandboxer.io/isolation"
BY_PATH = Handler(name="by-path", runtime_type="io.containerd.runc.v2", runtime_path=SHIM)
"""How a containerd that asks runc's type alone is made to ask our shim; nothing to use on a node."""


@pytest.fixture(scope="module")
def node(store_root: Path) -> Iterator[Node]:
    with new_node(store_root, handlers=[Handler(), BY_PATH]) as made:
        yield made


@pytest.fixture
def handler(node: Node) -> str:
    """One whose features this containerd asks for: of any type since 2.2.7 and 2.3.4, before of runc's alone."""
    version = node.containerd.binaries.version
    return "wasm" if version >= (2, 3, 4) or (2, 2, 7) <= version < (2, 3) else BY_PATH.name


def test_cri_says_that_read_only_mounts_may_be_recursive_and_users_not_mapped(node: Node, handler: str) -> None:
    features = node.cri.handlers()[handler]
    assert features.recursive_read_only_mounts
    assert not features.user_namespaces


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_what_is_mounted_in_a_recursively_read_only_volume_cannot_be_written(
    node: Node, handler: str, isolation: str, tmp_path: Path
) -> None:
    (tmp_path / "inner").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "inner"], check=True)
    pod = node.cri.run_pod(handler=handler, annotations={ISOLATION: isolation})
    try:
        (tmp_path / "inner" / "given").write_text("as it was")
        for name, recursive, code in (("recursive", True, 1), ("plain", False, 0)):
            volume = Mount(source=tmp_path, target="/data", readonly=recursive, recursive=recursive)
            words = ["write", "/data/inner/given", name]
            container = node.cri.run(pod, IMAGE, name=name, command=["/files.wasm"], args=words, mounts=[volume])
            assert node.cri.wait_exit(container).exit_code == code, node.cri.output(container, "stderr")
            assert (tmp_path / "inner" / "given").read_text() == ("as it was" if recursive else name)
    finally:
        node.cri.discard(pod)
        subprocess.run(["umount", tmp_path / "inner"], check=True)
    assert mounts(tmp_path) == []
