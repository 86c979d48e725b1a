"""A trap names itself, with the Wasm backtrace, on stderr; exit code 134."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import Cli, example

TRAPS = {
    "unreachable": "`unreachable` instruction executed",
    "divide": "integer divide by zero",
    "bounds": "memory fault at wasm address 0x10000 in linear memory of size 0x10000; out of bounds memory access",
    "stack": "call stack exhausted",
    "indirect": "indirect call type mismatch",
    "integer-overflow": "integer overflow",
    "conversion": "invalid conversion to integer",
}


@pytest.mark.parametrize("kind", TRAPS)
def test_a_trap_names_itself_and_its_functions(cli: Cli, kind: str) -> None:
    ended = cli("run", example("trap"), kind)
    first, second, *frames = ended.stderr.splitlines()
    assert (ended.code, ended.stdout) == (134, b"")
    assert first == f"wasm-sandboxer: trap.wasm: trap: {TRAPS[kind]}"
    assert second == "wasm backtrace:"
    assert frames[0].startswith(f"    0: trap!{kind.replace('-', '_')}")
    assert frames[-1].startswith("    1: trap!_start at 0x") or kind == "stack"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("(drop (table.get $t (i32.const 9)))", "undefined element: out of bounds table access"),
        ("(call_indirect (i32.const 9))", "undefined element: out of bounds table access"),
        ("(call_indirect (i32.const 0))", "uninitialized element"),
        ("(memory.fill (i32.const 65536) (i32.const 0) (i32.const 1))", "out of bounds memory access"),
        ("(drop (i32.rem_u (i32.const 1) (i32.const 0)))", "integer divide by zero"),
        ("(throw $e)", "thrown Wasm exception"),
    ],
)
def test_other_traps_name_themselves(cli: Cli, wat: Callable[..., Path], body: str, said: str) -> None:
    path = wat(f'(module (memory 1) (table $t 1 funcref) (tag $e) (func (export "_start") {body}))')
    ended = cli("run", path)
    assert ended.code == 134
    assert said in ended.stderr.splitlines()[0]


def test_functions_without_names_are_numbered(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat('(module (func (export "_start") (call 1)) (func unreachable))')
    assert cli("run", path).stderr.splitlines()[2].startswith("    0: <unknown>!<wasm function 1> at 0x")


def test_a_trap_in_a_start_function_is_one(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat('(module (func $early unreachable) (start $early) (func (export "_start")))')
    ended = cli("run", path)
    assert (ended.code, ended.stderr.splitlines()[0]) == (
        134, "wasm-sandboxer: module.wasm: trap: `unreachable` instruction executed",
    )  # fmt: skip


def test_a_trap_in_a_component_is_one(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "c.wat").write_text(
        """(component
          (core module $m (func $go unreachable) (func (export "run") (result i32) (call $go) (i32.const 0)))
          (core instance $i (instantiate $m))
          (func $run (result (result)) (canon lift (core func $i "run")))
          (instance $r (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $r)))"""
    )
    ended = cli("run", "c.wat")
    assert ended.code == 134
    assert ended.stderr.splitlines()[:2] == [
        "wasm-sandboxer: c.wat: trap: `unreachable` instruction executed", "wasm backtrace:",
    ]  # fmt: skip
    assert "0: m!go" in ended.stderr


def test_an_exit_is_no_trap_wherever_it_is_called(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat("""(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (func $early (call $exit (i32.const 9))) (start $early) (func (export "_start")))""")
    ended = cli("run", path)
    assert (ended.code, ended.stderr) == (9, "")
