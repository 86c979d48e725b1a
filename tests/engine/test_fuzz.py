"""Whatever bytes or words come: an answer or one of the domain's errors, never anything else.

The same examples at every run, so that a failure is found again.
"""

import string
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.cli import EXAMPLES, example
from tests.support.guests import new_engine
from tests.support.modules import COMPONENT_PREAMBLE, PREAMBLE, section
from wasm_sandboxer.cli import one_line
from wasm_sandboxer.cli.grants import environment, preopens
from wasm_sandboxer.engine import values, wasm
from wasm_sandboxer.engine.interface import Signature, interface_of
from wasm_sandboxer.engine.source import read_source
from wasm_sandboxer.engine.wasmtime.engine import WasmtimeEngine
from wasm_sandboxer.errors import InvalidArgument, ModuleError, ResourceExhausted, WasmSandboxerError
from wasm_sandboxer.guest import Guest
from wasm_sandboxer.units import format_duration, format_size, parse_duration, parse_size

fuzzed = settings(
    derandomize=True, database=None, deadline=None, max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@pytest.fixture(scope="module")
def small_engine(tmp_path_factory: pytest.TempPathFactory) -> WasmtimeEngine:
    return new_engine(tmp_path_factory.mktemp("fuzz") / "root")


@pytest.fixture(scope="module")
def load(small_engine: WasmtimeEngine, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], None]:
    """Does with a file what inspect and run do before anything of it runs."""
    path = tmp_path_factory.mktemp("fuzz") / "module.wasm"

    def do(data: bytes) -> None:
        path.write_bytes(data)
        said = ""
        try:
            program = small_engine.load(read_source(path))
            assert all(item.type for item in (*program.imports, *program.exports))
            assert program.needs()
            program.check(Guest(module=path, argv=("m", "1"), function=None))
        except (ModuleError, ResourceExhausted) as error:
            said = str(error)
            assert said
        assert len(one_line(said).splitlines()) <= 1

    return do


# --- files


@fuzzed
@given(data=st.binary(max_size=300), start=st.sampled_from([b"", PREAMBLE, COMPONENT_PREAMBLE, b"("]))
def test_random_bytes_are_no_trace(load: Callable[[bytes], None], start: bytes, data: bytes) -> None:
    load(start + data)


SECTIONS = st.lists(
    st.one_of(
        st.builds(section, st.integers(0, 15), st.binary(max_size=40)),
        st.sampled_from([
            section(1, b"\x01\x60\x00\x00"), section(1, b"\x01\x60\x01\x7b\x01\x6f"), section(3, b"\x01\x00"),
            section(5, b"\x01\x00\x01"), section(5, b"\x01\x04\x01"), section(7, b"\x01\x01f\x00\x00"),
            section(2, b"\x01\x01a\x01b\x00\x00"), section(2, b"\x01\x01a\x01b\x02\x00\x01"),
            section(10, b"\x01\x02\x00\x0b"), section(13, b"\x01\x00\x00"), section(8, b"\x00"),
        ]),
    ),
    max_size=8,
)  # fmt: skip


@fuzzed
@given(parts=SECTIONS, preamble=st.sampled_from([PREAMBLE, COMPONENT_PREAMBLE]))
def test_random_sections_are_no_trace(load: Callable[[bytes], None], parts: list[bytes], preamble: bytes) -> None:
    load(preamble + b"".join(parts))


EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from("sidt"), st.integers(0, 255)),
                 min_size=1, max_size=6)  # fmt: skip


@fuzzed
@given(name=st.sampled_from(["hello", "trap", "reactor", "hello-component", "tcp-server"]), edits=EDITS)
def test_valid_modules_with_errors_are_no_trace(
    load: Callable[[bytes], None], name: str, edits: list[tuple[float, str, int]]
) -> None:
    data = bytearray(example(name).read_bytes())
    for place, kind, byte in edits:
        at = int(place * len(data))
        if kind == "s" and data:
            data[at] = byte
        elif kind == "i":
            data.insert(at, byte)
        elif kind == "d":
            del data[at : at + byte % 8]
        else:
            del data[max(at, 8) :]
    load(bytes(data))


WORDS = st.sampled_from([
    "(module", "(component", ")", "(func", "(export", '"f"', "(import", '"env"', "(memory", "1", "(param", "i32",
    "v128", "(type", "$t", "(start", "0", ";;", "(;", ";)", '"\\00"', "(result", "unreachable", "(core", "(table",
    "funcref", "(global", "(ref", "null", "any)", "99999999999999999999", "(data", '"', "é",
])  # fmt: skip


@fuzzed
@given(words=st.lists(WORDS, max_size=30))
def test_random_text_is_no_trace(load: Callable[[bytes], None], words: list[str]) -> None:
    load(("(module " + " ".join(words)).encode())


@fuzzed
@given(data=st.binary(max_size=400), start=st.sampled_from([b"", PREAMBLE, COMPONENT_PREAMBLE]))
def test_reading_a_files_outer_structure_is_no_trace(start: bytes, data: bytes) -> None:
    wasm.describe(start + data)
    wasm.looks_like_text(start + data)
    for read in (wasm.kind_of, wasm.spaces, interface_of):
        with suppress(ModuleError):
            read(start + data)


@fuzzed
@given(name=st.sampled_from(sorted(path.stem for path in EXAMPLES.glob("*.wasm"))), length=st.floats(0, 1))
def test_every_beginning_of_an_example_is_read_or_refused(name: str, length: float) -> None:
    data = example(name).read_bytes()
    beginning = data[: int(length * len(data))]
    with suppress(ModuleError):
        assert len(wasm.spaces(beginning).memories) <= len(wasm.spaces(data).memories)


def test_components_nested_without_end_are_refused() -> None:
    data = COMPONENT_PREAMBLE
    for _ in range(100):
        data = COMPONENT_PREAMBLE + section(4, data)
    with pytest.raises(ModuleError, match="components are nested more than 16 deep"):
        wasm.spaces(data)


# --- words

# What a caller can give: anything but NUL, and bytes that are no UTF-8.
ODD = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
    st.text(string.digits + ".kmgtibKMGTIB smhdnuµ-+e_x:/=", max_size=40),
    st.sampled_from(["9" * 400, "9" * 5000, "9" * 5000 + ".5", "1" * 20 + "d" + "9" * 320 + "d", "\udcff"]),
)
DIRS = st.one_of(ODD, ODD.map(lambda text: "/:" + text), ODD.map(lambda text: ".:" + text))


@fuzzed
@given(text=ODD)
def test_sizes_and_durations_are_parsed_or_refused(text: str) -> None:
    with suppress(InvalidArgument):
        assert 0 <= parse_size(text) < 1 << 63
    with suppress(InvalidArgument):
        seconds = parse_duration(text)
        assert 0 <= seconds < float("inf")
        assert format_duration(seconds)


@fuzzed
@given(number=st.integers(0, (1 << 63) - 1))
def test_a_number_of_bytes_is_a_size(number: int) -> None:
    assert parse_size(str(number)) == parse_size(f" {number} B ") == number
    assert format_size(number).split()[1] in {"B", "KiB", "MiB", "GiB", "TiB"}


@fuzzed
@given(given=st.lists(ODD, max_size=4))
def test_variables_are_set_or_refused(given: list[str]) -> None:
    with suppress(InvalidArgument):
        found = environment((), tuple(given))
        assert all(name and "=" not in name for name in found)


@fuzzed
@given(dirs=st.lists(DIRS, max_size=3), cwd=st.one_of(st.none(), ODD))
def test_folders_are_given_or_refused(dirs: list[str], cwd: str | None) -> None:
    with suppress(WasmSandboxerError):
        found = preopens(tuple(dirs), cwd, Path("/nonexistent"))
        assert len(found) in (len(dirs), len(dirs) + 1)


@fuzzed
@given(
    kinds=st.lists(st.sampled_from(["i32", "i64", "f32", "f64", "v128", "externref"]), max_size=3),
    texts=st.lists(st.one_of(ODD, st.integers().map(str), st.floats().map(str), st.integers().map(hex)), max_size=3),
)
def test_arguments_of_functions_are_parsed_or_refused(kinds: list[str], texts: list[str]) -> None:
    signature = Signature(params=tuple(kinds), results=())
    with suppress(ModuleError):
        for kind, value in zip(kinds, values.parse_arguments("f", signature, tuple(texts)), strict=True):
            assert fits(kind, value)


def fits(kind: str, value: Any) -> bool:
    if kind[0] == "f":
        return isinstance(value, float)
    bits = int(kind[1:])
    return isinstance(value, int) and -(1 << bits - 1) <= value < 1 << bits - 1
