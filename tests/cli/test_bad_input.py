"""Whatever is wrong with the input is one clear line on stderr and exit code 2, never a traceback."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import Cli, example
from tests.support.modules import EMPTY, PREAMBLE, binary, module, section

HELLO = example("hello").read_bytes()
HELLO_COMPONENT = example("hello-component").read_bytes()
SIZES = "write bytes or a unit, as in 512KiB, 64MiB, 1GiB"
TIMES = "write seconds or a unit, as in 500ms, 10s, 1h30m"
CPUS = "write one from 0.001 to 100000, as in 0.5"
TIMES_OF_X = f"'x' is not a duration; {TIMES}"


# --- files that are no modules


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\x7fELF\x02\x01\x01", "not WebAssembly but an ELF program"),
        (b"#!/bin/sh\n", "not WebAssembly but a script"),
        (b"hello, world\n", "not WebAssembly but text"),
        ("ä(module)".encode(), "not WebAssembly but text"),
        (b"(module \xff)", "not WebAssembly but text"),
        (b"PK\x03\x04\x14", "not WebAssembly but a ZIP archive"),
        (b"MZ\x90", "not WebAssembly but a Windows program"),
        (b"\x1f\x8b\x08", "not WebAssembly but gzip data"),
        (b"BC\xc0\xde", "not WebAssembly but LLVM bitcode"),
        (b'{"json": 1}', "not WebAssembly but JSON or similar text"),
        (b"<!DOCTYPE html>", "not WebAssembly but an HTML page"),
        (random.Random(2).randbytes(1000), "not WebAssembly but unknown data"),
        (b"\0asm", "the file is cut short: 4 bytes, and a preamble alone has 8"),
        (b"\0asm\x02\0\0\0", "WebAssembly of an unknown version (0x2); version 1 and components are known"),
        (
            b"\0asm\x0a\0\1\0",
            "failed to parse WebAssembly module: unknown binary version:    0x1000a (at offset 0x4)",
        ),
        (PREAMBLE + b"\x01", "the file is cut short or damaged: a section runs past its end"),
        (PREAMBLE + b"\x01\xff\xff\xff\xff\x0f", "the file is cut short or damaged: a section runs past its end"),
        (PREAMBLE + b"\x63\x00", "failed to parse WebAssembly module: malformed section id: 99 (at offset 0xa)"),
        (HELLO + b"\x00", "the file is cut short or damaged: a section runs past its end"),
        (b";; nothing", "expected at least one module field (line 1, column 11)"),
        (b"(module", "expected `)` (line 1, column 8)"),
        (b"(modul)", "expected valid module field (line 1, column 2)"),
        (b"(module (func (call $none)))", "unknown func: failed to find name `$none` (line 1, column 21)"),
    ],
)
def test_a_file_that_is_no_module_says_what_it_is(cli: Cli, tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "bad.wasm").write_bytes(content)
    assert cli.refused("run", "bad.wasm") == f"bad.wasm: {said}"


def test_a_file_that_is_not_there_is_refused(cli: Cli) -> None:
    assert cli.refused("run", "none.wasm") == "none.wasm: no such file"
    assert cli.refused("run", "none.wasm#f") == "none.wasm: no such file"


@pytest.mark.parametrize("module", ["", "#f", "#"])
def test_a_module_without_a_name_is_refused(cli: Cli, module: str) -> None:
    assert cli.refused("run", module) == f"'{module}' names no file; write MODULE or MODULE#FUNCTION"


def test_a_folder_is_no_module(cli: Cli, tmp_path: Path) -> None:
    assert cli.refused("run", tmp_path) == f"{tmp_path}: this is a folder, not a WebAssembly module"


def test_a_path_through_a_file_is_refused(cli: Cli) -> None:
    assert cli.refused("run", f"{example('hello')}/x") == f"{example('hello')}/x: cannot be read: Not a directory"


def test_a_loop_of_links_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert cli.refused("run", "loop") == "loop: cannot be read: Too many levels of symbolic links"


@pytest.mark.usefixtures("ordinary_user")
def test_a_file_that_may_not_be_read_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.wasm").touch(mode=0)
    assert cli.refused("run", "mine.wasm") == "mine.wasm: cannot be read: Permission denied"


def test_compiled_code_is_refused_whatever_its_name(cli: Cli, tmp_path: Path) -> None:
    cli("compile", example("hello"))
    compiled = next(cli.root.glob("modules/*/*.cwasm")).read_bytes()
    for name, content, said in (
        ("a.cwasm", compiled, "compiled code is only trusted from the module store; give the .wasm it was made from"),
        ("b.cwasm", HELLO, "compiled code is only trusted from the module store; give the .wasm it was made from"),
        ("c.wasm", compiled, "not WebAssembly but an ELF program"),
    ):
        (tmp_path / name).write_bytes(content)
        assert cli.refused("run", name) == f"{name}: {said}"


@pytest.mark.parametrize("whole", [HELLO, HELLO_COMPONENT], ids=["module", "component"])
def test_a_file_cut_short_anywhere_is_refused_in_one_line(cli: Cli, tmp_path: Path, whole: bytes) -> None:
    lengths = sorted({*range(40), *range(40, len(whole), len(whole) // 40), len(whole) - 1})
    for length in lengths:
        (tmp_path / f"{length}.wasm").write_bytes(whole[:length])
    ended = cli("compile", *(f"{length}.wasm" for length in lengths), "--store-size", "1MiB")
    lines = ended.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == [f"{length}.wasm" for length in lengths if length != 8]
    assert ended.code == 2
    words = ("cut short", "the file is empty", "(at offset 0x")
    assert all(any(word in line for word in words) for line in lines), lines


# --- modules that cannot run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('(module (func (export "_start") (i32.add)))', "type mismatch: expected i32 but nothing on stack"),
        ('(module (func (export "_start") (drop (i32.load (i32.const 0)))))', "unknown memory 0"),
        ('(module (func (export "_start") (local.get 7)))', "unknown local 7"),
    ],
)
def test_a_module_that_is_not_valid_is_refused_with_the_offset(
    cli: Cli, wat: Callable[..., Path], text: str, said: str
) -> None:
    line = cli.refused("run", wat(text))
    assert "at offset " in line
    assert said in line


MISSING = [
    ("env", "abort", "the module expects a host of its own; build it for WASI"),
    ("wasi_unstable", "fd_write", "this is preview 0, older than anything here runs; build it for preview 1"),
    ("wasi_snapshot_preview1", "nonsense", "no engine here offers it"),
    ("wbg", "__wbindgen_throw", "the module was built for JavaScript (wasm-bindgen); build it for WASI"),
    ("./bindings_bg.js", "x", "no engine here offers it"),
    ("gojs", "runtime.wasmExit", "the module was built for JavaScript (GOOS=js); build it with GOOS=wasip1"),
    ("go", "runtime.wasmExit", "the module was built for JavaScript (GOOS=js); build it with GOOS=wasip1"),
    ("a", "a", "the module was built for JavaScript (Emscripten); build it for WASI"),
    ("host", "f", "no engine here offers it"),
]


FOR_WASMEDGE = [
    ("wasi_snapshot_preview1", "sock_open", "WasmEdge offers its sockets (--engine wasmedge)"),
    ("wasi_ephemeral_nn", "load", "WasmEdge may offer it as a plugin (--engine wasmedge)"),
    ("wasi_nn", "load", "WasmEdge may offer it as a plugin (--engine wasmedge)"),
    ("wasmedge_image", "load", "WasmEdge offers it (--engine wasmedge)"),
]


@pytest.mark.parametrize(("where", "name", "hint"), FOR_WASMEDGE)
def test_an_import_that_only_wasmedge_offers_is_missing_in_wasmtime(
    cli: Cli, wat: Callable[..., Path], where: str, name: str, hint: str
) -> None:
    path = wat(f'(module (import "{where}" "{name}" (func)) (func (export "_start")))')
    said = cli.refused("run", "--engine", "wasmtime", path)
    assert said == f"{path}: missing import {where}::{name}: {hint}"


@pytest.mark.parametrize(("where", "name", "hint"), FOR_WASMEDGE)
def test_a_module_for_wasmedge_is_refused_where_there_is_none(
    cli: Cli, wat: Callable[..., Path], where: str, name: str, hint: str
) -> None:
    path = wat(f'(module (import "{where}" "{name}" (func)) (func (export "_start")))')
    missing = cli.folder / "none"
    assert cli.refused("run", path, env={"WASMEDGE": str(missing)}) == (
        f"{path}: it imports {where}::{name}, which only WasmEdge offers: "
        f"cannot use WasmEdge at {missing}: No such file or directory"
    )


@pytest.mark.parametrize(("where", "name", "hint"), MISSING)
def test_a_missing_import_is_named_with_who_would_offer_it(
    cli: Cli, wat: Callable[..., Path], where: str, name: str, hint: str
) -> None:
    path = wat(f'(module (import "{where}" "{name}" (func)) (func (export "_start")))')
    assert cli.refused("run", path) == f"{path}: missing import {where}::{name}: {hint}"


def test_many_missing_imports_are_counted(cli: Cli, wat: Callable[..., Path]) -> None:
    imports = "".join(f'(import "env" "f{number}" (func))' for number in range(7))
    path = wat(f'(module {imports} (func (export "_start")))')
    assert cli.refused("run", path) == (
        f"{path}: missing import env::f0, env::f1, env::f2, env::f3, env::f4 and 2 more: "
        "the module expects a host of its own; build it for WASI"
    )


@pytest.mark.parametrize("kind", ["(memory 1)", "(table 1 funcref)", "(global i32)", "(tag)", "(func (param v128))"])
def test_a_missing_import_of_any_kind_is_named(cli: Cli, wat: Callable[..., Path], kind: str) -> None:
    path = wat(f'(module (import "env" "it" {kind}) (func (export "_start")))')
    assert cli.refused("run", path).startswith(f"{path}: missing import env::it: ")


def test_an_import_of_another_type_is_refused(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat('(module (import "wasi_snapshot_preview1" "fd_write" (func)) (func (export "_start")))')
    assert cli.refused("run", path) == (
        f"{path}: an import has a type this engine does not offer: "
        "incompatible import type for `wasi_snapshot_preview1::fd_write`"
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("wasi:nn/graph@0.2.0", "no engine here offers this interface or version"),
        ("wasi:cli/environment@0.3.0", "no engine here offers this interface or version"),
        ("wasi:http/outgoing-handler@0.2.0", "outgoing requests need --network host; serving is not offered"),
        ("example:own/thing", "no engine here offers it"),
    ],
)
def test_a_components_missing_import_is_named(cli: Cli, tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / "c.wat").write_text(f'(component (import "{name}" (instance (export "f" (func)))))')
    assert cli.refused("run", "c.wat") == f"c.wat: missing import {name}: {hint}"


def test_a_components_import_of_something_new_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "c.wat").write_text(
        """(component
          (import "wasi:cli/environment@0.2.99" (instance (export "new" (func))))
          (core module $m (func (export "run") (result i32) (i32.const 0)))
          (core instance $i (instantiate $m))
          (func $run (result (result)) (canon lift (core func $i "run")))
          (instance $r (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $r)))"""
    )
    assert cli.refused("run", "c.wat").startswith("c.wat: its instance could not be made: component imports instance")


def test_a_module_with_shared_memory_is_refused_by_wasmtime(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat('(module (memory (export "memory") 1 1 shared) (func (export "_start")))')
    said = cli.refused("run", "--engine", "wasmtime", path)
    assert said == f"{path}: it uses shared memory (threads), which only WasmEdge offers here"


def test_names_in_a_module_cannot_command_a_terminal(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat(r'(module (import "\1b[2J" "a\0d\0ab\e2\80\a8" (func)) (func (export "_start")))')
    assert cli.refused("run", path).startswith(rf"{path}: missing import \x1b[2J::a\r b\u2028: ")


# --- the compiler's bounds


def test_a_module_that_takes_too_long_to_compile_is_refused(fresh: Cli, heavy: Path) -> None:
    assert fresh.refused("run", "--compile-timeout", "300ms", heavy) == (
        f"{heavy}: compiling it takes longer than its bound of 0.3 s; raise --compile-timeout if you trust it"
    )
    assert list(fresh.root.glob("modules/*/*")) == []


def test_a_module_that_takes_too_much_to_compile_is_refused(fresh: Cli, heavy: Path) -> None:
    assert fresh.refused("run", "--compile-memory", "64MiB", heavy) == (
        f"{heavy}: compiling it needs more memory than its bound of 64 MiB; raise --compile-memory if you trust it"
    )
    assert list(fresh.root.glob("modules/*/*")) == []


def test_absurd_bounds_are_no_bounds(fresh: Cli) -> None:
    options = ("--compile-memory", "8000000TiB", "--compile-timeout", "99999999d", "--memory", "8000000TiB")
    assert fresh("run", *options, "--timeout", "99999999999999999999d", example("exit"), "3").code == 3


# --- arguments and options


def test_arguments_that_are_not_utf8_are_refused(cli: Cli) -> None:
    said = cli.refused("run", example("args"), b"\xff")
    assert said == r"argument 1 is not valid UTF-8, which WASI asks for: '\udcff'"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--memory", "x"], f"Invalid value for '--memory': 'x' is not a size; {SIZES}"),
        (["--memory", ""], f"Invalid value for '--memory': '' is not a size; {SIZES}"),
        (["--memory", "-1"], f"Invalid value for '--memory': '-1' is not a size; {SIZES}"),
        (["--memory", "1XB"], f"Invalid value for '--memory': '1XB' is not a size; {SIZES}"),
        (["--memory", "٣"], f"Invalid value for '--memory': '٣' is not a size; {SIZES}"),
        (["--memory", "9" * 5000], f"Invalid value for '--memory': '{'9' * 40}' is more than any machine has"),
        (["--memory", "8388608TiB"], "Invalid value for '--memory': '8388608TiB' is more than any machine has"),
        (["--compile-memory", "x"], f"Invalid value for '--compile-memory': 'x' is not a size; {SIZES}"),
        (["--store-size", "x"], f"Invalid value for '--store-size': 'x' is not a size; {SIZES}"),
        (["--timeout", "x"], f"Invalid value for '--timeout': 'x' is not a duration; {TIMES}"),
        (["--timeout", ""], f"Invalid value for '--timeout': '' is not a duration; {TIMES}"),
        (["--timeout", "-1s"], f"Invalid value for '--timeout': '-1s' is not a duration; {TIMES}"),
        (["--timeout", "1y"], f"Invalid value for '--timeout': '1y' is not a duration; {TIMES}"),
        (["--timeout", "9" * 400], f"Invalid value for '--timeout': '{'9' * 40}' is longer than anything lasts"),
        (["--compile-timeout", "x"], f"Invalid value for '--compile-timeout': 'x' is not a duration; {TIMES}"),
        *(
            (["--cpus", count], f"Invalid value for '--cpus': '{count}' is not a number of processors; {CPUS}")
            for count in ("nan", "inf", "1e15", "100001", "0", "-1", "1_0", "٣", "")
        ),
        (["--network", "bridge"], "Invalid value for '--network': 'bridge' is not one of 'none', 'host'"),
        (["--engine", "v8"], "Invalid value for '--engine': 'v8' is not one of 'auto', 'wasmtime', 'wasmedge'"),
        (["--nope"], "No such option '--nope'. Did you mean '--name'?"),
        (["-x"], "No such option '-x'"),
    ],
)
def test_a_bad_option_is_refused(cli: Cli, options: list[str], said: str) -> None:
    assert cli.refused("run", *options, example("hello")) == f"{said} (see wasm-sandboxer run --help)"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "Missing argument 'MODULE[#FUNCTION]' (see wasm-sandboxer run --help)"),
        (["run", "--env"], "Option '--env' requires an argument (see wasm-sandboxer --help)"),
        (["none"], "No such command 'none' (see wasm-sandboxer --help)"),
        (["--none"], "No such option '--none' (see wasm-sandboxer --help)"),
        (["inspect"], "Missing argument 'MODULE' (see wasm-sandboxer inspect --help)"),
        (["inspect", "a", "b"], "Got unexpected extra argument (b) (see wasm-sandboxer inspect --help)"),
        (["compile"], "Missing argument 'MODULE…' (see wasm-sandboxer compile --help)"),
        (["modules", "none"], "No such command 'none' (see wasm-sandboxer modules --help)"),
        (["modules", "rm"], "Missing argument 'DIGEST…' (see wasm-sandboxer modules rm --help)"),
        (["modules", "prune", "--unused-for", "x"],
         f"Invalid value for '--unused-for': {TIMES_OF_X} (see wasm-sandboxer modules prune --help)"),
    ],
)  # fmt: skip
def test_a_bad_command_is_refused(cli: Cli, arguments: list[str], said: str) -> None:
    assert cli.refused(*arguments) == said


# --- where the store cannot be


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("/proc/none", "No such file or directory"),
        ("/dev/null/x", "Not a directory"),
    ],
)
def test_a_root_that_cannot_be_made_is_refused(cli: Cli, root: str, said: str) -> None:
    assert cli.refused("run", "--root", root, example("hello")) == (
        f"cannot make the module store at {root}: {said}; choose another with --root"
    )


def test_a_root_that_is_a_file_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = cli.refused("run", "--root", "file", example("hello"))
    assert said == "Invalid value for '--root': Directory 'file' is a file (see wasm-sandboxer run --help)"


def test_a_root_that_others_may_write_is_refused(cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o777)
    assert cli.refused("run", "--root", root, example("hello")) == (
        f"the module store at {root} must belong to user {os.geteuid()} and be writable only by them; "
        f"it belongs to {os.geteuid()} with mode 777"
    )


def test_a_root_that_is_a_link_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    assert cli.refused("run", "--root", tmp_path / "link", example("hello")) == (
        f"the module store needs a folder at {tmp_path / 'link'}, and something else is there"
    )


@pytest.mark.usefixtures("superuser")
def test_a_root_of_somebody_else_is_refused(cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    os.chown(root, 4321, 4321)
    assert cli.refused("run", "--root", root, example("hello")) == (
        f"the module store at {root} must belong to user 0 and be writable only by them; "
        "it belongs to 4321 with mode 700"
    )


@pytest.mark.usefixtures("ordinary_user")
def test_a_root_that_may_not_be_written_is_refused(cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "root"
    cli("modules", "ls", "--root", root)
    key = next((root / "modules").iterdir())
    key.chmod(0o500)
    try:
        assert cli.refused("run", "--root", root, example("hello")) == (
            f"cannot write to the module store at {key}: Permission denied; choose another with --root"
        )
    finally:
        key.chmod(0o700)


def test_a_store_without_room_is_one_line(cli: Cli, tmp_path: Path) -> None:
    said = cli.refused("run", "--root", tmp_path / "root", example("hello"), wrapper=("prlimit", "--fsize=4096"))
    assert "File too large" in said


# --- the rest


def test_help_is_shown_when_nothing_is_asked(cli: Cli) -> None:
    ended = cli()
    assert (ended.code, ended.stderr.splitlines()[0]) == (2, "Usage: wasm-sandboxer [OPTIONS] COMMAND [ARGS]...")


def test_a_module_of_sections_that_mean_nothing_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "odd.wasm").write_bytes(module(section(5, b"\x01\x00\x01"), section(5, b"\x01\x00\x01")))
    assert "(at offset 0x" in cli.refused("run", "odd.wasm")


def test_an_empty_module_is_refused_for_what_it_lacks(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty.wasm").write_bytes(PREAMBLE)
    assert cli.refused("run", "empty.wasm") == ("empty.wasm: it has no _start to run; it exports no function at all")
    (tmp_path / "good.wasm").write_bytes(binary(EMPTY))
    assert cli("run", "good.wasm").code == 0
