"""What the compiler's child refuses, and in whose words: those about the file that was given."""

from pathlib import Path

import pytest
from wasmtime import Engine, WasmtimeError
from wasmtime.component import Component

from tests.support.guests import Guests
from tests.support.modules import COMPONENT_PREAMBLE, binary, leb, module, section
from wasm_sandboxer.errors import ModuleError

NOTHING = section(1, b"\x01\x60\x00\x00") + section(3, b"\x01\x00")
EMPTY_CODE = section(10, b"\x01\x02\x00\x0b")


def many_exports(count: int) -> bytes:
    """One function under many names."""
    names = b"".join(b"\x06" + f"{number:06}".encode() + b"\x00\x00" for number in range(count))
    return module(NOTHING, section(7, leb(count) + names), EMPTY_CODE)


def refused(guests: Guests, folder: Path, content: bytes) -> str:
    path = folder / "module.wasm"
    path.write_bytes(content)
    with pytest.raises(ModuleError) as caught:
        guests.program(path)
    return str(caught.value)


def test_data_whose_place_has_another_width_than_its_memory_is_refused(guests: Guests, tmp_path: Path) -> None:
    memory, data = section(5, b"\x01\x00\x01"), section(11, b"\x01\x00\x42\x00\x0b\x01x")
    assert "expected i32, found i64 (at offset" in refused(guests, tmp_path, module(memory, data))


def test_a_module_with_more_exports_than_the_host_would_read_is_refused(guests: Guests, tmp_path: Path) -> None:
    message = refused(guests, tmp_path, many_exports(100_000))
    assert "its 0 imports and 100000 exports take" in message
    assert "1 MiB is the bound" in message


def test_a_component_with_more_tables_than_the_host_would_read_is_refused(guests: Guests, tmp_path: Path) -> None:
    tables = module(section(4, leb(100) + b"\x70\x00\x00" * 100))
    message = refused(guests, tmp_path, COMPONENT_PREAMBLE + section(1, tables) * 200)
    assert "its 0 memories and 20000 tables take" in message


def test_many_exports_are_no_harm(guests: Guests, tmp_path: Path) -> None:
    path = tmp_path / "module.wasm"
    path.write_bytes(many_exports(5000))
    assert len(guests.program(path).exports) == 5000


def test_what_is_wrong_in_a_component_is_told_where_it_stands_in_the_file(guests: Guests, tmp_path: Path) -> None:
    """Though its data was arranged anew before it was compiled, and all after it has moved."""
    data = "".join(f'(data (i32.const {at}) "{"x" * 300}")' for at in (0, 200))
    good = binary(f"(module (memory 1) {data})")
    bad = module(NOTHING, section(10, b"\x01\x04\x00\x42\x00\x0b"))
    whole = COMPONENT_PREAMBLE + section(1, good) + section(1, bad)
    with pytest.raises(WasmtimeError) as caught:
        Component(Engine(), whole)
    (place,) = [word.strip(":)") for word in str(caught.value).split() if word.strip(":)").isdigit()][-1:]
    assert place in refused(guests, tmp_path, whole)
