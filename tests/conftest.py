"""What all tests share: one module store for the session, the real command line, guests in this process."""

import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testing import fetch
from tests.support.cli import Cli
from tests.support.guests import Guests, new_engine
from tests.support.modules import binary
from wasm_sandboxer.engine.wasmtime.engine import WasmtimeEngine


def pytest_configure() -> None:
    """Signals do what they do by default, also where a shell's & or nohup had them ignored: tests send them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def store_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One module store for all workers of the session, so that each example is compiled once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "module-store"


@pytest.fixture
def cli(store_root: Path, tmp_path: Path) -> Iterator[Cli]:
    """The program `wasm-sandboxer` over the session's store; what a test leaves running is killed."""
    with ExitStack() as undo:
        yield Cli(store_root, tmp_path, undo)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Cli]:
    """The program over an empty store of this test's own."""
    with ExitStack() as undo:
        yield Cli(tmp_path / "store", tmp_path, undo)


@pytest.fixture(scope="session")
def wasmedge() -> Path:
    """A real WasmEdge."""
    return fetch.wasmedge()


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skips where the host gives this user none, as containers do, and hardened kernels."""
    if os.geteuid() == 0:
        return
    tried = subprocess.run(["unshare", "--user", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"NOT RUN: this host lets no ordinary user have namespaces ({tried.stderr.strip()})")


@pytest.fixture
def edge(store_root: Path, tmp_path: Path, wasmedge: Path, namespaces: None) -> Iterator[Cli]:
    """The program, with a WasmEdge to use."""
    with ExitStack() as undo:
        yield Cli(store_root, tmp_path, undo, {"WASMEDGE": str(wasmedge)})


@pytest.fixture(scope="session")
def engine(store_root: Path) -> WasmtimeEngine:
    """An engine in this process."""
    return new_engine(store_root)


@pytest.fixture
def guests(engine: WasmtimeEngine) -> Iterator[Guests]:
    """Containers in this process; the descriptors that a test makes for them are closed."""
    with ExitStack() as undo:
        yield Guests(engine, undo)


@pytest.fixture
def wat(tmp_path: Path) -> Callable[..., Path]:
    """A module from its text, as a file of this test's own."""

    def make(text: str, name: str = "module.wasm") -> Path:
        path = tmp_path / name
        path.write_bytes(binary(text))
        return path

    return make


@pytest.fixture
def netns() -> Iterator[Path]:
    """A network namespace of this test's own, as the kernel makes them."""
    name = f"wst-{uuid.uuid4()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield Path("/run/netns", name)
    subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def ordinary_user() -> None:
    """Skips the test for root, whom no mode keeps from reading or writing."""
    if os.geteuid() == 0:
        pytest.skip("NOT RUN: root may read and write everything")


@pytest.fixture
def superuser() -> None:
    """Skips the test for those who may not give a file to somebody else."""
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: needs root")
