"""`inspect`: what a module is, imports, exports and needs to run."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Cli, example


def inspected(cli: Cli, path: Path) -> dict[str, Any]:
    ended = cli("inspect", "--json", path)
    assert (ended.code, ended.stderr) == (0, ""), ended
    return dict(json.loads(ended.stdout))


def test_a_module_is_described_for_people(cli: Cli) -> None:
    ended = cli("inspect", example("trap"))
    digest = hashlib.sha256(example("trap").read_bytes()).hexdigest()
    assert (
        ended.text
        == f"""\
Module:   {example("trap")}
Kind:     module
Engine:   wasmtime
Size:     895 B
Digest:   sha256:{digest}
Memory:   64 KiB at the start
Needs:
  WASI preview 1 (4 functions)
  nothing more: it is a command (_start)
Imports:
  wasi_snapshot_preview1
    args_sizes_get: func (i32, i32) -> i32
    args_get: func (i32, i32) -> i32
    fd_write: func (i32, i32, i32, i32) -> i32
    proc_exit: func (i32)
Exports:
  memory: memory of 1 page
  _start: func ()
"""
    )


def test_a_component_is_described_for_people(cli: Cli) -> None:
    lines = cli("inspect", example("tcp-server")).lines
    assert lines[1] == "Kind:     component"
    assert [line for line in lines if line.startswith("Memory:")] == ["Memory:   128 KiB at the start"]
    needs = lines[lines.index("Needs:") + 1 : lines.index("Imports:")]
    assert needs == [
        "  WASI preview 2 (wasi:cli, wasi:io, wasi:sockets)",
        "  --network host, to reach anything with its sockets or requests",
        "  nothing more: it is a command (wasi:cli/run@0.2.0)",
    ]
    assert lines[-1] == "  wasi:cli/run@0.2.0#run: func () -> result"


def test_json_says_the_same(cli: Cli) -> None:
    found = inspected(cli, example("reactor"))
    assert found["kind"] == "module"
    assert found["size"] == example("reactor").stat().st_size
    assert found["digest"] == "sha256:" + hashlib.sha256(example("reactor").read_bytes()).hexdigest()
    assert (found["imports"], found["memories"]) == ({}, [])
    assert {item["name"]: item["type"] for item in found["exports"]} == {
        "_initialize": "func ()", "add": "func (i32, i32) -> i32", "counter": "func () -> i32",
        "scale": "func (f64, f32) -> f64", "wide": "func (i64) -> i64", "pair": "func () -> (i32, i64)",
        "fail": "func ()",
    }  # fmt: skip
    assert found["needs"] == [
        "no WASI",
        ("a function to call: it is a reactor; name one as MODULE#FUNCTION: "
         "add, counter, scale, wide, pair, fail"),
    ]  # fmt: skip


def test_memories_are_told_in_bytes(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat("(module (memory 2 16) (memory i64 1))")
    assert inspected(cli, path)["memories"] == [
        {"minimum": 2 << 16, "maximum": 16 << 16}, {"minimum": 1 << 16, "maximum": None},
    ]  # fmt: skip
    assert [line for line in cli("inspect", path).lines if line.startswith("Memory:")] == [
        "Memory:   128 KiB at the start, at most 1 MiB", "Memory:   64 KiB at the start",
    ]  # fmt: skip


def test_types_of_every_kind_are_told(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat("""(module
      (type $pair (struct (field i32)))
      (import "env" "vector" (func (param v128) (result externref)))
      (import "env" "global" (global (mut (ref null any))))
      (table (export "table") 3 funcref)
      (memory (export "wide") i64 1 2)
      (global (export "number") i64 (i64.const 1))
      (tag (export "tag") (param i32))
      (func (export "make") (param (ref null $pair) structref) (result (ref func)) unreachable))""")
    found = inspected(cli, path)
    assert found["imports"] == {
        "env": [
            {"name": "vector", "type": "func (v128) -> externref"},
            {"name": "global", "type": "mutable global anyref"},
        ]
    }
    assert {item["name"]: item["type"] for item in found["exports"]} == {
        "table": "table of 3 funcref", "wide": "64-bit memory of 1 page, at most 2", "number": "global i64",
        "tag": "tag (i32)", "make": "func ((ref null 0), structref) -> (ref func)",
    }  # fmt: skip


def test_a_missing_import_is_no_reason_not_to_inspect(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat('(module (import "env" "f" (func)) (func (export "_start")))')
    assert inspected(cli, path)["needs"] == [
        "missing import env::f: the module expects a host of its own; build it for WASI"
    ]


def test_a_components_missing_imports_are_all_told(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "c.wat").write_text(
        '(component (import "a:b/c" (instance (export "f" (func)))) (import "g" (func (param "x" u8))))'
    )
    assert inspected(cli, tmp_path / "c.wat")["needs"] == [
        "no WASI",
        "missing import a:b/c: no engine here offers it",
        "missing import g: no engine here offers it",
        "a function to call; it exports no function at all",
    ]
    assert "  g\n    func (x: u8)\n" in cli("inspect", "c.wat").text


def test_a_components_results_are_told_with_their_types(cli: Cli, tmp_path: Path) -> None:
    types = ["(result)", "(result u8)", "(result (error string))", "(result u8 (error string))"]
    items = "".join(f'(import "f{number}" (func (result {each})))' for number, each in enumerate(types))
    (tmp_path / "c.wat").write_text(f"(component {items})")
    found = inspected(cli, tmp_path / "c.wat")["imports"]
    assert [item["type"] for items in found.values() for item in items] == [
        "func () -> result", "func () -> result<u8>", "func () -> result<_, string>", "func () -> result<u8, string>",
    ]  # fmt: skip


def test_a_library_is_told_to_need_a_function(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat('(module (func (export "f")))')
    assert inspected(cli, path)["needs"] == [
        "no WASI", "a function to call: it is a library; name one as MODULE#FUNCTION: f",
    ]  # fmt: skip


def test_an_empty_module_is_told_to_be_one(cli: Cli, wat: Callable[..., Path]) -> None:
    lines = cli("inspect", wat("(module)")).lines
    assert lines[-2:] == ["Imports:  none", "Exports:  none"]


def test_names_cannot_command_a_terminal(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat(r'(module (import "\1b[2J" "\0d" (func)) (func (export "\07")))')
    text = cli("inspect", path).text
    assert all(line.isprintable() for line in text.splitlines())
    assert r"  \x1b[2J" in text.splitlines()


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_a_file_that_is_no_module_is_refused(cli: Cli, tmp_path: Path, json_option: list[str]) -> None:
    (tmp_path / "bad.wasm").write_bytes(b"\x7fELF")
    assert cli.refused("inspect", *json_option, "bad.wasm") == "bad.wasm: not WebAssembly but an ELF program"


def test_a_file_whose_name_is_no_text_is_shown(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "\udcff.wasm"
    path.write_bytes(example("reactor").read_bytes())
    for encoding in ("utf-8", "ascii"):
        ended = cli("inspect", path, env={"PYTHONIOENCODING": encoding})
        assert ended.lines[0] == rf"Module:   {tmp_path}/\udcff.wasm"


@pytest.mark.parametrize("name", ["hello", "socket-server"])  # the second is asked of two engines
def test_a_module_may_come_through_a_pipe(cli: Cli, name: str) -> None:
    source = example(name).read_bytes()
    told = json.loads(cli("inspect", "--json", "-", stdin=source).stdout)
    file = json.loads(cli("inspect", "--json", example(name)).stdout)
    assert told == {**file, "module": "/dev/stdin"}
    assert told["size"] == len(source)
    assert cli.refused("inspect", "-", stdin=b"text") == "/dev/stdin: not WebAssembly but text"
