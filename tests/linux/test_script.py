"""Scripts: what their calls are given, where they go on, what is left of them."""

import ctypes
import errno
import subprocess
import sys
from collections.abc import Callable

import pytest

from wasm_sandboxer.linux.script import (
    ARGUMENTS,
    NEGATIVE,
    NOT_NEGATIVE,
    NOT_NULL,
    NOT_ZERO,
    NULL,
    ROOM,
    TRUE,
    Check,
    Label,
    NoRoom,
    Result,
    Script,
    equal,
    exactly,
)  # fmt: skip
from wasm_sandboxer.linux.syscall import address_of

Function = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * ARGUMENTS)


class Recorder:
    """A native function that notes what it is given and returns what it is told to."""

    def __init__(self, *results: int) -> None:
        self.calls: list[tuple[int, ...]] = []
        self._results = iter(results)
        self._function = Function(self._call)
        self.address = ctypes.cast(self._function, ctypes.c_void_p).value or 0

    def _call(self, *arguments: int) -> int:
        self.calls.append(arguments)
        return next(self._results, 0)


def test_calls_are_made_in_order_with_all_their_arguments() -> None:
    script, seen = Script(), Recorder()
    script.call(seen.address, 1, 2, 3, 4, 5, 6, 7)
    script.call(seen.address, (1 << 64) - 1, -1)
    script.run()
    assert seen.calls == [(1, 2, 3, 4, 5, 6, 7), (*[(1 << 64) - 1] * 2, 0, 0, 0, 0, 0)]


def test_a_result_is_an_argument_of_later_calls_in_any_place_but_the_last() -> None:
    script, seen = Script(), Recorder(11, 22)
    first, second = script.call(seen.address), script.call(seen.address)
    script.call(seen.address, first, second, first, second, first, second, 7)
    script.run()
    assert seen.calls[2] == (11, 22, 11, 22, 11, 22, 7)


def test_what_a_function_writes_is_an_argument_of_later_calls() -> None:
    script, seen = Script(), Recorder()
    place = script.room(8)
    script.call(address_of("memcpy"), place, script.words(4711), 8)
    script.call(seen.address, Result(place))
    script.run()
    assert seen.calls == [(4711, 0, 0, 0, 0, 0, 0)]


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (NOT_NEGATIVE, [0, 5, 0x7FFFFFFF, 0xFFFFFFFF00000000], [(1 << 64) - 1, 0xFFFFFFFF]),
        (NEGATIVE, [(1 << 64) - 1, 0xFFFFFFFF], [0, 0x7FFFFFFF]),
        (NULL, [0], [1, 1 << 63]),
        (NOT_NULL, [1, 1 << 63], [0]),
        (NOT_ZERO, [1, 0xFFFFFFFF], [0, 1 << 32]),
        (TRUE, [1, 0xFF01], [0, 0xFF00]),
        (equal(7), [7, 7 | 1 << 40], [8]),
        (exactly(7), [7], [7 | 1 << 40]),
        (Check(0xF0, 0x30), [0x35], [0x45]),
    ],
)
def test_a_check_is_of_what_the_result_is_there(check: Check, good: list[int], bad: list[int]) -> None:
    for result in [*good, *bad]:
        script, seen = Script(), Recorder(result)
        otherwise = Label()
        script.call(seen.address, check=check, otherwise=otherwise)
        script.call(seen.address, 1)
        script.end()
        script.place(otherwise)
        script.call(seen.address, 2)
        script.run()
        assert seen.calls[1][0] == (2 if result in bad else 1), hex(result)


def test_a_call_that_fails_raises_with_its_name_and_errno() -> None:
    script, seen = Script(), Recorder()
    script.call(address_of("open"), script.text("/no/such/file"), 0, check=NOT_NEGATIVE, what="open it")
    script.call(seen.address)
    with pytest.raises(OSError, match="open it: No such file or directory") as raised:
        script.run()
    assert raised.value.errno == errno.ENOENT
    assert seen.calls == []


def test_a_label_is_gone_to_from_before_and_from_behind() -> None:
    script, seen = Script(), Recorder(0, 0, 0, 0, 1)
    again, out, skipped = Label(), Label(), Label()
    script.jump(skipped)
    script.call(seen.address, 99)
    script.place(skipped)
    script.place(again)
    script.call(seen.address, 1, check=equal(0), otherwise=out)
    script.jump(again)
    script.place(out)
    script.call(seen.address, 2)
    script.finish()
    script.run()
    assert [call[0] for call in seen.calls] == [1, 1, 1, 1, 1, 2]


def test_what_stands_aside_comes_behind_all_else() -> None:
    script, seen = Script(), Recorder(1)
    aside, on = Label(), Label()
    script.call(seen.address, check=NULL, otherwise=aside)

    def write() -> None:
        script.call(seen.address, 2)
        script.jump(on)

    script.aside(aside, write)
    script.call(seen.address, 1)
    script.place(on)
    script.call(seen.address, 3)
    script.end()
    script.run()
    assert [call[0] for call in seen.calls] == [0, 2, 3]


def test_texts_and_words_lie_where_it_is_said() -> None:
    script = Script()
    assert ctypes.string_at(script.text("grüße")).decode() == "grüße"
    assert ctypes.string_at(script.data(b"a\0b"), 4) == b"a\0b\0"
    assert ctypes.string_at(script.words(1, -1), 16) == (1).to_bytes(8, "little") + b"\xff" * 8
    with pytest.raises(ValueError, match="a\0b"):
        script.text("a\0b")
    with pytest.raises(UnicodeEncodeError):
        script.text("\udc80")


@pytest.mark.parametrize(
    "fill",
    [
        lambda script: script.data(bytes(ROOM)),
        lambda script: script.room(ROOM + 1),
        lambda script: [script.call(address_of("getpid")) for _ in range(2000)],
    ],
)
def test_a_script_that_is_too_long_is_refused(fill: Callable[[Script], object]) -> None:
    with pytest.raises(NoRoom):
        fill(Script())


def test_one_that_was_too_long_is_wiped_like_others() -> None:
    script = Script()
    place = script.text("secret")
    with pytest.raises(NoRoom):
        script.data(bytes(10 * ROOM))
    script.wipe()
    assert ctypes.string_at(place, 6) == bytes(6)


def test_of_a_script_that_is_wiped_nothing_is_left() -> None:
    script = Script()
    place = script.text("secret")
    script.call(address_of("getpid"))
    calls, data = script.content()
    assert b"secret" in data
    assert any(calls)
    script.wipe()
    assert ctypes.string_at(place, 6) == bytes(6)
    assert not any(ctypes.string_at(script.first, len(calls)))


def test_others_descriptors_are_closed() -> None:
    text = """
import os
from wasm_sandboxer.linux.script import Script
kept, closed = os.open("/", os.O_RDONLY), os.open("/", os.O_RDONLY)
script = Script()
script.close_others(kept)
script.run()
os.fstat(kept)
print("kept")
os.fstat(closed)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "kept\n"
    assert done.stderr.strip().endswith("Bad file descriptor")
