"""The FIFO through which the shim says what containerd has dropped, with a registry that only notes."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from wasm_sandboxer.errors import FailedPrecondition
from wasm_sandboxer.rpc.dropped import Dropped, fifo_of


class Registry:
    """Has what it is given; discarding takes a while."""

    def __init__(self, *known: tuple[str, str]) -> None:
        self.known = set(known)
        self.discarded: list[tuple[str, str]] = []
        self.asked: list[tuple[str, str]] = []

    def has(self, namespace: str, ident: str) -> bool:
        self.asked.append((namespace, ident))
        return (namespace, ident) in self.known

    async def discard(self, namespace: str, ident: str) -> None:
        await asyncio.sleep(0.02)
        self.known.discard((namespace, ident))
        self.discarded.append((namespace, ident))


def listening(path: Path, registry: Any, work: Callable[[Dropped], Awaitable[None]]) -> None:
    async def main() -> None:
        dropped = Dropped(path, registry)
        try:
            await work(dropped)
        finally:
            dropped.close()

    asyncio.run(main())


async def nothing(dropped: Dropped) -> None:
    """Only listen."""


def say(path: Path, text: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        assert os.write(fd, text) == len(text)
    finally:
        os.close(fd)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return fifo_of(tmp_path / "t.sock")


def test_each_line_is_a_container_whether_lines_come_whole_or_not(path: Path) -> None:
    registry = Registry(("a", "one"), ("a", "two"))

    async def work(dropped: Dropped) -> None:
        for text in (b"a one\na tw", b"o\nb gone\n"):
            say(path, text)
            await asyncio.sleep(0.05)

    listening(path, registry, work)
    assert registry.discarded == [("a", "one"), ("a", "two")]
    assert registry.asked[-1] == ("b", "gone")


@pytest.mark.parametrize(
    "line", [b"", b"a", b"a one two", b"a ../one", b"\xff one", b" one", b"a \x1b[2J", b"x" * 9000]
)
def test_a_line_that_makes_no_sense_is_passed_over(path: Path, line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry(("a", "one"))

    async def work(dropped: Dropped) -> None:
        say(path, line + b"\na one\n")
        await dropped.settle("a", "one")

    listening(path, registry, work)
    assert registry.discarded == registry.asked == [("a", "one")]
    assert "makes no sense" in caplog.text


def test_what_never_ends_is_not_kept(path: Path) -> None:
    registry = Registry()

    async def work(dropped: Dropped) -> None:
        for _ in range(100):
            say(path, b"x" * 4000)
            await asyncio.sleep(0)
            assert len(dropped._rest) < 4096

    listening(path, registry, work)


def test_whoever_settles_has_waited_for_what_was_said_before(path: Path) -> None:
    registry = Registry(("a", "one"), ("a", "two"))

    async def work(dropped: Dropped) -> None:
        say(path, b"a one\n" * 3)
        await dropped.settle("a", "two")
        assert registry.discarded == []
        await dropped.settle("a", "one")
        assert registry.discarded == [("a", "one")]
        await dropped.settle("a", "one")

    listening(path, registry, work)
    assert registry.discarded == [("a", "one")]


def test_a_failure_is_told_and_stops_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry(("a", "one"), ("a", "two"))
    discard = registry.discard

    async def failing(namespace: str, ident: str) -> None:
        if ident == "one":
            raise RuntimeError("no way")
        await discard(namespace, ident)

    registry.discard = failing  # type: ignore[method-assign]

    async def work(dropped: Dropped) -> None:
        say(path, b"a one\na two\n")
        await dropped.settle("a", "one")
        await dropped.settle("a", "two")

    listening(path, registry, work)
    assert registry.discarded == [("a", "two")]
    assert "container one, which containerd has dropped, cannot be deleted" in caplog.text


def test_the_shim_finds_room_while_nobody_reads(path: Path) -> None:
    if int(Path("/proc/sys/fs/pipe-max-size").read_text()) < 1 << 20 and os.geteuid() != 0:
        pytest.skip("NOT RUN: this system allows no large pipes")
    registry = Registry()

    async def work(dropped: Dropped) -> None:
        for number in range(10_000):
            say(path, b"k8s.io %064d\n" % number)

    listening(path, registry, work)


def test_the_file_stays_for_the_next_daemon_and_is_the_users_alone(path: Path) -> None:
    listening(path, Registry(), nothing)
    made = path.stat()
    assert path.is_fifo()
    assert made.st_mode & 0o777 == 0o600
    listening(path, Registry(), nothing)
    assert path.stat().st_ino == made.st_ino


def test_what_is_no_fifo_stays(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(FailedPrecondition, match=f"{path} is in the way of a FIFO"):
        listening(path, Registry(), nothing)
    assert path.read_text() == "precious"
