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


def memory_of(module: bytes, under: bytes = b"", at: int = 0) -> bytes:
    """What a module's memory holds once it is instantiated by the engine's own means, over what lay there before."""
    store = wasmtime.Store()
    instance = wasmtime.Instance(store, wasmtime.Module(store.engine, module), [])
    memory = instance.exports(store)["memory"]
    assert isinstance(memory, wasmtime.Memory)
    content = bytearray(memory.read(store))
    if under:
        assert not any(content)  # nothing of what is mapped is written again
        content[at : at + len(under)] = under
    return bytes(content)


def split(module: bytes) -> tuple[bytes, bytes, int]:
    return image.split(module, wasm.spaces(module))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3 * PAGE), st.integers(0, PAGE), st.integers(0, 255)), min_size=1, max_size=8)
)
def test_any_segments_give_the_memory_that_the_engine_would(segments: list[tuple[int, int, int]]) -> None:
    lines = "".join(f'(data (i32.const {at}) "{chr(97 + fill % 26) * size}")' for at, size, fill in segments)
    module = binary(f'(module (memory (export "memory") 4) {lines})')
    stripped, data, at = split(module)
    if sum(size for _, size, _ in segments) >= 32 << 10 and data:
        assert len(stripped) < len(module)
    assert memory_of(stripped, data, at) == memory_of(module)


@pytest.mark.parametrize(
    "fields",
    [
        f'(memory (export "memory") 1) (data (i32.const 0) "{"x" * 100}")',  # little
        f'(memory 1) (memory (export "memory") 1) (data (i32.const 0) "{HELLO}")',  # of several
        f'(import "m" "m" (memory 1)) (data (i32.const 0) "{HELLO}")',  # another's
        f'(memory i64 1) (data (i64.const 0) "{HELLO}")',
        f'(import "m" "g" (global i32)) (memory 1) (data (global.get 0) "{HELLO}")',  # known only later
        f'(memory 0) (data (i32.const 0) "{HELLO}")',  # does not fit
        f'(memory 1) (data (i32.const -4) "{HELLO}")',
        f'(memory 100) (data (i32.const 0) "{HELLO}") (data (i32.const 6000000) "y")',  # mostly holes
        f'(memory 1) (data "{HELLO}")',  # passive
    ],
)
def test_what_cannot_be_mapped_or_is_not_worth_it_stays(fields: str) -> None:
    module = binary(f"(module {fields})")
    assert split(module) == (module, b"", 0)


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
