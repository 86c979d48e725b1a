"""`run`'s bounds, network, name and machine-readable result."""

import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import PATIENCE, PROGRAM, Cli, Ended, example
from tests.support.modules import wasi
from wasm_sandboxer.linux.cgroup.host import Host, detect

MIB = 1 << 20


def report(ended: Ended) -> dict[str, Any]:
    return dict(json.loads(ended.stderr.splitlines()[-1]))


# --- the module


def test_a_files_name_may_have_a_mark_in_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "x#y#z.wasm").write_bytes(example("reactor").read_bytes())
    (tmp_path / "x").write_text("none")
    assert cli("run", "x#y#z.wasm").code == 0
    assert cli("run", "x#y#z.wasm#add", "2", "40").lines == ["42"]


def test_a_module_may_come_through_stdin_of_which_the_guest_then_has_none(cli: Cli, tmp_path: Path) -> None:
    source = example("cat").read_bytes()
    (tmp_path / "in").write_bytes(source)
    with (tmp_path / "in").open("rb") as file:
        for stdin in (source, file):
            ended = cli("run", "-", stdin=stdin)
            assert (ended.code, ended.stdout, ended.stderr) == (0, b"", "")
    assert cli.refused("run", "-", stdin=b"text") == "/dev/stdin: not WebAssembly but text"


def test_text_may_begin_with_a_byte_order_mark(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.wat").write_text('(module (func (export "_start")))', encoding="utf-8-sig")
    assert cli("run", "m.wat").code == 0


def test_options_that_only_wasmedge_would_heed_are_not_dropped_in_silence(cli: Cli, tmp_path: Path) -> None:
    ended = cli("run", "--plugins", tmp_path, "--nn-preload", "a:b:c:d", example("hello"))
    assert (ended.code, ended.text) == (0, "Hello from WebAssembly!\n")
    assert ended.stderr.splitlines() == [
        f"wasm-sandboxer: {option} is not used: wasmtime runs hello.wasm, and only WasmEdge has plugins"
        for option in ("--plugins", "--nn-preload")
    ]


# --- memory


def test_memory_bounds_the_guest(cli: Cli) -> None:
    ended = cli("run", "--memory", "4MiB", example("memhog"), "10")
    assert (ended.code, ended.lines) == (3, ["1 MiB", "2 MiB", "3 MiB", "refused at 3 MiB"])


def test_a_guest_that_gives_up_over_memory_was_out_of_it(cli: Cli) -> None:
    ended = cli("run", "--json", "--memory", "2MiB", example("memhog"), "10", "1", "abort")
    assert (ended.code, ended.lines[-1]) == (137, "refused at 1 MiB")
    assert "out of memory: more than" in ended.stderr
    assert json.loads(ended.stderr.splitlines()[-1])["reason"] == "out-of-memory"


def test_a_trap_after_a_growth_that_went_well_is_none_of_memorys(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat("""(module (memory 1)
      (func (export "late") (drop (memory.grow (i32.const 100))) (drop (memory.grow (i32.const 1))) unreachable)
      (func (export "other") (drop (memory.grow (i32.const 100))) (drop (i32.div_s (i32.const 1) (i32.const 0))))
      (func (export "own") (drop (memory.grow (i32.const 65536))) unreachable))""")
    for function in ("late", "other"):
        assert cli("run", "--memory", "1MiB", f"{path}#{function}").code == 134
    assert cli("run", f"{path}#own").code == 134  # 32 bits refuse that, not a limit


def test_memory_that_does_not_hold_the_module_is_refused(cli: Cli) -> None:
    said = cli.refused("run", "--memory", "64KiB", example("hello"))
    assert said == f"{example('hello')}: it needs 128 KiB of memory to start, and its limit is 64 KiB"


def test_a_component_needs_its_memory_once(cli: Cli) -> None:
    said = cli.refused("run", "--memory", "64KiB", example("hello-component"))
    assert said == f"{example('hello-component')}: it needs 128 KiB of memory to start, and its limit is 64 KiB"
    assert cli("run", "--memory", "256KiB", example("hello-component")).code == 0


def test_several_memories_share_the_bound(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat("""(module (memory $a 1) (memory $b 1)
      (func (export "grow") (param i32) (result i32 i32)
        (memory.grow $a (local.get 0)) (memory.grow $b (local.get 0))))""")
    assert cli("run", "--memory", "1MiB", f"{path}#grow", "7").lines == ["1", "1"]
    assert cli("run", "--memory", "1MiB", f"{path}#grow", "8").lines == ["1", "-1"]
    assert cli.refused("run", "--memory", "64KiB", f"{path}#grow", "1") == (
        f"{path}: it needs 128 KiB of memory to start, and its limit is 64 KiB"
    )


def test_a_64_bit_memory_is_bounded_too(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat("""(module (memory i64 1)
      (func (export "grow") (param i64) (result i64) (memory.grow (local.get 0))))""")
    assert cli("run", f"{path}#grow", "65535").lines == ["1"]
    assert cli("run", f"{path}#grow", "65536").lines == ["-1"]
    assert cli("run", "--memory", "1MiB", f"{path}#grow", "16").lines == ["-1"]


def test_garbage_collected_objects_are_bounded_too(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat("""(module (type $bytes (array (mut i8)))
      (func (export "make") (param i32) (result i32) (array.len (array.new $bytes (i32.const 0) (local.get 0)))))""")
    assert cli("run", "--memory", "1MiB", f"{path}#make", "100000").lines == ["100000"]
    ended = cli("run", "--memory", "1MiB", f"{path}#make", "2000000")
    assert ended.code == 137
    assert "GC heap out of memory" in ended.stderr


def test_a_table_is_bounded(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat("""(module (table $t 0 externref)
      (func (export "grow") (param i32) (result i32) (table.grow $t (ref.null extern) (local.get 0))))""")
    assert cli("run", f"{path}#grow", str(1 << 16)).lines == ["0"]
    assert cli("run", f"{path}#grow", str((1 << 16) + 1)).lines == ["-1"]


# --- time


@pytest.mark.parametrize("command", [("sleep", "forever"), ("spin",), ("cat",), ("sleep-component",)])
def test_a_guest_over_its_time_exits_with_124_and_one_line(cli: Cli, command: tuple[str, ...]) -> None:
    process = cli.start("run", "--timeout", "100ms", example(command[0]), *command[1:])
    process.wait(PATIENCE)  # stdin stays open
    assert process.stderr is not None
    said = process.stderr.read().decode()
    expected = f"wasm-sandboxer: {command[0]}.wasm was stopped after 0.1 s, its time limit (--timeout)\n"
    assert (process.returncode, said) == (124, expected)


def test_a_guest_in_time_is_left_alone(cli: Cli) -> None:
    assert cli("run", "--timeout", "1h", example("exit"), "3").code == 3


# --- the network


def accept(process: "subprocess.Popen[bytes]") -> bytes:
    """What the server that the process runs says to one who connects."""
    assert process.stdout is not None
    found = re.fullmatch(rb"listening on port (\d+)\n", process.stdout.readline())
    assert found is not None
    with socket.create_connection(("127.0.0.1", int(found[1])), timeout=PATIENCE) as client:
        return client.recv(100)


def test_a_component_serves_the_hosts_network(cli: Cli) -> None:
    process = cli.start("run", "--network", "host", example("tcp-server"), "0")
    assert accept(process) == b"hello 1\n"


@pytest.mark.parametrize("options", [[], ["--network", "none"]])
def test_without_a_network_there_is_none(cli: Cli, options: list[str]) -> None:
    ended = cli("run", *options, example("tcp-server"), "0")
    assert ended.code != 0
    assert re.fullmatch(r"tcp-server: \S+: error 1\n", ended.text + ended.stderr), ended  # 1: access-denied


# --- names


def test_name_is_the_guests_own(cli: Cli) -> None:
    assert cli("run", "--name", "other", example("args"), "a").lines == ["argv[0]=other", "argv[1]=a"]


def test_name_is_what_messages_say(cli: Cli) -> None:
    assert cli("run", "--name", "other", example("trap")).stderr.startswith("wasm-sandboxer: other: trap: ")


def test_name_is_the_threads(cli: Cli) -> None:
    process = cli.start("run", "--name", "a-name-longer-than-the-kernel's", example("cat"))
    assert process.stdin is not None
    names = set[str]()
    while "a-name-longer-t" not in names:
        assert process.poll() is None
        with suppress(OSError):  # a thread that has ended since
            names = {path.read_text().strip() for path in Path(f"/proc/{process.pid}/task").glob("*/comm")}


def test_a_file_whose_name_is_no_text_runs(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path.joinpath("\udcff.wasm")
    path.write_bytes(example("args").read_bytes())
    assert cli("run", path).lines == [r"argv[0]=\udcff.wasm"]


# --- the engine


@pytest.mark.parametrize("engine", ["auto", "wasmtime"])
def test_the_first_engine_can_be_named(cli: Cli, engine: str) -> None:
    assert cli("run", "--engine", engine, example("exit"), "3").code == 3


# --- the result


def test_json_tells_how_a_guest_ended(cli: Cli) -> None:
    ended = cli("run", "--json", "--name", "three", example("memhog"), "3")
    found = report(ended)
    assert ended.lines == ["1 MiB", "2 MiB", "3 MiB"]
    assert 0 < found.pop("cpu_seconds") < PATIENCE
    assert 0 < found.pop("wall_seconds") < PATIENCE
    assert 3 * MIB < found.pop("peak_memory") < 4 * MIB
    assert found == {
        "name": "three", "module": str(example("memhog")), "exit_code": 0, "reason": "exited", "message": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ([example("exit"), "3"], 3, "exited"),
        ([example("trap")], 134, "trapped"),
        (["--timeout", "50ms", example("spin")], 124, "timeout"),
        (["--timeout", "50ms", example("sleep-component")], 124, "timeout"),
        (["none.wasm"], 2, "invalid"),
    ],
)
def test_json_tells_the_reason(cli: Cli, arguments: list[Any], code: int, reason: str) -> None:
    ended = cli("run", "--json", *arguments)
    found = report(ended)
    assert (ended.code, found["exit_code"], found["reason"]) == (code, code, reason)


def test_json_tells_a_traps_message(cli: Cli) -> None:
    found = report(cli("run", "--json", example("trap"), "divide"))
    assert found["message"].startswith("trap: integer divide by zero\nwasm backtrace:\n    0: trap!divide at 0x")


def test_json_refuses_in_json(cli: Cli) -> None:
    ended = cli("run", "--json", "none.wasm")
    assert json.loads(ended.stderr) == {
        "module": "none.wasm", "exit_code": 2, "reason": "invalid", "message": "none.wasm: no such file",
    }  # fmt: skip


def test_cpu_time_is_the_guests_own(cli: Cli) -> None:
    spun = report(cli("run", "--json", example("spin"), "0.2"))
    slept = report(cli("run", "--json", example("sleep"), "0.2"))
    assert spun["cpu_seconds"] > 2 * slept["cpu_seconds"]
    assert slept["wall_seconds"] >= 0.2


# --- nothing but what is given


def test_a_guest_finds_no_descriptor_of_ours(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat(f"""(module {wasi("fd_fdstat_get proc_exit")} (memory (export "memory") 1)
      (func (export "_start") (local $fd i32)
        (local.set $fd (i32.const 3))
        (loop $next
          (if (i32.ne (call $fd_fdstat_get (local.get $fd) (i32.const 0)) (i32.const 8))
            (then (call $proc_exit (local.get $fd))))
          (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $fd) (i32.const 100))))))""")
    assert cli("run", path).code == 0


# --- processors


@pytest.fixture
def groups() -> Host:
    found = detect()
    if found.missing:
        pytest.skip(f"NOT RUN: needs control groups that may be written; this host has {found.describe()}")
    return found


def test_cpus_bounds_the_guest_and_leaves_no_group(cli: Cli, groups: Host) -> None:
    ended = cli("run", "--cpus", "0.2", "--json", example("spin"), "2")
    result = report(ended)
    assert (ended.code, ended.stdout) == (0, b"spun\n")
    assert result["cpu_seconds"] < 0.3 * result["wall_seconds"]
    places = groups.mounts.values() or [groups.domain]
    assert [str(each) for place in places for each in place.glob("wasm-sandboxer-run-*")] == []


def test_cpus_removes_groups_that_others_left_who_were_killed(cli: Cli, groups: Host) -> None:
    spinning = subprocess.Popen([PROGRAM, "run", "--cpus", "0.1", example("spin")], stdout=subprocess.DEVNULL)
    name = f"wasm-sandboxer-run-{spinning.pid}"
    deadline = time.monotonic() + PATIENCE
    while not groups.beside(name) and time.monotonic() < deadline:
        time.sleep(0.01)
    cli("run", "--cpus", "0.2", example("hello"))
    assert groups.beside(name)  # it lives
    spinning.kill()
    spinning.wait()
    assert groups.beside(name)
    cli("run", "--cpus", "0.2", example("hello"))
    assert groups.beside(name) == {}


def test_cpus_says_why_it_cannot_be_where_it_cannot(cli: Cli, superuser: None) -> None:
    """As an ordinary user, who may not make groups."""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    with tempfile.TemporaryDirectory(dir="/tmp") as store:  # not pytest's, which nobody else may enter
        os.chown(store, 65534, 65534)
        environment = {"WASM_SANDBOXER_ROOT": store}
        words = cli.refused("run", "--cpus", "0.2", example("hello"), wrapper=nobody, env=environment, cwd="/")
    assert words.startswith("--cpus takes a control group, and none can be used here: ")
    assert words.endswith("may not be written by user 65534")
