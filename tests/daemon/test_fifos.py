"""FIFOs among a container's files, whose opening waits for somebody to open the other end. No containerd."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.bundles import Bundle, bind
from tests.support.daemon import Daemon
from tests.support.rpc import Client

ISOLATION = "wasm-sandboxer.io/isolation"


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A folder with a FIFO, a link to it and a file."""
    folder = tmp_path / "volume"
    folder.mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "link").symlink_to("fifo")
    (folder / "file").write_text("in the file")
    return folder


@pytest.mark.parametrize("name", ["fifo", "link"])
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_guest_cannot_open_one(
    ttrpc: Client, bundle: Callable[..., Bundle], ident: str, volume: Path, name: str, isolation: str
) -> None:
    """Nothing could end its wait on a thread, which is one of those that serve all guests' files."""
    made = bundle(
        "files", "read", f"/volume/{name}", mounts=[bind(volume, "/volume")], annotations={ISOLATION: isolation}
    )
    ttrpc.Create(id=ident, bundle=str(made.folder), **made.streams())
    ttrpc.Start(id=ident)
    assert ttrpc.Wait(id=ident).exit_status == 1
    assert b"No such device" in made.read("stderr")
    ttrpc.Delete(id=ident)


def test_guests_that_try_to_open_many_keep_no_other_from_its_files(
    ttrpc: Client, bundle: Callable[..., Bundle], ident: str, volume: Path, daemon: Daemon
) -> None:
    before = len(daemon.threads())
    for number in range(40):
        name = f"{ident}-{number}"
        made = bundle("files", "write", "/volume/fifo", "x", name=name, mounts=[bind(volume, "/volume")])
        ttrpc.Create(id=name, bundle=str(made.folder))
        ttrpc.Start(id=name)
        ttrpc.Wait(id=name)
        ttrpc.Delete(id=name)
    made = bundle("files", "read", "/volume/file", mounts=[bind(volume, "/volume")])
    ttrpc.Create(id=ident, bundle=str(made.folder), **made.streams())
    ttrpc.Start(id=ident)
    assert made.read() == b"in the file"
    ttrpc.Wait(id=ident)
    ttrpc.Delete(id=ident)
    assert len(daemon.threads()) - before < 20
