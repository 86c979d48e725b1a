"""`run`, `inspect` and `compile` with a real WasmEdge."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import PATIENCE, Cli, Ended, example
from tests.support.modules import binary, module, section, wasi
from tests.support.plugin import PRELOADED, build

pytestmark = pytest.mark.xdist_group("wasmedge")
ON_WASMEDGE = ("run", "--engine", "wasmedge")
MIB = 1 << 20

# A function that throws and one that catches, as exceptions were before they were standardised.
OLD_EXCEPTIONS = module(
    section(1, b"\x02\x60\x00\x00\x60\x01\x7f\x00"),
    section(3, b"\x01\x00"),
    section(13, b"\x01\x00\x01"),
    section(7, b"\x01\x06_start\x00\x00"),
    section(10, b"\x01\x0c\x00\x06\x40\x41\x03\x08\x00\x07\x00\x1a\x0b\x0b"),
)
SHARED_MEMORY = '(module (memory (export "memory") 1 2 shared) (func (export "_start")))'
SOCKETS = """(module (import "wasi_snapshot_preview1" "sock_open" (func (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (func (export "_start")))"""
# Each call keeps a frame, which no compiler can do without.
DEEP = """(module (memory (export "memory") 1)
  (func $down (param i32) (result i32) (local i32)
    (i32.store (i32.const 0) (local.get 0))
    (local.set 1 (call $down (i32.add (local.get 0) (i32.const 1))))
    (i32.store (i32.const 4) (local.get 1))
    (i32.xor (local.get 1) (i32.mul (local.get 0) (i32.load (i32.const 0)))))
  (func (export "_start") (drop (call $down (i32.const 1)))))"""


def report(ended: Ended) -> dict[str, Any]:
    return dict(json.loads(ended.stderr.splitlines()[-1]))


# --- what a guest gets


def test_a_program_runs(edge: Cli) -> None:
    ended = edge(*ON_WASMEDGE, example("hello"))
    assert (ended.code, ended.text, ended.stderr) == (0, "Hello from WebAssembly!\n", "")


def test_arguments_and_variables_reach_it_as_they_are(edge: Cli) -> None:
    given = ("--dir", "two words", "", "é", "-h", "--")
    variables = ("A=1", "B=x=y", "C=", "-D=2", "E=one\ntwo")
    options = [word for each in variables for word in ("-e", each)]
    ended = edge(*ON_WASMEDGE, *options, example("args"), *given)
    arguments = [f"argv[{number}]={each}" for number, each in enumerate(("args.wasm", *given))]
    assert ended.text == "\n".join([*arguments, *sorted(variables), ""])  # as it prints them


def test_its_name_is_the_one_given(edge: Cli) -> None:
    assert edge(*ON_WASMEDGE, "--name", "program", example("args")).lines == ["argv[0]=program.wasm"]


def test_it_sees_nothing_of_the_callers_environment(edge: Cli) -> None:
    assert edge(*ON_WASMEDGE, example("args"), env={"SECRET": "1"}).lines == ["argv[0]=args.wasm"]


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_bytes_go_through_as_they_are(edge: Cli, size: int) -> None:
    data = os.urandom(size)
    ended = edge(*ON_WASMEDGE, example("cat"), stdin=data)
    assert (ended.code, ended.stdout == data, ended.stderr) == (0, True, "")


def test_without_stdin_it_reads_the_end_at_once(edge: Cli) -> None:
    process = edge.start(*ON_WASMEDGE, "--no-stdin", example("cat"))
    assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(("argument", "code"), [("0", 0), ("7", 7), ("126", 126), ("255", 255), ("134", 134)])
def test_exit_codes_are_its_own(edge: Cli, argument: str, code: int) -> None:
    assert edge(*ON_WASMEDGE, example("exit"), argument).code == code


def test_a_function_is_called_with_its_arguments(edge: Cli) -> None:
    assert edge(*ON_WASMEDGE, f"{example('reactor')}#add", "2", "0x28").lines == ["42"]
    assert edge(*ON_WASMEDGE, f"{example('reactor')}#fail").code == 134
    said = edge.refused(*ON_WASMEDGE, f"{example('reactor')}#add", "x", "1")
    assert said == f"{example('reactor')}: argument 1 of add must be i32, not 'x'"
    said = edge.refused(*ON_WASMEDGE, example("reactor"))
    assert said.endswith("it is a reactor, of which WasmEdge only calls a function: name one as MODULE#FUNCTION")


# --- folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    (made / "file").write_text("content\n")
    (tmp_path / "outside").write_text("secret\n")
    return made


def test_a_folder_is_read_and_written(edge: Cli, folder: Path) -> None:
    assert edge(*ON_WASMEDGE, "--dir", f"{folder}:/in", example("files"), "read", "/in/file").text == "content\n"
    assert edge(*ON_WASMEDGE, "--dir", f"{folder}:/in", example("files"), "write", "/in/new", "text").code == 0
    assert (folder / "new").read_text() == "text"


@pytest.mark.parametrize(
    "command",
    [
        ("write", "/in/new", "x"), ("append", "/in/file", "x"), ("rm", "/in/file"), ("mkdir", "/in/x"),
        ("mv", "/in/file", "/in/x"), ("truncate", "/in/file"), ("touch", "/in/file", "1"),
        ("link", "/in/file", "/in/x"), ("symlink", "file", "/in/x"),
    ],
)  # fmt: skip
def test_a_read_only_folder_is_only_read(edge: Cli, folder: Path, command: tuple[str, ...]) -> None:
    before = (folder / "file").stat()
    options = ("--dir", f"{folder}:/in:ro")
    assert edge(*ON_WASMEDGE, *options, example("files"), "read", "/in/file").text == "content\n"
    assert edge(*ON_WASMEDGE, *options, example("files"), *command).code == 1
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert ((folder / "file").read_text(), (folder / "file").stat().st_mtime) == ("content\n", before.st_mtime)


@pytest.mark.parametrize(
    "path", ["/in/../outside", "/in/up", "/in/absolute", "/in/top/etc/hostname", "/etc/hostname"]
)
def test_nothing_leads_out_of_a_folder(edge: Cli, folder: Path, path: str) -> None:
    (folder / "up").symlink_to("../outside")
    (folder / "absolute").symlink_to(folder.parent / "outside")
    (folder / "top").symlink_to("/")
    ended = edge(*ON_WASMEDGE, "--dir", f"{folder}:/in", example("files"), "read", path)
    assert (ended.code, ended.stdout) == (1, b"")


def test_a_folder_with_a_colon_is_refused(edge: Cli, tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    said = edge.refused(*ON_WASMEDGE, "--dir", ".:/a", "--cwd", "/a/a:b", example("hello"))
    assert said == f"WasmEdge cannot be given the folder '{tmp_path / 'a:b'}': it takes a colon for a separator"


def test_relative_paths_start_at_the_working_directory(edge: Cli, folder: Path) -> None:
    options = ("--dir", f"{folder.parent}:/all", "--cwd", "/all/data")
    assert edge(*ON_WASMEDGE, *options, example("files"), "read", "file").text == "content\n"


# --- ends


@pytest.mark.parametrize("kind", ["unreachable", "divide", "bounds", "indirect"])
def test_a_trap_ends_with_134_and_the_reason_behind_the_output(edge: Cli, kind: str) -> None:
    ended = edge(*ON_WASMEDGE, "--json", example("trap"), kind)
    found = report(ended)
    assert (ended.code, found["reason"], found["exit_code"]) == (134, "trapped", 134)
    assert "[error] execution failed: " in ended.text
    assert ended.stderr.startswith("wasm-sandboxer: trap.wasm: trap: WasmEdge says why at the end of its output, ")


@pytest.mark.parametrize("how", ["compiled", "interpreted"])
def test_endless_recursion_ends_with_134_and_takes_no_more_than_it_may(edge: Cli, tmp_path: Path, how: str) -> None:
    path = tmp_path / "deep.wasm"
    # A tag keeps WasmEdge from compiling.
    path.write_bytes(binary(DEEP if how == "compiled" else DEEP.replace("(module", "(module (tag)", 1)))
    ended = edge(*ON_WASMEDGE, "--memory", "16MiB", "--json", path)
    found = report(ended)
    assert (ended.code, found["reason"]) == (134, "trapped"), ended
    assert found["peak_memory"] < 512 * MIB


def test_memory_bounds_it_without_a_word_of_wasmedges(edge: Cli) -> None:
    ended = edge(*ON_WASMEDGE, "--memory", "4MiB", example("memhog"), "10")
    assert (ended.code, ended.lines, ended.stderr) == (3, ["1 MiB", "2 MiB", "3 MiB", "refused at 3 MiB"], "")
    assert edge(*ON_WASMEDGE, "--memory", "8MiB", example("memhog"), "10").lines[-1] == "refused at 7 MiB"
    assert edge(*ON_WASMEDGE, example("memhog"), "10").code == 0


def test_several_memories_share_the_bound(edge: Cli, wat: Callable[..., Path]) -> None:
    path = wat("""(module (memory $a 1) (memory $b 1)
      (func (export "grow") (param i32) (result i32 i32)
        (memory.grow $a (local.get 0)) (memory.grow $b (local.get 0))))""")
    assert edge(*ON_WASMEDGE, "--memory", "1MiB", f"{path}#grow", "7").lines == ["1", "1"]
    assert edge(*ON_WASMEDGE, "--memory", "1MiB", f"{path}#grow", "8").lines == ["4294967295", "4294967295"]


def test_memory_that_does_not_hold_the_module_is_refused(edge: Cli) -> None:
    said = edge.refused(*ON_WASMEDGE, "--memory", "64KiB", example("hello"))
    assert said == f"{example('hello')}: it needs 128 KiB of memory to start, and its limit is 64 KiB"


@pytest.mark.parametrize("doing", [("sleep", "forever"), ("spin",), ("cat",), ("flood",)])
def test_a_time_limit_ends_it(edge: Cli, doing: tuple[str, ...]) -> None:
    process = edge.start(*ON_WASMEDGE, "--timeout", "300ms", example(doing[0]), *doing[1:])
    assert process.wait(PATIENCE) == 124


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)  # fmt: skip
def test_a_signal_ends_it_and_nothing_stays(edge: Cli, number: signal.Signals, code: int) -> None:
    process = edge.start(*ON_WASMEDGE, example("sleep"), "forever")
    child = wait_for_child(process.pid)
    process.send_signal(number)
    assert process.wait(PATIENCE) == code
    wait_for_end(child)


def test_it_dies_with_the_program(edge: Cli) -> None:
    process = edge.start(*ON_WASMEDGE, example("sleep"), "forever")
    child = wait_for_child(process.pid)
    process.kill()
    process.wait(PATIENCE)
    wait_for_end(child)


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_child(pid: int) -> int:
    """The WasmEdge that runs as a child of this process."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):  # a child that has ended since: not all run the guest
                threads = list(Path(f"/proc/{child}/task").iterdir())
                if "sleep.wasm" in Path(f"/proc/{child}/cmdline").read_text() and len(threads) > 1:
                    return int(child)
        time.sleep(0.01)
    raise TimeoutError


# --- network


def test_its_sockets_reach_the_host_if_they_may(edge: Cli) -> None:
    process = edge.start("run", "--network", "host", example("socket-server"), "0")
    assert process.stdout is not None
    port = int(process.stdout.readline().decode().removeprefix("listening on port "))
    for number in (1, 2, 3):
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            assert connection.makefile().read() == f"hello {number}\n"


def test_its_sockets_reach_nothing_if_they_may_not(edge: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = edge.start("run", example("socket-server"), str(port))
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    if not line:
        assert process.stderr is not None
        assert "which this host refuses" in process.stderr.read().decode()  # an ordinary user on some hosts
        return
    assert line == f"listening on port {port}\n"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), PATIENCE)


# --- plugins


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("plugins"))


def test_a_plugin_is_loaded_for_those_who_name_it(edge: Cli, wat: Callable[..., Path], plugins: Path) -> None:
    path = wat(PRELOADED)
    assert edge("run", "--plugins", plugins, path).code == 0
    assert edge("run", "--plugins", plugins / "libtest.so", path).code == 0
    said = edge.refused("run", path)
    assert (
        said
        == f"{path}: missing import wasi_nn::loaded: it is not offered by WasmEdge or a plugin that is found here"
    )


def test_models_are_loaded_before_it_starts(edge: Cli, folder: Path, wat: Callable[..., Path], plugins: Path) -> None:
    model = ("--nn-preload", "default:GGML:AUTO:/in/file", "--dir", f"{folder}:/in")
    ended = edge("run", "--plugins", plugins, *model, wat(PRELOADED))
    assert ended.code == len(f"default:GGML:AUTO:{folder}/file")
    said = edge.refused(*ON_WASMEDGE, *model, example("hello"))
    assert said.endswith("it has models to be loaded before, and WasmEdge has no plugin wasi_nn here")
    said = edge.refused("run", "--plugins", plugins, *model[:2], wat(PRELOADED))
    assert said == (
        "the model 'default:GGML:AUTO:/in/file' is not NAME:ENCODING:TARGET:FILE with a file that the guest sees"
    )


# --- the choice


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (SOCKETS, "it imports wasi_snapshot_preview1::sock_open, which only WasmEdge offers"),
        (SHARED_MEMORY, "it uses shared memory (threads), which only WasmEdge offers here"),
        (OLD_EXCEPTIONS, "legacy_exceptions feature required for try instruction"),
    ],
)
def test_what_only_wasmedge_can_run_runs_there_by_itself(
    edge: Cli, tmp_path: Path, source: str | bytes, reason: str
) -> None:
    path = tmp_path / "m.wasm"
    path.write_bytes(binary(source) if isinstance(source, str) else source)
    assert edge("run", path).code == 0
    found = json.loads(edge("inspect", "--json", path).stdout)
    assert found["engine"] == "wasmedge"
    assert reason in found["reason"]
    assert found["needs"][0].startswith("WasmEdge 0.14.")
    assert edge("run", "--engine", "wasmtime", path).code == 2


def test_text_is_run_there_too(edge: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.wat").write_text(SOCKETS)
    assert edge("run", "m.wat").code == 0
    assert json.loads(edge("inspect", "--json", "m.wat").stdout)["engine"] == "wasmedge"


def test_all_else_runs_on_wasmtime(edge: Cli) -> None:
    found = json.loads(edge("inspect", "--json", example("hello")).stdout)
    assert (found["engine"], found["reason"]) == ("wasmtime", "")
    found = json.loads(edge("inspect", "--json", "--engine", "wasmedge", example("hello")).stdout)
    assert (found["engine"], found["reason"]) == ("wasmedge", "it is asked for")


def test_inspect_tells_of_a_wasmedge_that_is_missing(cli: Cli, wat: Callable[..., Path]) -> None:
    ended = cli("inspect", wat(SOCKETS), env={"WASMEDGE": "/nonexistent"})
    assert ended.code == 0
    assert ended.lines[2] == (
        "Engine:   wasmedge: it imports wasi_snapshot_preview1::sock_open, which only WasmEdge offers: "
        "cannot use WasmEdge at /nonexistent: No such file or directory"
    )


def test_without_wasmedge_nothing_else_is_lost(cli: Cli) -> None:
    assert cli("run", example("exit"), "3", env={"WASMEDGE": "/nonexistent"}).code == 3
    said = cli.refused(*ON_WASMEDGE, example("hello"), env={"WASMEDGE": "/nonexistent"})
    assert said == "cannot use WasmEdge at /nonexistent: No such file or directory"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo wasmedge version 0.13.5", "WasmEdge 0.13.5 at {path} is not one we know how to use: 0.14 is"),
        ("echo wasmedge version 0.17.1", "WasmEdge 0.17.1 at {path} is not one we know how to use: 0.14 is"),
        ("echo something else", "{path} --version tells no version: something else"),
        ("exit 3", "{path} --version tells no version: exit code 3"),
    ],
)
def test_a_wasmedge_that_is_not_known_is_refused(cli: Cli, tmp_path: Path, script: str, said: str) -> None:
    path = tmp_path / "wasmedge"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    assert cli.refused(*ON_WASMEDGE, example("hello"), env={"WASMEDGE": str(path)}) == said.format(path=path)


@pytest.mark.usefixtures("namespaces")
def test_wasmedge_is_found_on_path(cli: Cli, wasmedge: Path) -> None:
    ended = cli(*ON_WASMEDGE, example("exit"), "5", env={"PATH": f"{wasmedge.parent}:{os.environ['PATH']}"})
    assert (ended.code, ended.stderr) == (5, "")


# --- modules that mean harm, or nothing


def test_machine_code_in_a_module_is_not_run(edge: Cli, tmp_path: Path, wasmedge: Path) -> None:
    """What WasmEdge compiles from one module, brought in by another, must not be taken for that one's code."""
    import subprocess

    source, compiled = tmp_path / "seven.wasm", tmp_path / "compiled.wasm"
    source.write_bytes(
        binary(f'(module {wasi("proc_exit")} (func (export "_start") (call $proc_exit (i32.const 7))))')
    )
    subprocess.run([wasmedge, "compile", source, compiled], check=True, capture_output=True)
    code = compiled.read_bytes()[len(source.read_bytes()) :]
    other = binary(f'(module {wasi("proc_exit")} (func (export "_start") (call $proc_exit (i32.const 9))))')
    trojan = tmp_path / "trojan.wasm"
    trojan.write_bytes(other + code)
    assert subprocess.run([wasmedge, trojan], check=False, capture_output=True).returncode == 7  # it would
    assert edge(*ON_WASMEDGE, trojan).code == 9


def test_a_shared_object_is_refused(edge: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.wasm").write_bytes(Path("/bin/true").read_bytes())
    assert edge.refused(*ON_WASMEDGE, "m.wasm") == "m.wasm: not WebAssembly but an ELF program"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('(module (import "env" "f" (func)) (func (export "_start")))', "missing import env::f: it is not offered"),
        (
            '(module (import "wasi_snapshot_preview1" "fd_write" (func)) (func (export "_start")))',
            "missing import wasi_snapshot_preview1::fd_write: it is of another type",
        ),
        (
            '(module (import "wasi_snapshot_preview1" "sock_bind" (func (param i64))) (func (export "_start")))',
            "it imports sock_bind as func (i64), which it is not",
        ),
        ("(module (memory i64 1))", "it has a 64-bit memory, which WasmEdge does not know"),
        ('(module (func (export "f")))', "it has no _start to run; name one as MODULE#FUNCTION: f"),
        ("(component)", "it is a component, and WasmEdge runs only core modules"),
    ],
)
def test_a_module_it_cannot_run_is_refused_in_one_line(
    edge: Cli, wat: Callable[..., Path], text: str, said: str
) -> None:
    assert said in edge.refused(*ON_WASMEDGE, wat(text))


def test_what_reads_a_strangers_module_sees_nothing_of_the_host(cli: Cli, tmp_path: Path, superuser: None) -> None:
    (tmp_path / "bin").mkdir(mode=0o755)
    script = tmp_path / "bin" / "wasmedge"
    script.write_text("""#!/bin/sh
        [ "$1" = --version ] && echo wasmedge version 0.14.1 && exit
        found=$(for each in /etc/passwd /root /home /var /usr/bin/env; do [ -e $each ] && echo $each; done)
        echo "[error] $(id -u) $(touch /usr/new 2>/dev/null || echo refused)" $found
        exit 1""")
    script.chmod(0o755)
    said = cli.refused(*ON_WASMEDGE, example("hello"), env={"WASMEDGE": str(script)})
    assert said == f"{example('hello')}: 65534 refused /usr/bin/env"
    (tmp_path / "bin").chmod(0o700)
    said = cli.refused(*ON_WASMEDGE, example("hello"), env={"WASMEDGE": str(script)})
    assert said == f"{example('hello')}: {script} must be for everybody to read and execute"


def test_an_invalid_module_is_refused(edge: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.wasm").write_bytes(
        module(section(1, b"\x01\x60\x00\x00"), section(3, b"\x01\x00"), section(10, b"\x01\x03\x00\x6a\x0b"))
    )
    assert "validation failed: type mismatch" in edge.refused(*ON_WASMEDGE, "m.wasm")


def test_a_start_function_is_not_run_to_find_out_what_is_missing(edge: Cli, wat: Callable[..., Path]) -> None:
    path = wat("""(module (import "env" "missing" (func)) (func $spin (loop $l (br $l))) (start $spin)
      (func (export "_start")))""")
    assert "missing import env::missing" in edge.refused(*ON_WASMEDGE, path)


def test_a_function_whose_reference_is_taken_stays_valid_while_it_is_tried(
    edge: Cli, wat: Callable[..., Path]
) -> None:
    path = wat('(module (func $f (export "f")) (func (export "_start") (drop (ref.func $f))))')
    assert edge(*ON_WASMEDGE, path).code == 0


# --- the store


def test_a_module_is_compiled_once(fresh: Cli, wasmedge: Path) -> None:
    fresh_edge = {"WASMEDGE": str(wasmedge)}
    first = fresh("compile", "--engine", "wasmedge", example("hello"), env=fresh_edge)
    assert ": compiled in " in first.text
    second = fresh("compile", "--engine", "wasmedge", example("hello"), env=fresh_edge)
    assert ": already in the store " in second.text
    (folder,) = (fresh.root / "modules").glob("wasmedge-0.14.*")
    assert len(list(folder.glob("*.cwasm"))) == 1
    assert fresh("run", example("hello")).code == 0  # wasmtime's is another
    assert fresh("modules", "prune", "--unused-for", "1h").code == 0
    assert len(list(folder.glob("*.cwasm"))) == 1


@pytest.mark.usefixtures("namespaces")
def test_a_compiled_module_that_somebody_changed_is_compiled_anew(fresh: Cli, wasmedge: Path) -> None:
    variables = {"WASMEDGE": str(wasmedge)}
    assert fresh("compile", "--engine", "wasmedge", example("exit"), env=variables).code == 0
    (file,) = (fresh.root / "modules").glob("wasmedge-*/*.cwasm")
    file.write_bytes(file.read_bytes()[:-10])
    ended = fresh(*ON_WASMEDGE, example("exit"), "4", env=variables)
    assert ended.code == 4
    assert "its content was changed" in ended.stderr


def test_compiling_is_bounded(fresh: Cli, wasmedge: Path, heavy: Path) -> None:
    variables = {"WASMEDGE": str(wasmedge)}
    said = fresh.refused(*ON_WASMEDGE, "--compile-timeout", "300ms", heavy, env=variables)
    assert said == (
        f"{heavy}: compiling it takes longer than its bound of 0.3 s; raise --compile-timeout if you trust it"
    )
    said = fresh.refused(*ON_WASMEDGE, "--compile-memory", "100MiB", heavy, env=variables)
    assert said == (
        f"{heavy}: compiling it needs more memory than its bound of 100 MiB; raise --compile-memory if you trust it"
    )
    assert list(fresh.root.glob("modules/*/*")) == []
