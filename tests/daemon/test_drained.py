"""The end of a guest is told once its readers have what it wrote, or do not take it. No containerd."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.bundles import Bundle
from tests.support.rpc import Client
from wasm_sandboxer.bundle.streams import StreamNames, Streams

WROTE = 40_000  # bytes, which a pipe holds
HELD = 67_000  # which it does not
HURRY, PATIENCE = 1.0, 30.0


@pytest.fixture
def written(ttrpc: Client, bundle: Callable[..., Bundle], ident: str) -> Callable[..., Bundle]:
    """Starts a guest that writes and ends, and gives its bundle once all is written and nothing is read."""

    def start(*, terminal: bool = False) -> Bundle:
        made = bundle("flood", str(WROTE), terminal=terminal)
        names = {"stdout": made.fifo("stdout")} if terminal else made.streams()
        ttrpc.Create(id=ident, bundle=str(made.folder), terminal=terminal, **names)
        ttrpc.Start(id=ident)
        return made

    return start


@pytest.mark.parametrize("terminal", [False, True])
def test_who_waits_hears_of_the_end_after_the_readers_have_it_all(
    written: Callable[..., Bundle], ttrpc: Client, ident: str, terminal: bool
) -> None:
    made = written(terminal=terminal)
    waiting = ttrpc.begin("Wait", id=ident)
    reader = made._readers["stdout"]
    read, told_at = 0, 0
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            piece = os.read(reader, 1000)
        except BlockingIOError:
            piece = b"."  # not yet
        if not piece:
            break
        read += len(piece) if piece != b"." else 0
        told_at = told_at or (waiting.done() and read)
        time.sleep(0.005)
    assert read >= WROTE
    assert told_at in (0, read)  # once the pipe was empty, and not before
    assert waiting.result(PATIENCE).exit_status == 0
    ttrpc.Delete(id=ident)


def test_a_reader_that_takes_nothing_holds_up_nobody(
    written: Callable[..., Bundle], ttrpc: Client, ident: str
) -> None:
    made = written()
    begun = time.monotonic()
    assert ttrpc.Wait(id=ident).exit_status == 0
    assert time.monotonic() - begun < HURRY
    assert len(made.read()) >= WROTE  # it is there still
    ttrpc.Delete(id=ident)


def test_what_a_terminal_still_holds_is_unread(tmp_path: Path) -> None:
    path = tmp_path / "stdout"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    async def main() -> None:
        streams = Streams(StreamNames(stdout=str(path), terminal=True), "its", "test")
        assert streams.stdio.stdout is not None
        streams.begin()
        left = HELD
        while left:  # more than a pipe holds, and less than pipe and terminal
            left -= os.write(streams.stdio.stdout, bytes(min(left, 1000)))
            await asyncio.sleep(0.001)
        streams.guest_ended()
        read = len(os.read(reader, HELD))  # all that is in the pipe, before the loop has its turn
        assert read < HELD
        assert streams.unread()
        waiting = asyncio.ensure_future(streams.drained())
        while read < HELD:
            await asyncio.sleep(0.001)
            assert not waiting.done()
            with suppress(BlockingIOError):
                read += len(os.read(reader, HELD))
        await waiting
        assert not streams.unread()
        streams.close()

    asyncio.run(main())
    os.close(reader)


@pytest.mark.parametrize("kind", ["device", "file"])
def test_an_output_that_is_no_fifo_has_no_reader_to_wait_for(
    ttrpc: Client, bundle: Callable[..., Bundle], ident: str, tmp_path: Path, kind: str
) -> None:
    path = Path("/dev/null") if kind == "device" else tmp_path / "out"
    if kind == "file":
        path.touch()
    made = bundle("hello")
    ttrpc.Create(id=ident, bundle=str(made.folder), stdout=str(path), stderr=str(path))
    ttrpc.Start(id=ident)
    assert ttrpc.Wait(id=ident).exit_status == 0
    ttrpc.Delete(id=ident)


def test_a_guest_that_is_stopped_is_told_of_at_once(ttrpc: Client, bundle: Callable[..., Bundle], ident: str) -> None:
    took = []
    for number in range(5):
        name = f"{ident}-{number}"
        made = bundle("flood", name=name)
        ttrpc.Create(id=name, bundle=str(made.folder), **made.streams())
        ttrpc.Start(id=name)
        begun = time.monotonic()
        ttrpc.Kill(id=name, signal=signal.SIGKILL)
        assert ttrpc.Wait(id=name).exit_status == 137
        took.append(time.monotonic() - begun)
        ttrpc.Delete(id=name)
    assert min(took) < 0.05  # less than a reader is waited for
