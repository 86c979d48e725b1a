"""A guest needs nobody's leave: it runs, waits, reads and writes while another thread keeps the GIL to itself."""

import mmap
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.guests import Guests, content, in_loop, until
from tests.support.modules import binary, wasi
from wasm_sandboxer.engine.protocol import Anywhere, Passage
from wasm_sandboxer.errors import WasmSandboxerError
from wasm_sandboxer.guest import Guest, Preopen, Reason, Stdio

DONE = b"done"
LONG = 25.0  # seconds; a busy machine may need some of them
# Two hundred rounds of everything that a guest's libc does all day, then the word.
BUSY = f"""(module
  {wasi("poll_oneoff fd_read fd_write clock_time_get random_get fd_fdstat_get path_open fd_close proc_exit")}
  (memory (export "memory") 2)
  (data (i32.const 16) "\\00\\10\\00\\00\\01\\00\\00\\00")  ;; one byte at 4096
  (data (i32.const 24) "\\40\\00\\00\\00\\04\\00\\00\\00")  ;; the word at 64
  (data (i32.const 64) "{DONE.decode()}") (data (i32.const 80) "a")
  ;; a subscription to 1 ms of the monotonic clock, at 128
  (data (i32.const 144) "\\01") (data (i32.const 152) "\\40\\42\\0f")
  (func $must (param i32) (if (local.get 0) (then (unreachable))))
  (func (export "_start") (local $round i32) (local $spin i32)
    (loop $next
      (call $must (call $poll_oneoff (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 512)))
      (call $must (call $fd_read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 512)))
      (call $must (call $fd_write (i32.const 2) (i32.const 16) (i32.const 1) (i32.const 512)))
      (call $must (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 1024)))
      (call $must (call $random_get (i32.const 4096) (i32.const 8192)))
      (call $must (call $fd_fdstat_get (i32.const 1) (i32.const 1024)))
      (call $must (call $path_open (i32.const 3) (i32.const 0) (i32.const 80) (i32.const 1) (i32.const 0)
        (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 1024)))
      (call $must (call $fd_close (i32.load (i32.const 1024))))
      (drop (memory.grow (i32.const 1)))
      (local.set $spin (i32.const 0))
      (loop $more
        (br_if $more (i32.lt_u (local.tee $spin (i32.add (local.get $spin) (i32.const 1))) (i32.const 10000))))
      (br_if $next (i32.lt_u (local.tee $round (i32.add (local.get $round) (i32.const 1))) (i32.const 200))))
    (call $must (call $fd_write (i32.const 1) (i32.const 24) (i32.const 1) (i32.const 512)))))"""


@pytest.fixture
def greedy() -> Iterator[None]:
    """A thread that runs Python gives the GIL to no other unless it waits."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("greedy")
def test_a_guest_runs_while_another_thread_keeps_the_gil(
    guests: Guests, wat: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "a").touch()
    path = wat(BUSY)
    out = guests.file(bytes(mmap.PAGESIZE))
    seen = mmap.mmap(out, mmap.PAGESIZE)
    stdio = Stdio(stdin=guests.file(bytes(1000)), stdout=out, stderr=guests.file())

    async def main() -> float:
        container = guests.container(path, stdio=stdio, preopens=(Preopen(host=tmp_path, guest="/"),))
        await container.start()
        await until(lambda: content(stdio.stderr))  # it has begun
        assert seen[: len(DONE)] != DONE
        # From here to the end of the loop nothing waits, and nothing lets go of the GIL.
        begun = time.monotonic()
        while seen[: len(DONE)] != DONE and time.monotonic() - begun < LONG:
            pass
        took = time.monotonic() - begun
        assert (await container.exit).code == 0
        return took

    assert in_loop(main()) < LONG
    seen.close()


@pytest.mark.usefixtures("greedy")
def test_a_guest_looks_at_its_cell_without_the_gil(guests: Guests) -> None:
    """The epoch is bumped, as when another guest is stopped, and the spinner spins on though nobody lets it."""

    async def main() -> None:
        container = guests.container("spin")
        await container.start()
        for _ in range(20):
            guests.engine.runtime.bump_epoch()
            before = container.cpu_time()
            begun = time.monotonic()
            while container.cpu_time() == before:  # clock_gettime keeps the GIL
                assert time.monotonic() - begun < LONG
        await container.kill(9)
        await container.exit

    in_loop(main())


def test_the_guests_thread_has_the_name_and_mask_it_should(guests: Guests) -> None:
    async def main() -> None:
        container = guests.container("spin")
        await container.start()
        open_ = signals_let_through(container.pid)
        faults = {4, 5, 7, 8, 11, 13}  # of the engine's, and SIGPIPE
        assert open_ - {9, 19, 32, 33} == faults | {23}  # 23 wakes it; 32 and 33 are libc's own
        await container.kill(9)
        await container.exit
        assert os.getpid() != container.pid

    in_loop(main())


def signals_let_through(thread: int) -> set[int]:
    for line in Path(f"/proc/self/task/{thread}/status").read_text().splitlines():
        if line.startswith("SigBlk:"):
            blocked = int(line.split()[1], 16)
            return {number for number in range(1, 65) if not blocked >> (number - 1) & 1}
    raise ValueError(thread)


@pytest.mark.parametrize(
    ("fields", "times"),
    [
        ('(func (export "_start"))', 1),
        ('(func $f) (start $f) (func (export "_start"))', 2),  # its start function's are a guest's instructions too
        ('(func (export "_initialize")) (func (export "f"))', 2),
    ],
)
def test_every_instruction_is_run_within_the_bounds_and_little_else(
    guests: Guests, tmp_path: Path, fields: str, times: int
) -> None:
    path = tmp_path / "guest.wasm"
    path.write_bytes(binary(f'(module (memory (export "memory") 1) {fields})'))
    program = guests.program(path)
    guest = Guest(module=path, argv=("guest",), function="f" if '"f"' in fields else None)
    inside: list[int] = []
    control = program.control(guest, Stdio(), None)
    assert program.run(guest, Stdio(), control, lambda: inside.append(0), Noting(inside)).code == 0
    control.close()
    assert inside.count(1) == times
    assert inside.index(0) == (1 if "(start" in fields else 0)


class Noting(Anywhere):
    """Notes each time it is asked, and leads through doors that are pipes."""

    def __init__(self, asked: list[int], enter: Sequence[int] = (), leave: Sequence[int] = ()) -> None:
        self._asked = asked
        self._enter = tuple(enter)
        self._leave = tuple(leave)

    @contextmanager
    def passage(self) -> Iterator[Passage | None]:
        self._asked.append(1)
        yield Passage(enter=self._enter, leave=self._leave, nice=(0, 0)) if self._enter else None


def pipes(count: int) -> tuple[list[int], list[int]]:
    """Their reading and their writing ends."""
    made = [os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) for _ in range(count)]
    return [reader for reader, _ in made], [writer for _, writer in made]


def test_a_guest_goes_through_its_doors_before_its_first_instruction_and_out_after_its_last(
    guests: Guests, wat: Callable[..., Path]
) -> None:
    path = wat(f"""(module {wasi("fd_write")} (memory (export "memory") 1)
      (data (i32.const 0) "\\10\\00\\00\\00\\01\\00\\00\\00") (data (i32.const 16) "-")
      (func (export "_start") (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))""")
    program = guests.program(path)
    guest = Guest(module=path, argv=("guest",))
    [reader], [writer] = pipes(1)  # all write to it, so that their order is seen
    entrances = [os.dup(writer) for _ in range(7)]
    stdio = Stdio(stdout=writer)
    control = program.control(guest, stdio, None)
    assert program.run(guest, stdio, control, lambda: None, Noting([], entrances, [writer, writer])).code == 0
    control.close()
    assert os.read(reader, 100) == b"0000000-00"
    for each in entrances:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(each)
    os.close(reader)
    os.close(writer)


def test_a_guest_that_cannot_enter_does_not_run(guests: Guests, wat: Callable[..., Path]) -> None:
    path = wat('(module (memory (export "memory") 1) (func (export "_start") (unreachable)))')
    program = guests.program(path)
    guest = Guest(module=path, argv=("guest",))
    control = program.control(guest, Stdio(), None)
    readers, writers = pipes(3)
    wrong = os.dup(readers[1])  # which nobody can write to
    entrances = [os.dup(writers[0]), wrong, os.dup(writers[2])]
    with pytest.raises(WasmSandboxerError, match="it cannot enter its control group: Bad file descriptor"):
        program.run(guest, Stdio(), control, lambda: None, Noting([], entrances, [writers[1]]))
    control.close()
    assert [os.read(reader, 100) for reader in readers] == [b"0", b"0", b"0"]
    for each in (*readers, *writers):
        os.close(each)


def test_a_guest_that_was_stopped_before_goes_through_no_door(guests: Guests, wat: Callable[..., Path]) -> None:
    path = wat('(module (memory (export "memory") 1) (func (export "_start") (unreachable)))')
    program = guests.program(path)
    guest = Guest(module=path, argv=("guest",))
    control = program.control(guest, Stdio(), None)
    control.stop()
    [reader], [writer] = pipes(1)
    end = program.run(guest, Stdio(), control, lambda: None, Noting([], [os.dup(writer)], ()))
    control.close()
    assert end.reason is Reason.STOPPED
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    os.close(reader)
    os.close(writer)
