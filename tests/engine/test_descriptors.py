"""The standard descriptors as the shim serves them: reading, writing, closing and moving them."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.guests import Guests, Ran, content, in_loop
from tests.support.modules import wasi
from wasm_sandboxer.errors import ResourceExhausted
from wasm_sandboxer.guest import Exit, Limits, Preopen, Stdio

BADF, FAULT, NOSPC, PIPE, SPIPE = 8, 21, 51, 64, 70
CALLS = wasi("fd_read fd_write fd_close fd_renumber fd_fdstat_get fd_fdstat_set_flags path_open proc_exit random_get")
IN, OUT = 4096, 8192  # where a guest of these tests reads to and writes from


@pytest.fixture
def call(guests: Guests, wat: Callable[..., Path]) -> Callable[..., int]:
    """The value of an expression of WASI calls, as the guest's exit code."""

    def evaluate(expression: str, before: str = "", data: bytes = b"", **streams: int) -> int:
        text = "".join(f"\\{byte:02x}" for byte in data)
        path = wat(f"""(module {CALLS}
          (memory (export "memory") 1)
          (data (i32.const 0) "{text}")
          (data (i32.const {OUT}) "written")
          (func $read (param $fd i32) (param $at i32) (param $count i32) (result i32)
            (call $fd_read (local.get $fd) (local.get $at) (local.get $count) (i32.const 2048)))
          (func $write (param $fd i32) (param $at i32) (param $count i32) (result i32)
            (call $fd_write (local.get $fd) (local.get $at) (local.get $count) (i32.const 2048)))
          (func $moved (result i32) (i32.load (i32.const 2048)))
          (func (export "_start") {before} (call $proc_exit {expression})))""")

        async def main() -> Exit:
            container = guests.container(path, stdio=Stdio(**streams))
            await container.start()
            return await container.exit

        end = in_loop(main())
        assert not end.message, end
        return end.code

    return evaluate


Call = Callable[..., int]


def iovec(pointer: int, length: int) -> bytes:
    return struct.pack("<II", pointer, length)


def do(call: str) -> str:
    """The call, which must succeed."""
    return f"(if {call} (then (unreachable)))"


WRITE_7 = "(call $write (i32.const {fd}) (i32.const 0) (i32.const 1))"
READ_7 = "(call $read (i32.const {fd}) (i32.const 0) (i32.const 1))"


# --- reading and writing


def test_a_write_says_how_much_it_wrote(call: Call, guests: Guests) -> None:
    out = guests.file()
    assert call("(call $moved)", do(WRITE_7.format(fd=1)), iovec(OUT, 7), stdout=out) == 7
    assert content(out) == b"written"


def test_stdout_and_stderr_are_two(call: Call, guests: Guests) -> None:
    out, err = guests.file(), guests.file()
    assert call(WRITE_7.format(fd=2), "", iovec(OUT, 7), stdout=out, stderr=err) == 0
    assert (content(out), content(err)) == (b"", b"written")


def test_empty_iovecs_are_passed_over(call: Call, guests: Guests) -> None:
    out = guests.file()
    data = iovec(OUT, 0) + iovec(0xFFFFFFFF, 0) + iovec(OUT, 4) + iovec(OUT + 4, 3)
    before = "(drop (call $write (i32.const 1) (i32.const 0) (i32.const 4)))"
    wrote = call("(call $moved)", before, data, stdout=out)
    assert content(out) == b"written"[:wrote]
    assert wrote in (4, 7)  # the first that is not empty, or all


@pytest.mark.parametrize("count", [0, 2])
def test_nothing_to_move_moves_nothing(call: Call, guests: Guests, count: int) -> None:
    out, data = guests.file(), iovec(OUT, 0) * 2
    assert call(f"(call $write (i32.const 1) (i32.const 0) (i32.const {count}))", "", data, stdout=out) == 0
    assert call(f"(call $read (i32.const 0) (i32.const 0) (i32.const {count}))", "", data, stdin=out) == 0
    assert content(out) == b""


def test_a_read_takes_what_is_there(call: Call, guests: Guests) -> None:
    given = guests.file(b"abc")
    assert call("(call $moved)", do(READ_7.format(fd=0)), iovec(IN, 7), stdin=given) == 3
    given = guests.file(b"abc")
    first = f"(i32.load8_u (i32.const {IN + 2}))"
    assert call(first, do(READ_7.format(fd=0)), iovec(IN, 7), stdin=given) == ord("c")


def test_the_end_of_input_is_a_read_of_nothing(call: Call, guests: Guests) -> None:
    assert call("(call $moved)", do(READ_7.format(fd=0)), iovec(IN, 7), stdin=guests.file()) == 0


@pytest.mark.parametrize(
    "data", [iovec(65535, 2), iovec(0xFFFFFFFF, 1), iovec(0, 0xFFFFFFFF), iovec(65536, 1), iovec(0x80000000, 1)]
)
def test_a_piece_outside_of_memory_is_a_fault(call: Call, guests: Guests, data: bytes) -> None:
    stream = guests.file(b"abc")
    assert call(WRITE_7.format(fd=1), "", data, stdout=stream) == FAULT
    assert call(READ_7.format(fd=0), "", data, stdin=stream) == FAULT
    assert content(stream) == b"abc"


@pytest.mark.parametrize("at", [65532, 65536, 0xFFFFFFF8])
def test_pieces_listed_outside_of_memory_are_a_fault(call: Call, guests: Guests, at: int) -> None:
    stream = guests.file(b"abc")
    assert call(f"(call $write (i32.const 1) (i32.const {at}) (i32.const 1))", stdout=stream) == FAULT
    assert call(f"(call $read (i32.const 0) (i32.const {at}) (i32.const 1))", stdin=stream) == FAULT
    assert call("(call $write (i32.const 1) (i32.const 0) (i32.const 0x20000000))", stdout=stream) == FAULT
    far = "(call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 65533))"
    assert call(far, "", iovec(OUT, 7), stdout=stream) == FAULT


def test_memory_that_has_grown_can_be_written_from(call: Call, guests: Guests) -> None:
    out = guests.file()
    before = f"""(drop (memory.grow (i32.const 1)))
      (memory.copy (i32.const 131065) (i32.const {OUT}) (i32.const 7))"""
    assert call(WRITE_7.format(fd=1), before, iovec(131065, 7), stdout=out) == 0
    assert content(out) == b"written"


def test_a_reader_that_has_left_is_the_guests_to_handle(call: Call, guests: Guests) -> None:
    read, write = guests.pipe()
    os.close(read)
    assert call(WRITE_7.format(fd=1), "", iovec(OUT, 7), stdout=write) == PIPE


def test_a_full_device_is_the_guests_to_handle(call: Call) -> None:
    with Path("/dev/full").open("wb") as full:
        assert call(WRITE_7.format(fd=1), "", iovec(OUT, 7), stdout=full.fileno()) == NOSPC


def test_a_descriptor_for_the_other_direction_is_bad(call: Call, guests: Guests) -> None:
    read, write = guests.pipe()
    assert call(READ_7.format(fd=1), "", iovec(IN, 7), stdout=write) == BADF
    assert call(WRITE_7.format(fd=0), "", iovec(OUT, 7), stdin=read) == BADF


# --- what is not given


def test_output_that_nobody_takes_is_lost(call: Call) -> None:
    assert call("(call $moved)", do(WRITE_7.format(fd=1)), iovec(OUT, 7)) == 7


def test_input_that_nobody_gives_is_at_its_end(call: Call) -> None:
    assert call("(call $moved)", do(READ_7.format(fd=0)), iovec(IN, 7)) == 0


# --- closing and moving


@pytest.mark.parametrize("fd", [0, 1, 2])
def test_a_closed_descriptor_is_gone(call: Call, guests: Guests, fd: int) -> None:
    stream = guests.file(b"abc")
    streams = {("stdin", "stdout", "stderr")[fd]: stream}
    close = do(f"(call $fd_close (i32.const {fd}))")
    use = (READ_7 if fd == 0 else WRITE_7).format(fd=fd)
    assert call(use, close, iovec(OUT, 7), **streams) == BADF
    assert call(f"(call $fd_close (i32.const {fd}))", close, **streams) == BADF
    assert call(f"(call $fd_fdstat_get (i32.const {fd}) (i32.const 0))", close, **streams) == BADF
    assert content(stream) == b"abc"
    os.fstat(stream)  # ours to close, and still open


def test_a_moved_descriptor_is_read_where_it_is(call: Call, guests: Guests) -> None:
    move = do("(call $fd_renumber (i32.const 0) (i32.const 2))")
    out = guests.file()
    streams = {"stdin": guests.file(b"abc"), "stderr": out}
    assert call("(call $moved)", move + do(READ_7.format(fd=2)), iovec(IN, 7), **streams) == 3
    assert call(READ_7.format(fd=0), move, iovec(IN, 7), **streams) == BADF
    assert call(WRITE_7.format(fd=2), move, iovec(OUT, 7), **streams) == BADF
    assert content(out) == b""


def test_output_can_be_moved_to_where_input_was(call: Call, guests: Guests) -> None:
    out, given = guests.file(), guests.file(b"abc")
    move = do("(call $fd_renumber (i32.const 1) (i32.const 0))")
    assert call(WRITE_7.format(fd=0), move, iovec(OUT, 7), stdin=given, stdout=out) == 0
    assert (content(out), content(given)) == (b"written", b"abc")
    assert call(READ_7.format(fd=0), move, iovec(IN, 7), stdin=given, stdout=out) == BADF
    assert call(WRITE_7.format(fd=1), move, iovec(OUT, 7), stdin=given, stdout=out) == BADF


def test_a_move_onto_itself_changes_nothing(call: Call, guests: Guests) -> None:
    out = guests.file()
    move = do("(call $fd_renumber (i32.const 1) (i32.const 1))")
    assert call(WRITE_7.format(fd=1), move, iovec(OUT, 7), stdout=out) == 0
    assert content(out) == b"written"


@pytest.mark.parametrize("pair", ["(i32.const 99) (i32.const 1)", "(i32.const 1) (i32.const 99)"])
def test_a_move_from_or_to_nothing_changes_nothing(call: Call, guests: Guests, pair: str) -> None:
    out = guests.file()
    assert call(f"(call $fd_renumber {pair})", stdout=out) == BADF
    before = f"(drop (call $fd_renumber {pair}))"
    assert call(WRITE_7.format(fd=1), before, iovec(OUT, 7), stdout=out) == 0


def test_a_file_opened_in_the_place_of_stdout_is_written(
    guests: Guests, wat: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "a").touch()
    path = wat(f"""(module {wasi("fd_write fd_close path_open proc_exit")} (memory (export "memory") 1)
      (data (i32.const 64) "a") (data (i32.const 0) "\\00\\20\\00\\00\\07\\00\\00\\00")
      (data (i32.const {OUT}) "written")
      (func (export "_start")
        {do("(call $fd_close (i32.const 1))")}
        (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 0)
              (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 1024)) (then (unreachable)))
        (drop (call $fd_write (i32.load (i32.const 1024)) (i32.const 0) (i32.const 1) (i32.const 2048)))
        (call $proc_exit (i32.load (i32.const 1024)))))""")
    ran: Ran = guests.run(path, preopens=(Preopen(host=tmp_path, guest="/"),))
    assert (tmp_path / "a").read_bytes() == b"written", ran
    assert ran.stdout == b""


def test_a_file_moved_to_where_stdout_was_is_written(
    guests: Guests, wat: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "a").touch()
    path = wat(f"""(module {wasi("fd_write fd_renumber path_open")} (memory (export "memory") 1)
      (data (i32.const 64) "a") (data (i32.const 0) "\\00\\20\\00\\00\\07\\00\\00\\00")
      (data (i32.const {OUT}) "written")
      (func (export "_start")
        (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 0)
              (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 1024)) (then (unreachable)))
        {do("(call $fd_renumber (i32.load (i32.const 1024)) (i32.const 1))")}
        {do("(call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))")}))""")
    assert guests.run(path, preopens=(Preopen(host=tmp_path, guest="/"),)).stdout == b""
    assert (tmp_path / "a").read_bytes() == b"written"


@pytest.mark.parametrize("function", ["fd_pread", "fd_pwrite"])
def test_a_stream_has_no_places_to_read_or_write_at(guests: Guests, wat: Callable[..., Path], function: str) -> None:
    kind = "(param i32 i32 i32 i64 i32) (result i32)"
    path = wat(f"""(module (import "wasi_snapshot_preview1" "{function}" (func $call {kind})) {wasi("proc_exit")}
      (memory (export "memory") 1) (data (i32.const 0) "\\00\\20\\00\\00\\07\\00\\00\\00")
      (func (export "_start") (call $proc_exit (call $call
        (i32.const {int(function == "fd_pwrite")}) (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 8)))))""")
    ran = guests.run(path, stdin=b"abc")
    assert (ran.code in (BADF, SPIPE), ran.stdout) == (True, b"")


# --- in the wrong moment


def test_calls_from_a_start_function_are_answered(guests: Guests, wat: Callable[..., Path]) -> None:
    path = wat(f"""(module {wasi("fd_write proc_exit")} (memory (export "memory") 1)
      (data (i32.const 16) "\\20\\00\\00\\00\\05\\00\\00\\00") (data (i32.const 32) "early")
      (func $early (call $proc_exit (call $fd_write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8))))
      (start $early) (func (export "_start")))""")
    ran = guests.run(path)
    assert (ran.code, ran.stdout) == (0, b"early")


def test_a_module_without_a_memory_gets_an_answer(guests: Guests, wat: Callable[..., Path]) -> None:
    path = wat(f"""(module {wasi("fd_write proc_exit")} (func (export "_start")
      (call $proc_exit (call $fd_write (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 8)))))""")
    assert guests.run(path).code == 52


def test_a_module_whose_memory_is_64_bit_is_refused(guests: Guests, wat: Callable[..., Path]) -> None:
    path = wat(f"""(module {wasi("fd_write")} (memory (export "memory") i64 1) (func (export "_start")))""")
    with pytest.raises(Exception, match="its instance could not be made: incompatible import type"):
        guests.run(path)


def test_randomness_is_random_and_of_the_length_asked_for(call: Call) -> None:
    some = "(i32.or (i32.load (i32.const 65524)) (i32.load (i32.const 65528)))"
    ask = do("(call $random_get (i32.const 0) (i32.const 65532))")
    assert call(f"(i32.and (i32.eqz {some}) (i32.const 1))", ask) == 0
    assert call("(i32.load (i32.const 65532))", ask) == 0
    assert call("(call $random_get (i32.const 0) (i32.const 0))") == 0


@pytest.mark.parametrize("length", [65537, 0xFFFFFFFF])
def test_randomness_beyond_memory_is_refused(guests: Guests, wat: Callable[..., Path], length: int) -> None:
    path = wat(f"""(module {wasi("random_get proc_exit")} (memory (export "memory") 1) (func (export "_start")
      (call $proc_exit (call $random_get (i32.const 0) (i32.const {length})))))""")
    assert guests.run(path).code in (FAULT, 134)


# ---- how many files may be open ----

OPEN = "(call $path_open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 2048))"  # noqa: E501
# Opens "a" until it cannot; how often it could is in $count, and the last errno in $errno.
FILL = f"""
    (loop $more
      (local.set $errno {OPEN})
      (if (i32.eqz (local.get $errno))
        (then (local.set $count (i32.add (local.get $count) (i32.const 1))) (br $more))))"""


@pytest.fixture
def opener(guests: Guests, wat: Callable[..., Path], tmp_path: Path) -> Callable[..., Exit]:
    """How a guest ends that may have so many files open, the folder with the file `a` among them."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").touch()
    folder = Preopen(host=tmp_path / "folder", guest="/", writable=True)

    def run(body: str, files: int) -> Exit:
        path = wat(f"""(module {CALLS} (memory (export "memory") 1) (data (i32.const 0) "a")
          (func (export "_start") (local $count i32) (local $errno i32) {body}
            (call $proc_exit (local.get $count))))""")
        return guests.run(path, preopens=(folder,), limits=Limits(files=files)).exit

    return run


def test_a_guest_opens_no_more_files_than_it_may(opener: Callable[..., Exit]) -> None:
    mfile = "(if (i32.ne (local.get $errno) (i32.const 33)) (then (unreachable)))"
    assert opener(f"{FILL} {mfile}", 11).code == 10


@pytest.mark.parametrize(
    "close",
    [
        "(drop (call $fd_close (i32.const 6)))",
        "(drop (call $fd_renumber (i32.const 6) (i32.const 7)))",
    ],
)
def test_a_file_that_is_closed_makes_room_for_one(opener: Callable[..., Exit], close: str) -> None:
    assert opener(f"{FILL} {close} {FILL}", 11).code == 11


def test_a_file_that_could_not_be_opened_takes_no_room(opener: Callable[..., Exit]) -> None:
    nowhere = OPEN.replace("(i32.const 0) (i32.const 1)", "(i32.const 64) (i32.const 1)", 1)
    loop = f"(loop $again (drop {nowhere}) (br_if $again (i32.lt_u (local.tee $errno (i32.add (local.get $errno) (i32.const 1))) (i32.const 50))))"  # noqa: E501
    assert opener(f"{loop} {FILL}", 11).code == 10


def test_closing_what_never_was_open_makes_no_room(opener: Callable[..., Exit]) -> None:
    closes = "(drop (call $fd_close (i32.const 900)))" * 5
    assert opener(f"{FILL} {closes} {FILL}", 11).code == 10


def test_all_guests_together_open_no_more_files_than_the_process_may(
    guests: Guests, opener: Callable[..., Exit]
) -> None:
    files = guests.engine.runtime.files
    limit, before = files.limit, files.used
    files.limit = before + 8
    try:
        assert opener(FILL, 1024).code == 7
        assert files.used == before  # they are given back when a guest has ended
        files.limit = before
        with pytest.raises(ResourceExhausted, match="its 1 folders are more than the process's limit on open files"):
            opener(FILL, 1024)
    finally:
        files.limit = limit
