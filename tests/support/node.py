"""A node: a containerd, the daemon of ours that it hands its pods to, and images of guests."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from testing import oci
from testing.containerd import SANDBOXER, Containerd
from testing.cri import Cri
from tests.support.cli import EXAMPLES
from tests.support.daemon import Daemon, mounts
from tests.support.modules import binary
from tests.support.wat import BURST, COUNTER, STUCK_START, TERMINALS, TICKER

SHIM = Path(__file__).parents[2] / "data" / "bin" / "containerd-shim-wasm-sandboxer-v1"
IMAGE = "localhost/guests:1"
T = TypeVar("T")


class Node:
    """A daemon of ours and the containerd that it serves."""

    def __init__(self, folder: Path, store: Path, *, wasmedge: Path | None = None, **settings: Any) -> None:
        environment = {"WASM_SANDBOXER_TASK_SOCKET": str(folder / "t.sock")}
        self.folder = folder
        self.containerd = Containerd(
            {SANDBOXER: folder / "s.sock"},
            path=[SHIM.parent],
            environment=environment,
            log=folder / "cd.log",
            **settings,
        )
        variables = {"WASMEDGE": str(wasmedge)} if wasmedge is not None else {}
        self.daemon = Daemon(folder, store, containerd=self.containerd.address, environment=variables)
        self.cri: Cri = self.containerd.cri
        self.ctr = self.containerd.ctr
        self._images = 0

    def image(self, *layers: oci.Layer, **settings: Any) -> str:
        """Build an image of these layers and bring it in; its name."""
        self._images += 1
        name = f"localhost/test{self._images}:1"
        archive = self.folder / f"image{self._images}.tar"
        return self.containerd.import_image(oci.build(archive, name, list(layers), **settings)).reference

    def task_mounts(self) -> list[str]:
        """What is mounted for containers."""
        return [point for point in mounts(self.containerd.folder) if "io.containerd.runtime" in point]


def guests() -> dict[str, oci.Entry]:
    """A layer of all examples, as NAME.wasm, and of the modules that the tests make."""
    layer: dict[str, oci.Entry] = {path.name: path.read_bytes() for path in EXAMPLES.glob("*.wasm")}
    made = {"ticker": TICKER, "terminals": TERMINALS, "counter": COUNTER, "burst": BURST, "stuck": STUCK_START}
    layer.update({f"{name}.wasm": binary(text) for name, text in made.items()})
    return layer


@contextmanager
def new_node(store: Path, **settings: Any) -> Iterator[Node]:
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: containerd needs root")
    folder = Path(tempfile.mkdtemp(prefix="wsc-", dir="/tmp"))
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder)
        made = Node(folder, store, **settings)
        undo.callback(made.daemon.close)
        undo.enter_context(made.containerd)
        made.daemon.start()
        image = oci.build(folder / "guests.tar", IMAGE, [guests()], entrypoint=["/hello.wasm"])
        made.containerd.import_image(image)
        yield made


def eventually(call: Callable[..., T], *arguments: Any, seconds: float = 20) -> T:
    """Calls until CRI does not fail: for up to three seconds containerd does not dial anew where nobody listened."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call(*arguments)
        except grpc.RpcError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
