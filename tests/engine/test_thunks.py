"""The machine code is what its listings say, for both machines."""

import ctypes
import os
import platform
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from wasm_sandboxer.engine import counting
from wasm_sandboxer.engine.wasmtime import making, memories, thunks
from wasm_sandboxer.linux import script, signals

THUNKS = {
    "on_epoch": thunks.ON_EPOCH, "call": thunks.CALL, "count": thunks.COUNT, "transfer": thunks.TRANSFER,
    "wait": thunks.WAIT,
}  # fmt: skip
ALL = {
    **THUNKS, "charge": counting.CHARGE, "release": counting.RELEASE, "get": memories.GET, "grow": memories.GROW,
    "new": making.NEW, "run": script.RUN, "nothing": signals.NOTHING,
}  # fmt: skip


@pytest.fixture(scope="module")
def assembler() -> None:
    pytest.importorskip("ziglang", reason="NOT RUN: needs the dev dependency ziglang")


def assembled(machine: str, listing: str, folder: Path) -> bytes:
    """What the listing gives: the text section of the object that zig's assembler makes of it."""
    source, target = folder / "thunk.s", folder / "thunk.o"
    source.write_text(f".text\n{listing}\n")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-musl", "-c", source, "-o", target]
    caches = {f"ZIG_{which}_CACHE_DIR": str(folder) for which in ("GLOBAL", "LOCAL")}
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **caches})
    return section(target.read_bytes(), b".text")


def section(elf: bytes, name: bytes) -> bytes:
    """A section of a 64-bit little-endian ELF file (elf(5))."""
    (start,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, start + index * size) for index in range(count)]
    table = headers[names][4]
    for header in headers:
        begin = table + header[0]
        if elf[begin : elf.index(b"\0", begin)] == name:
            return elf[header[4] : header[4] + header[5]]
    raise KeyError(name)


@pytest.mark.usefixtures("assembler")
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("name", ALL)
def test_a_listing_gives_its_bytes(name: str, machine: str, tmp_path: Path) -> None:
    thunk = ALL[name][machine]
    assert assembled(machine, thunk.listing, tmp_path).hex() == thunk.code.hex()


def test_the_cell_is_laid_out_as_the_listings_have_it() -> None:
    assert thunks.CELL_MEMORY == 0x30
    assert thunks.CELL_POLL == 0x38
    assert thunks.CELL_TIME == 0x50
    assert thunks.CELL_POLL + 3 * 8 == thunks.CELL_TIME  # three struct pollfd
    assert thunks.CELL_TIME + 16 == thunks.CELL_DOORS == 0x60  # one struct timespec
    assert thunks.CELL_DOORS + 4 * (thunks.DOORS + 1) == thunks.CELL_TEXT == 0x80
    assert thunks.CELL_NICE == 0x88
    assert thunks.CELL_STATUS == 0x90
    assert thunks.CELL_REFUSAL == 0x98
    assert (thunks.CELL_FILES, thunks.CELL_CHARGE, thunks.CELL_RELEASE) == (0xA0, 0xA8, 0xB0)
    assert thunks.CELL_RELEASE + 8 == thunks.CELL_SIZE
    assert thunks.CELL_SEMAPHORE + 32 == thunks.CELL_MEMORY  # one sem_t
    listings = " ".join(thunk.listing for name in ("transfer", "wait") for thunk in THUNKS[name].values())
    assert set(re.findall(r"0x[0-9a-f]+(?=\(%rdi|\])", listings)) <= {"0x30", "0x38", "0x50", "0x58"}


def test_the_block_is_laid_out_as_the_listings_have_it() -> None:
    assert thunks.BLOCK_ARGUMENTS + 8 * thunks.ARGUMENTS == thunks.BLOCK_DOORS == 0x40
    assert thunks.BLOCK_DOORS + 4 * (thunks.DOORS + 1) == thunks.BLOCK_TEXT == 0x60
    assert thunks.BLOCK_NICE == 0x68
    assert thunks.BLOCK_NICE + 8 == thunks.BLOCK_SIZE


def test_the_page_is_never_writable_and_executable_at_once() -> None:
    address = thunks.address("on_epoch")
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        if begin <= address < end:
            assert line.split()[1].startswith("r-x")
            return
    pytest.fail("the page is not mapped")


def test_the_page_holds_exactly_the_code_of_this_machine() -> None:
    for name, group in THUNKS.items():
        code = group[platform.machine()].code
        # Safe: the page is mapped readable for the life of the process.
        assert ctypes.string_at(thunks.address(name), len(code)) == code
        assert thunks.address(name) % 16 == 0


def test_every_thunk_is_there_for_every_machine() -> None:
    assert {frozenset(group) for group in ALL.values()} == {frozenset({"x86_64", "aarch64"})}
