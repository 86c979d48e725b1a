"""`modules`: what the store holds."""

import json
import os
import time
from pathlib import Path

import pytest

from tests.support.cli import Cli, example, wait_for_guest
from tests.support.modules import wasi

OURS = {"trampoline.wat", "shim.wat"}


def names(cli: Cli) -> list[str]:
    """The sources of what the store holds, most recently used first, without the engine's own."""
    entries = [json.loads(line) for line in cli("modules", "ls", "--json").lines]
    return [entry["source"] for entry in entries if entry["source"] not in OURS]


def age(cli: Cli, name: str, seconds: float) -> None:
    """Make a module look as if it had last been used so long ago."""
    for index in cli.root.glob("modules/*/*.json"):
        if json.loads(index.read_bytes())["facts"]["source"] == name:
            os.utime(index, (time.time() - seconds,) * 2)


def test_an_empty_store_is_a_table_without_rows(fresh: Cli) -> None:
    assert fresh("modules", "ls").lines == ["DIGEST  KIND  SOURCE  SIZE  COMPILED  LAST USED"]


def test_ls_lists_what_was_compiled(fresh: Cli) -> None:
    fresh("compile", example("exit"), example("hello-component"))
    age(fresh, "exit.wasm", 3700)
    header, component, module = fresh("modules", "ls").lines
    assert header.split() == ["DIGEST", "KIND", "SOURCE", "SIZE", "COMPILED", "LAST", "USED"]
    assert component.split()[1:4] == ["component", "hello-component.wasm", "2.9"]
    assert module.split()[1:5] == ["module", "exit.wasm", "2", "KiB"]
    assert module.endswith("  1h 1m ago")


def test_a_use_of_just_now_is_told_as_one(fresh: Cli) -> None:
    fresh("compile", example("exit"))
    age(fresh, "exit.wasm", -5)  # the clock was put back since
    assert fresh("modules", "ls").lines[-1].endswith("  1.0 ms ago")


def test_json_tells_all_of_it(fresh: Cli) -> None:
    fresh("compile", example("exit"))
    entry = json.loads(fresh("modules", "ls", "--json").text)
    assert entry["kind"] == "module"
    assert entry["source_size"] == example("exit").stat().st_size
    assert entry["size"] == next(fresh.root.glob("modules/*/*.cwasm")).stat().st_size
    assert entry["key"].startswith("wasmtime-")
    assert entry["in_use"] is False
    assert entry["created"] <= entry["last_used"] <= time.time()


def test_a_use_makes_a_module_the_most_recent(fresh: Cli) -> None:
    fresh("compile", example("exit"), example("hello"))
    age(fresh, "exit.wasm", 10)
    assert names(fresh) == ["hello.wasm", "exit.wasm"]
    fresh("run", example("exit"))
    assert names(fresh) == ["exit.wasm", "hello.wasm"]


def test_rm_removes_by_the_beginning_of_a_digest(fresh: Cli) -> None:
    fresh("compile", example("exit"), example("hello"))
    first, second = (json.loads(line)["digest"] for line in fresh("modules", "ls", "--json").lines)
    assert fresh("modules", "rm", first[:10], f"sha256:{second}").lines == [first, second]
    assert names(fresh) == []
    assert list(fresh.root.glob("modules/*/*")) == []


def test_rm_refuses_what_is_not_there_or_not_clear(fresh: Cli, tmp_path: Path) -> None:
    assert fresh.refused("modules", "rm", "abc") == "no module 'abc' in the store"
    assert fresh.refused("modules", "rm", "") == "no module '' in the store"
    for number in range(17):  # two of seventeen begin alike
        (tmp_path / f"{number}.wat").write_text(f'(module (func (export "f{number}")))')
    fresh("compile", *(f"{number}.wat" for number in range(17)))
    digests = [json.loads(line)["digest"] for line in fresh("modules", "ls", "--json").lines]
    letter = next(digest[0] for digest in digests if sum(other[0] == digest[0] for other in digests) > 1)
    count = sum(digest[0] == letter for digest in digests)
    assert fresh.refused("modules", "rm", letter) == (
        f"'{letter}' is the beginning of {count} modules' digests; give more of it"
    )


def test_what_is_in_use_stays(fresh: Cli) -> None:
    fresh("compile", example("exit"))
    process = fresh.start("run", example("cat"))
    wait_for_guest(process, "cat.wasm")
    in_use = next(line for line in fresh("modules", "ls").lines if "cat.wasm" in line)
    digest = in_use.split()[0]
    assert in_use.endswith("  in use")
    assert fresh.refused("modules", "rm", digest) == f"module {digest} is in use"
    pruned = fresh("modules", "prune")
    assert "cat.wasm" not in pruned.text
    assert "exit.wasm" in pruned.text
    assert names(fresh) == ["cat.wasm"]
    process.communicate()
    assert "cat.wasm" in fresh("modules", "prune").text


def test_prune_keeps_what_was_used_lately(fresh: Cli) -> None:
    fresh("compile", example("exit"), example("hello"))
    age(fresh, "exit.wasm", 100)
    ended = fresh("modules", "prune", "--unused-for", "1m")
    assert [line.split()[-1] for line in ended.lines[:-1]] == ["exit.wasm"]
    assert ended.lines[-1].startswith("freed ")
    assert names(fresh) == ["hello.wasm"]


def mounted(command: str) -> tuple[str, ...]:
    """What starts a program where this mount has been made."""
    return ("unshare", "--mount", "sh", "-c", f'{command} && exec "$@"', "sh")


@pytest.mark.usefixtures("superuser")
@pytest.mark.parametrize("verb", ["rm", "prune"])
def test_a_store_that_cannot_be_written_is_named(fresh: Cli, verb: str) -> None:
    fresh("compile", example("exit"))
    digest = json.loads(fresh("modules", "ls", "--json").lines[0])["digest"]
    read_only = mounted(f"mount --bind {fresh.root} {fresh.root} && mount -o remount,bind,ro {fresh.root}")
    said = fresh.refused("modules", verb, *([digest] if verb == "rm" else []), wrapper=read_only)
    assert said.startswith(f"cannot write to the module store at {fresh.root}")
    assert said.endswith("Read-only file system; choose another with --root")


@pytest.mark.usefixtures("superuser")
def test_a_store_without_room_is_named_and_not_the_module(fresh: Cli) -> None:
    fresh("modules", "ls")
    full = mounted(f"mount -t tmpfs -o size=64k,mode=700 none {fresh.root}")
    said = fresh.refused("compile", example("worker"), wrapper=full)
    assert "cannot write to the module store at" in said
    assert said.endswith("No space left on device; make room there, or choose another with --root")


def test_prune_removes_what_another_version_compiled(fresh: Cli) -> None:
    fresh("compile", example("exit"))
    key = next((fresh.root / "modules").iterdir())
    key.rename(key.with_name("wasmtime-1.0.0-000000000000"))
    assert names(fresh) == ["exit.wasm"]
    fresh("modules", "prune", "--unused-for", "9999d")
    assert names(fresh) == []
    assert [folder.name for folder in (fresh.root / "modules").iterdir()] == [key.name]


def test_a_listing_into_a_closed_pipe_is_quiet(fresh: Cli) -> None:
    fresh("compile", example("exit"))
    read, write = os.pipe()
    os.close(read)
    ended = fresh("modules", "ls", stdout=write)
    os.close(write)
    assert ended.stderr == ""
    assert ended.code != 0


def test_the_store_is_capped(fresh: Cli) -> None:
    assert fresh("compile", example("exit"), example("hello"), example("cat")).code == 0
    age(fresh, "exit.wasm", 30)
    age(fresh, "hello.wasm", 20)
    age(fresh, "cat.wasm", 10)
    size = sum(path.stat().st_size for path in fresh.root.glob("modules/*/*.cwasm"))
    fresh("compile", "--store-size", str(size), example("args"))
    assert names(fresh)[0] == "args.wasm"
    assert "exit.wasm" not in names(fresh)


def test_a_module_larger_than_the_store_still_runs(fresh: Cli) -> None:
    for _ in range(2):
        assert fresh("run", "--store-size", "0", example("exit"), "3").code == 3
    assert fresh("run", "--store-size", "1KiB", example("hello")).code == 0


def test_one_line_says_what_is_thrown_away(fresh: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.wat").write_text(f"(module {wasi('proc_exit')} (memory (export \"memory\") 1) "
                                    '(func (export "_start") (call $proc_exit (i32.const 4))))')  # fmt: skip
    fresh("compile", "m.wat")
    path = next(fresh.root.glob("modules/*/*.cwasm"))
    path.write_bytes(path.read_bytes()[:-1])
    ended = fresh("run", "m.wat")
    assert ended.code == 4
    assert ended.stderr == (
        f"wasm-sandboxer: module store: {path.stem[:12]}… is thrown away and will be compiled anew: "
        "its content was changed\n"
    )
    assert fresh("run", "m.wat").stderr == ""


def test_names_cannot_command_a_terminal(fresh: Cli, tmp_path: Path) -> None:
    (tmp_path / "\x1b[2J\n.wat").write_text("(module)")
    assert r"\x1b[2J .wat: compiled in " in fresh("compile", tmp_path / "\x1b[2J\n.wat").text
    assert r"  \x1b[2J .wat  " in fresh("modules", "ls").lines[1]
    assert fresh("modules", "prune").lines[0].endswith(r"  \x1b[2J .wat")
