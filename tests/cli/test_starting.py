"""Modules with a start function, in which some languages run all of a program."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import Cli
from tests.support.modules import wasi

SAYS = f"""
  {wasi("fd_write proc_exit poll_oneoff")}
  (memory (export "memory") 1)
  (data (i32.const 8) "\\10\\00\\00\\00\\03\\00\\00\\00hi\\n\\00")
  (func $say (drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 0))))"""
SLEEPS = """(i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 1000000000000))
  (drop (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 48)))"""


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], str]:
    def make(fields: str) -> str:
        path = tmp_path / "starting.wat"
        path.write_text(f"(module {SAYS} {fields})")
        return str(path)

    return make


def test_it_may_write(cli: Cli, made: Callable[[str], str]) -> None:
    module = made('(start $say) (func (export "_start") (call $say))')
    assert cli("run", module).lines == ["hi", "hi"]


def test_it_may_be_all_that_there_is_before_a_function(cli: Cli, made: Callable[[str], str]) -> None:
    module = made('(start $say) (func (export "two") (result i32) (i32.const 2))')
    assert cli("run", f"{module}#two").lines == ["hi", "2"]


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_it_may_exit(cli: Cli, made: Callable[[str], str], isolation: str) -> None:
    module = made('(func $s (call $say) (call $proc_exit (i32.const 55))) (start $s) (func (export "_start"))')
    ended = cli("run", "--isolation", isolation, module)
    assert (ended.code, ended.lines) == (55, ["hi"])


def test_its_trap_is_told_by_its_own_name(cli: Cli, made: Callable[[str], str]) -> None:
    ended = cli("run", made('(func $fails unreachable) (start $fails) (func (export "_start"))'))
    assert ended.code == 134
    assert "!fails" in ended.stderr
    assert "wasm-sandboxer/start" not in ended.stderr


def test_it_is_stopped_while_it_waits(cli: Cli, made: Callable[[str], str]) -> None:
    ended = cli("run", "--timeout", "200ms", made(f'(func $s {SLEEPS}) (start $s) (func (export "_start"))'))
    assert ended.code == 124


def test_nobody_is_shown_how_it_is_entered(cli: Cli, made: Callable[[str], str]) -> None:
    module = made('(start $say) (func (export "_start"))')
    assert b"wasm-sandboxer/start" not in cli("inspect", module).stdout
    assert "exports no function 'wasm-sandboxer/start'" in cli.refused("run", f"{module}#wasm-sandboxer/start")


def test_a_module_that_takes_the_name_for_itself_is_refused(cli: Cli, made: Callable[[str], str]) -> None:
    module = made('(start $say) (func (export "wasm-sandboxer/start"))')
    assert "it exports 'wasm-sandboxer/start', a name that is kept" in cli.refused("run", module)
