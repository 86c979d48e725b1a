"""Paths that stay within a folder, also while the machine's mounts change under way."""

import errno
import os
import threading
from pathlib import Path

import pytest

from wasm_sandboxer.linux.resolve import make_in_root, open_file_in_root, open_in_root


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    fd = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def place_of(fd):
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    finally:
        os.close(fd)


@pytest.mark.parametrize("path", ["", "/", "..", "../../..", "/a/../..", "a/b/../../../.."])
def test_nothing_climbs_out(root, tmp_path, path):
    assert place_of(open_in_root(root, path, os.O_PATH)) == str(tmp_path / "root")


def test_what_is_missing_is_made_with_its_parents(root, tmp_path):
    assert place_of(make_in_root(root, "/x/y/z", folder=True)) == f"{tmp_path}/root/x/y/z"
    assert (tmp_path / "root" / "x" / "y" / "z").is_dir()
    assert place_of(make_in_root(root, "/x/y/file", folder=False)) == f"{tmp_path}/root/x/y/file"
    assert (tmp_path / "root" / "x" / "y" / "file").is_file()
    assert place_of(make_in_root(root, "/../../climbs", folder=True)) == f"{tmp_path}/root/climbs"


@pytest.mark.parametrize("target", ["/target", "../../../target", "target", "/a/b/../target", "/a/b/target"])
def test_what_a_link_promises_is_made_inside(root, tmp_path, target):
    (tmp_path / "root" / "link").symlink_to(target)
    made = place_of(make_in_root(root, "/link/below/file", folder=False))
    assert made.startswith(f"{tmp_path}/root/")
    assert made.endswith("/target/below/file")


def test_chains_and_loops_of_links_end(root, tmp_path):
    for number in range(50):
        (tmp_path / "root" / f"chain{number}").symlink_to(f"chain{number + 1}")
    (tmp_path / "root" / "loop").symlink_to("loop")
    for path in ("/chain0", "/loop", "/loop/x"):
        with pytest.raises(OSError) as caught:
            make_in_root(root, path, folder=True)
        assert caught.value.errno == errno.ELOOP
    assert place_of(make_in_root(root, "/chain20", folder=True)) == f"{tmp_path}/root/chain50"


def test_only_a_file_is_opened_as_one(root, tmp_path):
    os.mkfifo(tmp_path / "root" / "fifo")
    (tmp_path / "root" / "file").write_text("content")
    fd = open_file_in_root(root, "file")
    assert os.read(fd, 100) == b"content"
    os.close(fd)
    for path in ("/fifo", "/a", "/nowhere"):
        with pytest.raises(OSError):
            open_file_in_root(root, path)


def test_renames_elsewhere_do_not_fail_a_path_with_dots(root, tmp_path):
    """The kernel answers EAGAIN to whoever follows ".." while anything is renamed or mounted, anywhere."""
    stop = threading.Event()

    def rename():
        (tmp_path / "one").mkdir()
        while not stop.is_set():
            (tmp_path / "one").rename(tmp_path / "two")
            (tmp_path / "two").rename(tmp_path / "one")

    threads = [threading.Thread(target=rename)]
    for thread in threads:
        thread.start()
    try:
        path = "/a/b/../../" * 20
        for _ in range(3000):
            os.close(open_in_root(root, path, os.O_PATH))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
