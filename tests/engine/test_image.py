"""A module's data, mapped instead of copied: no guest can tell the difference."""

from pathlib import Path

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.guests import Guests
from tests.support.modules import binary
from wasm_sandboxer.engine import image, wasm

PAGE = 64 << 10
HELLO = "x" * (40 << 10)


def memory_of(module: bytes, memory: str = "memory", under: bytes = b"", at: int = 0) -> bytes:
    """What a memory holds once its module is instantiated by the engine's own means, over what is mapped there."""
    store = wasmtime.Store()
    instance = wasmtime.Instance(store, wasmtime.Module(store.engine, module), [])
    found = instance.exports(store)[memory]
    assert isinstance(found, wasmtime.Memory)
    content = bytearray(found.read(store))
    if under:
        assert not any(content)  # nothing of what is mapped is written again
        content[at : at + len(under)] = under
    return bytes(content)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 3 * PAGE), st.sampled_from([0, 1, 100, 3000, PAGE]), st.integers(0, 25)),
        min_size=1,
        max_size=12,
    )
)
def test_any_segments_give_the_memory_that_the_engine_would(segments: list[tuple[int, int, int]]) -> None:
    lines = "".join(f'(data (i32.const {at}) "{chr(97 + fill) * size}")' for at, size, fill in segments)
    module = binary(f'(module (memory (export "memory") 4) {lines})')
    arranged = image.arrange(module)
    assert memory_of(arranged.binary, under=arranged.data, at=arranged.address) == memory_of(module)
    assert no_plain_data(arranged.binary)
    if arranged.data:
        assert (arranged.memory, arranged.address % PAGE, len(arranged.data) % PAGE) == (4 * PAGE, 0, 0)


def no_plain_data(module: bytes) -> bool:
    """Whether no active segment with bytes has a plain constant for its place: the engine would map those."""
    for number, _, body in wasm.numbered_sections(module):
        if number == 11:
            segments = image._segments(wasm.Reader(body))
            return not any(segment.data and segment.address is not None for segment in segments)
    return True


@pytest.mark.parametrize(
    ("fields", "mapped"),
    [
        (f'(memory (export "memory") 1) (data (i32.const 0) "{"x" * 100}")', False),  # little
        (f'(memory (export "memory") 1) (data (i32.const 0) "{HELLO}")', True),
        (f'(memory (export "memory") 1) (memory 1) (data (i32.const 0) "{HELLO}")', False),  # of several
        (f'(memory (export "memory") i64 1) (data (i64.const 7) "{HELLO}")', False),
        (f'(memory (export "memory") 100) (data (i32.const 0) "{HELLO}") (data (i32.const 6000000) "y")', False),
        (f'(memory (export "memory") 40000) (data (i32.const 0x90000000) "{HELLO}")', True),
        ('(memory (export "memory") 40000) (data (i32.const 0x90000000) "abc")', False),
    ],
)
def test_data_is_mapped_or_copied_and_the_same(guests: Guests, tmp_path: Path, fields: str, mapped: bool) -> None:
    index = "i64" if "i64" in fields else "i32"
    module = binary(f"""(module {fields} (func (export "read") (param {index}) (result i32)
      (i32.load8_u (local.get 0))))""")
    arranged = image.arrange(module)
    assert bool(arranged.data) is mapped
    assert no_plain_data(arranged.binary)
    path = tmp_path / "module.wasm"
    path.write_bytes(module)
    plain = memory_of(module) if "40000" not in fields else b""
    for at in (0, 6, 7, 99, 100, 40959, 40960, 0x90000000, 0x90000002, 0x90000003):
        if at < len(plain) or not plain:
            expected = plain[at] if plain else memory_at_the_top(at, fields)
            assert guests.run(path, str(at), function="read").lines == [str(expected)]


def memory_at_the_top(at: int, fields: str) -> int:
    """What the module with data at 2.25 GiB has at an address."""
    inside = at - 0x90000000
    text = "abc" if "abc" in fields else HELLO
    return ord(text[inside]) if 0 <= inside < len(text) else 0


@pytest.mark.parametrize(
    "fields",
    [
        f'(import "m" "m" (memory 1)) (data (i32.const 0) "{HELLO}")',  # another's
        f'(import "m" "g" (global i32)) (memory 1) (data (global.get 0) "{HELLO}") (data (i32.const 0) "y")',
        f'(memory 0) (data (i32.const 0) "{HELLO}")',  # does not fit
        f'(memory 1) (data (i32.const -4) "{HELLO}")',
        '(memory 1) (data (i32.const 1) "x") (data (i32.add (i32.const 65535) (i32.const 1)) "y")',
    ],
)
def test_what_is_known_only_at_run_time_stays(fields: str) -> None:
    module = binary(f"(module {fields})")
    assert image.arrange(module) == image.Arranged(binary=module)


def test_data_that_does_not_fit_traps_as_ever(guests: Guests, tmp_path: Path) -> None:
    path = tmp_path / "outside.wasm"
    path.write_bytes(
        binary("""(module (memory (export "memory") 1) (data (i32.const 65535) "xy") (func (export "_start")))""")
    )
    ran = guests.run(path)
    assert ran.code == 134
    assert "out of bounds memory access" in ran.stderr


def test_a_component_that_has_data_runs(guests: Guests, tmp_path: Path) -> None:
    """Its data is copied by the engine; mapped by it, the process would end."""
    lines = "".join(f'(data (i32.const {at * 300}) "{chr(97 + at % 26) * 200}")' for at in range(300))
    path = tmp_path / "component.wasm"
    path.write_bytes(
        binary(f"""(component
          (core module $m (memory (export "memory") 2) {lines}
            (func (export "at") (param i32) (result i32) (i32.load8_u (local.get 0))))
          (core instance $i (instantiate $m))
          (func (export "at") (param "at" u32) (result u32) (canon lift (core func $i "at"))))""")
    )
    for at in (0, 199, 200, 300, 89899):
        expected = ord("a") + at // 300 % 26 if at % 300 < 200 else 0
        assert guests.run(path, str(at), function="at").lines == [str(expected)]


def test_thousands_of_segments_compile_as_few(tmp_path: Path) -> None:
    """As Go's linker makes them; each compiled by itself, a minute would not do."""
    lines = "".join(f'(data (i32.const {at * 100}) "{"x" * 60}")' for at in range(10_000))
    arranged = image.arrange(binary(f'(module (memory (export "memory") 16) {lines})'))
    assert len(arranged.data) == 16 * PAGE
    store = wasmtime.Store()
    wasmtime.Module(store.engine, arranged.binary)


def test_passive_segments_stay_and_used_ones_are_used_up(guests: Guests, tmp_path: Path) -> None:
    path = tmp_path / "segments.wasm"
    path.write_bytes(
        binary(f"""(module (memory (export "memory") 2)
          (data $active (i32.const 5) "{HELLO}") (data $passive "abc")
          (func (export "read") (param i32) (result i32) (i32.load8_u (local.get 0)))
          (func (export "init") (result i32)
            (memory.init $passive (i32.const 1) (i32.const 1) (i32.const 2))
            (memory.init $active (i32.const 9) (i32.const 0) (i32.const 0))
            (data.drop $active)
            (i32.load16_u (i32.const 1)))
          (func (export "again") (memory.init $active (i32.const 0) (i32.const 0) (i32.const 1))))""")
    )
    for _ in range(2):  # what one guest writes no other sees
        assert guests.run(path, "5", function="read").lines == ["120"]
        assert guests.run(path, "4", function="read").lines == ["0"]
        assert guests.run(path, function="init").lines == [str(ord("b") + 256 * ord("c"))]
        assert guests.run(path, function="again").code == 134


def test_guests_share_the_image_and_keep_their_own_changes(guests: Guests, tmp_path: Path) -> None:
    path = tmp_path / "own.wasm"
    path.write_bytes(
        binary(f"""(module (memory (export "memory") 2) (data (i32.const 70000) "{HELLO}")
          (func (export "bump") (result i32)
            (i32.store8 (i32.const 70000) (i32.add (i32.load8_u (i32.const 70000)) (i32.const 1)))
            (i32.load8_u (i32.const 70000))))""")
    )
    assert [guests.run(path, function="bump").lines for _ in range(3)] == [["121"]] * 3


def test_collected_objects_beside_an_image_live_in_a_memory_of_their_own(guests: Guests, tmp_path: Path) -> None:
    path = tmp_path / "both.wasm"
    path.write_bytes(
        binary(f"""(module (memory (export "memory") 1) (data (i32.const 0) "{HELLO}")
          (type $bytes (array (mut i8)))
          (func (export "both") (param i32) (result i32 i32)
            (array.len (array.new $bytes (i32.const 0) (local.get 0))) (i32.load8_u (i32.const 3))))""")
    )
    assert guests.run(path, "200000", function="both").lines == ["200000", "120"]
