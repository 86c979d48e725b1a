"""poll_oneoff, clock by clock and descriptor by descriptor, as the text of WASI preview 1 has it.

The text: no subscription at all is `inval`; what is wrong with one subscription is told in its event's `error`,
"an error that occurred while processing the subscription request", and the others have their events all the same.
"""

import asyncio
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.guests import Guests, content, in_loop
from tests.support.modules import wasi
from wasm_sandboxer.guest import Preopen, Stdio

BADF, FAULT, INVAL = 8, 21, 28
REALTIME, MONOTONIC, PROCESS_CPU, THREAD_CPU = range(4)
CLOCK, READ, WRITE = range(3)
HANGUP = 1
FOR_EVER = (1 << 64) - 1
MS = 1_000_000


def on_clock(userdata: int, timeout: int, *, clock: int = MONOTONIC, absolute: bool = False) -> bytes:
    return struct.pack("<QB7xI4xQQH6x", userdata, CLOCK, clock, timeout, 0, absolute)


def on_fd(userdata: int, kind: int, fd: int) -> bytes:
    return struct.pack("<QB7xI28x", userdata, kind, fd)


@dataclass(frozen=True)
class Event:
    userdata: int
    error: int = 0
    kind: int = CLOCK
    nbytes: int = 0
    flags: int = 0


@dataclass(frozen=True)
class Answer:
    errno: int
    events: list[Event]
    seconds: float


@pytest.fixture
def poll(guests: Guests, wat: Callable[..., Path]) -> Callable[..., Answer]:
    """One call of poll_oneoff with these subscriptions; `before` are calls that come first."""

    def ask(
        *subscriptions: bytes,
        stdin: int | None = None,
        stdout: int | None = None,
        before: str = "",
        at: tuple[int, int, int] = (1024, 4096, 512),
        count: int | None = None,
    ) -> Answer:
        data = "".join(f"\\{byte:02x}" for byte in b"".join(subscriptions))
        given, events, nevents = at
        count = len(subscriptions) if count is None else count
        path = wat(f"""(module
          {wasi("poll_oneoff fd_write fd_close fd_renumber proc_exit")}
          (memory (export "memory") 1)
          (data (i32.const {given & 0xFFFF}) "{data}")
          (data (i32.const 0) "\\08\\00\\00\\00\\00\\20\\00\\00")
          (func (export "_start")
            {before}
            (i32.store (i32.const 8) (call $poll_oneoff
              (i32.const {given}) (i32.const {events}) (i32.const {count}) (i32.const {nevents})))
            (i32.store (i32.const 12) (i32.load (i32.const 512)))
            (memory.copy (i32.const 16) (i32.const 4096) (i32.const 400))
            (drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 600)))))""")
        answer = guests.file()

        async def main() -> float:
            container = guests.container(path, stdio=Stdio(stdin=stdin, stdout=stdout, stderr=answer))
            begun = time.monotonic()
            await container.start()
            end = await container.exit
            assert end.code == 0, end
            return time.monotonic() - begun

        seconds = in_loop(main())
        errno, number = struct.unpack_from("<II", content(answer))
        events_ = [Event(*struct.unpack_from("<QHB5xQH", content(answer), 8 + 32 * index)) for index in range(number)]
        return Answer(errno, events_ if errno == 0 else [], seconds)

    return ask


Poll = Callable[..., Answer]


# --- clocks


@pytest.mark.parametrize("clock", [MONOTONIC, REALTIME])
def test_a_relative_time_is_waited_for(poll: Poll, clock: int) -> None:
    answer = poll(on_clock(7, 50 * MS, clock=clock))
    assert (answer.errno, answer.events) == (0, [Event(7)])
    assert answer.seconds >= 0.05


@pytest.mark.parametrize("kind", ["clock", "abs", "realtime", "realtime-abs"])
def test_the_c_librarys_clocks_wait_for_their_time(guests: Guests, kind: str) -> None:
    word, number, unit = guests.run("poll", kind, "30").lines[0].split()
    assert (word, unit) == ("clock", "ms")
    assert int(number) in range(30, 5000)


@pytest.mark.parametrize("clock", [MONOTONIC, REALTIME])
def test_a_time_that_has_passed_fires_at_once(poll: Poll, clock: int) -> None:
    answer = poll(on_clock(1, 1, clock=clock, absolute=True), on_clock(2, 3600_000 * MS))
    assert answer.events == [Event(1)]
    assert poll(on_clock(3, 0, clock=clock)).events == [Event(3)]


def test_of_several_times_the_first_fires(poll: Poll) -> None:
    answer = poll(on_clock(3, 300_000 * MS), on_clock(1, 20 * MS), on_clock(2, FOR_EVER))
    assert answer.events == [Event(1)]


def test_equal_times_fire_together_in_their_order(poll: Poll) -> None:
    answer = poll(on_clock(5, 10 * MS), on_clock(4, 10 * MS), on_clock(6, 0))
    assert answer.events == [Event(6)]
    assert poll(on_clock(5, 10 * MS), on_clock(4, 10 * MS)).events == [Event(5), Event(4)]


@pytest.mark.parametrize("clock", [PROCESS_CPU, THREAD_CPU, 4, 0xFFFFFFFF])
def test_a_clock_that_cannot_be_waited_for_is_an_event_with_an_error(poll: Poll, clock: int) -> None:
    answer = poll(on_clock(1, 10 * MS, clock=clock), on_clock(2, 3600_000 * MS))
    assert answer.errno == 0
    (event,) = answer.events
    assert (event.userdata, event.kind) == (1, CLOCK)
    assert event.error in (BADF, INVAL, 58)


# --- descriptors


def test_input_that_is_there_is_told(poll: Poll, guests: Guests) -> None:
    read, write = guests.pipe()
    os.write(write, b"x")
    assert poll(on_fd(1, READ, 0), on_clock(2, FOR_EVER), stdin=read).events == [Event(1, 0, READ, 1)]


def test_input_that_does_not_come_leaves_it_to_the_clock(poll: Poll, guests: Guests) -> None:
    read, _ = guests.pipe()
    answer = poll(on_fd(1, READ, 0), on_clock(2, 30 * MS), stdin=read)
    assert answer.events == [Event(2)]
    assert answer.seconds >= 0.03


def test_the_end_of_input_is_told(poll: Poll, guests: Guests) -> None:
    read, write = guests.pipe()
    os.close(write)
    assert poll(on_fd(1, READ, 0), on_clock(2, FOR_EVER), stdin=read).events == [Event(1, 0, READ, 0, HANGUP)]


def test_a_file_as_input_is_always_ready(poll: Poll, guests: Guests) -> None:
    assert poll(on_fd(1, READ, 0), on_clock(2, FOR_EVER), stdin=guests.file()).events == [Event(1, 0, READ, 1)]


def test_input_that_comes_later_ends_the_wait(guests: Guests) -> None:
    read, write = guests.pipe()
    out = guests.file()

    async def main() -> None:
        container = guests.container("poll", "stdin", "100000", stdio=Stdio(stdin=read, stdout=out))
        await container.start()
        await asyncio.sleep(0.05)
        assert not container.exit.done()
        os.write(write, b"x")
        assert (await container.exit).code == 0

    in_loop(main())
    assert content(out) == b"stdin\n"


def test_room_for_output_is_told(poll: Poll, guests: Guests) -> None:
    _, write = guests.pipe()
    assert poll(on_fd(1, WRITE, 1), on_clock(2, FOR_EVER), stdout=write).events == [Event(1, 0, WRITE, 1)]


def test_a_full_pipe_leaves_it_to_the_clock(poll: Poll, guests: Guests) -> None:
    read, write = guests.pipe()
    fill(write)
    assert poll(on_fd(1, WRITE, 1), on_clock(2, 10 * MS), stdout=write).events == [Event(2)]
    os.close(read)
    assert poll(on_fd(1, WRITE, 1), on_clock(2, FOR_EVER), stdout=write).events == [Event(1, 0, WRITE, 0, HANGUP)]


def test_input_is_heard_beside_a_full_output(guests: Guests, wat: Callable[..., Path]) -> None:
    path = wat(f"""(module {wasi("poll_oneoff proc_exit")} (memory (export "memory") 1)
      (data (i32.const 0) "{escaped(on_fd(1, WRITE, 1) + on_fd(2, READ, 0))}")
      (func (export "_start")
        (if (call $poll_oneoff (i32.const 0) (i32.const 256) (i32.const 2) (i32.const 512)) (then unreachable))
        (call $proc_exit
          (i32.add (i32.load (i32.const 512)) (i32.mul (i32.const 10) (i32.load (i32.const 256)))))))""")
    read, write = guests.pipe()
    _, full = guests.pipe()
    fill(full)

    async def main() -> None:
        container = guests.container(path, stdio=Stdio(stdin=read, stdout=full))
        await container.start()
        await asyncio.sleep(0.05)
        assert not container.exit.done()
        os.write(write, b"x")
        assert (await container.exit).code == 21  # one event, that of subscription 2

    in_loop(main())


def test_files_never_wait(guests: Guests, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    ran = guests.run("poll", "file", "/d/file", preopens=(Preopen(host=tmp_path, guest="/d"),))
    assert ran.lines == ["ready 1"]  # the engine says that there is something, and not how much


@pytest.mark.parametrize(("kind", "fd"), [(READ, 99), (WRITE, 99), (READ, 0xFFFFFFFF), (WRITE, 0), (READ, 1)])
def test_a_bad_descriptor_is_an_event_with_an_error(poll: Poll, guests: Guests, kind: int, fd: int) -> None:
    read, write = guests.pipe()
    answer = poll(on_fd(1, kind, fd), on_clock(2, FOR_EVER), stdin=read, stdout=write)
    assert (answer.errno, answer.events) == (0, [Event(1, BADF, kind)])


def test_a_bad_descriptor_leaves_the_others_their_events(poll: Poll, guests: Guests) -> None:
    _, write = guests.pipe()
    answer = poll(on_fd(1, READ, 99), on_fd(2, WRITE, 1), on_clock(3, 0), stdout=write)
    assert answer.events == [Event(1, BADF, READ), Event(2, 0, WRITE, 1), Event(3)]


def test_the_c_library_sees_a_bad_descriptor_in_its_event(guests: Guests) -> None:
    assert guests.run("poll", "badfd").lines == ["event errno 8"]


def test_a_closed_descriptor_is_a_bad_one(poll: Poll, guests: Guests) -> None:
    read, _ = guests.pipe()
    answer = poll(on_fd(1, READ, 0), stdin=read, before="(drop (call $fd_close (i32.const 0)))")
    assert answer.events == [Event(1, BADF, READ)]


def test_a_moved_descriptor_is_waited_for_where_it_is(poll: Poll, guests: Guests) -> None:
    read, write = guests.pipe()
    _, out = guests.pipe()
    os.write(write, b"x")
    before = "(if (call $fd_renumber (i32.const 0) (i32.const 1)) (then (unreachable)))"
    answer = poll(on_fd(1, READ, 1), on_clock(2, FOR_EVER), stdin=read, stdout=out, before=before)
    assert answer.events == [Event(1, 0, READ, 1)]
    assert poll(on_fd(1, READ, 0), stdin=read, stdout=out, before=before).events == [Event(1, BADF, READ)]


def test_a_stdin_that_is_not_given_is_at_its_end(poll: Poll) -> None:
    (event,) = poll(on_fd(1, READ, 0), on_clock(2, FOR_EVER)).events
    assert (event.userdata, event.error, event.kind) == (1, 0, READ)


# --- calls that are wrong


def test_no_subscription_is_refused(poll: Poll, guests: Guests) -> None:
    assert poll().errno == INVAL
    assert guests.run("poll", "none").lines == ["call errno 28"]


@pytest.mark.parametrize(
    ("at", "count"),
    [
        ((65536 - 47, 4096, 512), 1),
        ((1024, 65536 - 31, 512), 1),
        ((1024, 4096, 65536 - 3), 1),
        ((1024, 4096, 512), 0x7FFFFFFF),
        ((1024, 4096, 512), 0xFFFFFFFF),
        ((0xFFFFFFF8, 4096, 512), 1),
    ],
)
def test_memory_that_is_not_there_is_a_fault(poll: Poll, at: tuple[int, int, int], count: int) -> None:
    answer = poll(b"", at=at, count=count)
    assert answer.errno in (FAULT, INVAL)


@pytest.mark.parametrize("pointers", ["1025 4096 512", "1024 4097 512", "1024 4096 513"])
def test_memory_that_is_not_aligned_ends_the_call_or_the_guest(
    guests: Guests, wat: Callable[..., Path], pointers: str
) -> None:
    given, events, nevents = pointers.split()
    path = wat(f"""(module {wasi("poll_oneoff")} (memory (export "memory") 1)
      (data (i32.const {given}) "{escaped(on_clock(1, 5 * MS))}")
      (func (export "_start") (drop (call $poll_oneoff
        (i32.const {given}) (i32.const {events}) (i32.const 1) (i32.const {nevents})))))""")
    assert guests.run(path).code in (0, 134)


def test_an_unknown_kind_is_refused(poll: Poll) -> None:
    answer = poll(struct.pack("<QB7xI28x", 1, 3, 1), on_clock(2, FOR_EVER))
    assert answer.errno == INVAL or answer.events == [Event(1, INVAL, 3)]


def fill(pipe: int) -> None:
    """Write into a pipe until it is full."""
    os.set_blocking(pipe, False)
    try:
        while True:
            os.write(pipe, bytes(4096))
    except BlockingIOError:
        os.set_blocking(pipe, True)


def escaped(data: bytes) -> str:
    return "".join(f"\\{byte:02x}" for byte in data)
