"""Fixtures of the daemon's tests without containerd: a daemon to each module, bundles made by hand."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import Bundle
from tests.support.daemon import Daemon
from tests.support.rpc import Client, controller
from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """Not pytest's: a socket's path must be shorter than 108 bytes."""
    path = Path(tempfile.mkdtemp(prefix="wsd-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def daemon(short_folder: Path, store_root: Path) -> Iterator[Daemon]:
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: the daemon mounts, which needs root")
    folder = short_folder / "daemon"
    folder.mkdir()
    with Daemon(folder, store_root) as running:
        yield running


@pytest.fixture
def own_daemon(tmp_path: Path, store_root: Path) -> Iterator[Callable[..., Daemon]]:
    """Makes daemons of this test's own, not started; what runs is ended."""
    with ExitStack() as undo:

        def make(*arguments: Any, name: str = "d", **options: Any) -> Daemon:
            folder = Path(tempfile.mkdtemp(prefix=f"wsd-{name}-", dir="/tmp"))
            undo.callback(shutil.rmtree, folder)
            made = Daemon(folder, store_root, arguments=arguments, **options)
            undo.callback(made.wipe, tmp_path)
            return made

        yield make


@pytest.fixture(params=["ttrpc", "grpc"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connect(daemon: Daemon) -> Iterator[Callable[..., Client]]:
    """Makes clients of the Task service."""
    with ExitStack() as undo:

        def make(wire: str = "ttrpc", to: Daemon = daemon, **options: Any) -> Client:
            path = to.task_listen if wire == "ttrpc" else to.listen
            return undo.enter_context(Client(path, wire, **options))

        yield make


@pytest.fixture
def task(connect: Callable[..., Client], wire: str) -> Client:
    """A client of the Task service, over each wire in turn."""
    return connect(wire)


@pytest.fixture
def ttrpc(connect: Callable[..., Client]) -> Client:
    return connect("ttrpc")


@pytest.fixture
def sandboxes(daemon: Daemon) -> Iterator[Client]:
    """A client of the Sandbox Controller."""
    with controller(daemon.listen) as client:
        yield client


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Callable[..., Bundle]]:
    """Makes bundles: `bundle("hello")` runs that example."""
    with ExitStack() as undo:

        def make(module: str = "hello", *arguments: str, name: str = "bundle", **settings: Any) -> Bundle:
            made = Bundle(tmp_path / name)
            undo.callback(made.close)
            made.add(module)
            made.configure(f"/{module}.wasm", *arguments, **settings)
            return made

        yield make


@pytest.fixture
def ident() -> str:
    """An id for a container of this test's own: control groups have it in their names, which all workers share."""
    return f"c{os.getpid()}x{next(_NUMBERS)}"


@pytest.fixture
def refused() -> Callable[..., str]:
    """Calls, and gives the message of the error that must come, with this code."""

    def call(code: StatusCode, method: Callable[..., Any], **fields: Any) -> str:
        with pytest.raises(RpcError) as caught:
            method(**fields)
        assert caught.value.code is code, caught.value
        return caught.value.message

    return call
