"""A module's imports and exports, read by us: the same as the engine says where it can say it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import wasmtime

from tests.support.cli import EXAMPLES
from tests.support.modules import PREAMBLE, binary, module, section
from wasm_sandboxer.engine.interface import Interface, interface_of
from wasm_sandboxer.engine.wasmtime.runtime import configuration
from wasm_sandboxer.errors import ModuleError

MODULES = sorted(path for path in EXAMPLES.glob("*.wasm") if path.read_bytes().startswith(PREAMBLE))
TYPES = """(module
  (rec (type $node (sub (struct (field (ref null $node)) (field (mut i8)))))
       (type $leaf (sub final $node (struct (field (ref null $node)) (field (mut i8)) (field i16)))))
  (type $bytes (array (mut i8)))
  (type $f (func (param i32 i64 f32 f64 v128) (result i32 externref)))
  (import "env" "f" (func $imported (type $f)))
  (import "env" "m" (memory 1))
  (import "env" "t" (table 1 2 externref))
  (import "env" "g" (global f64))
  (import "env" "tag" (tag (param i32)))
  (func $own (export "own") (param (ref $bytes) (ref null extern) i31ref) (result (ref null $leaf)) unreachable)
  (table (export "with-values") 2 (ref null func) (ref.func $own))
  (table (export "plain") 5 funcref)
  (memory (export "second") 3 9)
  (global i32 (i32.add (i32.const 1) (i32.mul (i32.const -5) (i32.const 0x7fffffff))))
  (global (ref null $bytes) (array.new_fixed $bytes 2 (i32.const 1) (i32.const 2)))
  (global (ref $bytes) (array.new_default $bytes (i32.const 9)))
  (global (ref null $leaf) (struct.new_default $leaf))
  (global v128 (v128.const i64x2 1 2))
  (global f32 (f32.const 1.5))
  (global f64 (f64.const 2.5))
  (global i64 (i64.const -9223372036854775808))
  (global (ref i31) (ref.i31 (i32.const 5)))
  (global externref (extern.convert_any (ref.null any)))
  (global (export "last") (mut (ref null any)) (ref.null none))
  (export "again" (func $imported)) (export "tag" (tag 0)) (export "g" (global 0)) (export "first" (memory 0)))"""


def types(interface: Interface) -> dict[str, str]:
    return {item.name: item.type for item in interface.exports}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_examples_are_read_as_the_engine_reads_them(path: Path) -> None:
    loaded = wasmtime.Module(wasmtime.Engine(configuration()), path.read_bytes())
    interface = interface_of(path.read_bytes())
    assert [(item.module, item.name) for item in interface.imports] == [
        (item.module, item.name) for item in loaded.imports
    ]
    assert [item.name for item in interface.exports] == [item.name for item in loaded.exports]
    for item in loaded.exports:
        if isinstance(item.type, wasmtime.FuncType):
            signature = interface.functions[item.name]
            assert signature.params == tuple(str(param) for param in item.type.params)
            assert signature.results == tuple(str(result) for result in item.type.results)


def test_types_of_every_kind_are_read() -> None:
    interface = interface_of(binary(TYPES))
    assert [(item.name, item.type) for item in interface.imports] == [
        ("f", "func (i32, i64, f32, f64, v128) -> (i32, externref)"), ("m", "memory of 1 page"),
        ("t", "table of 1 externref"), ("g", "global f64"), ("tag", "tag (i32)"),
    ]  # fmt: skip
    assert types(interface) == {
        "own": "func ((ref 2), externref, i31ref) -> (ref null 1)",
        "with-values": "table of 2 funcref",
        "plain": "table of 5 funcref",
        "second": "memory of 3 pages, at most 9",
        "last": "mutable global anyref",
        "again": "func (i32, i64, f32, f64, v128) -> (i32, externref)",
        "tag": "tag (i32)",
        "g": "global f64",
        "first": "memory of 1 page",
    }
    assert interface.functions["own"].params == ("(ref 2)", "externref", "i31ref")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("(ref null any)", "anyref"), ("(ref any)", "(ref any)"), ("(ref none)", "(ref none)"),
        ("(ref noextern)", "(ref noextern)"), ("(ref null nofunc)", "nullfuncref"), ("exnref", "exnref"),
        ("(ref struct)", "(ref struct)"), ("(ref array)", "(ref array)"), ("(ref eq)", "(ref eq)"),
        ("(ref null noexn)", "nullexnref"), ("(ref 0)", "(ref 0)"),
    ],
)  # fmt: skip
def test_references_have_the_names_that_the_text_format_gives_them(kind: str, text: str) -> None:
    interface = interface_of(binary(f'(module (type (func)) (func (export "f") (param {kind})))'))
    assert interface.functions["f"].params == (text,)


def test_an_interface_survives_the_stores_index() -> None:
    interface = interface_of(binary(TYPES))
    assert Interface.from_json(json.loads(json.dumps(dataclasses.asdict(interface)))) == interface


def test_an_empty_module_has_an_empty_interface() -> None:
    assert interface_of(PREAMBLE) == Interface(functions={})


@pytest.mark.parametrize(
    "body",
    [
        section(1, b"\x01"), section(1, b"\x01\x00"), section(2, b"\x01\x01\xff\x00\x00\x00"),
        section(7, b"\x01\x01f\x00\x05"), section(7, b"\x01\x01f\x09\x00"), section(6, b"\x01\x7f\x00\xff"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(ModuleError, match="its imports and exports cannot be read"):
        interface_of(module(body))


@pytest.mark.parametrize("kind", ["v128", "anyref", "(ref null 0)", "exnref", "(ref func)"])
def test_types_that_the_c_api_aborts_at_end_no_process(kind: str, tmp_path: Path) -> None:
    text = f'(module (type (func)) (import "env" "f" (func (param {kind}))) (func (export "_start") (param {kind})))'
    path = tmp_path / "module.wat"
    path.write_text(text)
    script = f"""if True:
        import sys
        from pathlib import Path
        from tests.support.guests import new_engine
        from wasm_sandboxer.engine.source import read_source
        from wasm_sandboxer.guest import Guest
        program = new_engine(Path({str(tmp_path / "root")!r})).load(read_source(Path({str(path)!r})))
        print(program.imports, program.exports, program.needs())
        try:
            program.check(Guest(module=Path("m"), argv=("m",)))
        except Exception as error:
            print(error)
        """
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "missing import env::f" in ended.stdout
