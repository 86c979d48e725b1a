"""`compile`: fill the module store ahead."""

import hashlib
import json
import os
import pty
from pathlib import Path

from tests.support.cli import PATIENCE, Cli, example


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_module_is_compiled_once(fresh: Cli) -> None:
    first, second = fresh("compile", example("hello")), fresh("compile", example("hello"))
    short = digest_of(example("hello"))[:12]
    assert first.text.startswith(f"{example('hello')}: compiled in ")
    assert first.text.endswith(f" ({short})\n")
    assert second.text == f"{example('hello')}: already in the store ({short})\n"
    assert (first.code, first.stderr, second.code) == (0, "", 0)


def test_equal_content_is_one_module_whatever_its_name(fresh: Cli, tmp_path: Path) -> None:
    (tmp_path / "other.wasm").write_bytes(example("hello").read_bytes())
    fresh("compile", example("hello"))
    assert "already in the store" in fresh("compile", "other.wasm").text


def test_several_are_compiled_and_the_bad_ones_named(fresh: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.wasm").write_bytes(b"")
    ended = fresh("compile", example("exit"), "bad.wasm", example("hello-component"), "none.wasm")
    assert (ended.code, len(ended.lines)) == (2, 2)
    assert ended.stderr == ("wasm-sandboxer: bad.wasm: the file is empty\nwasm-sandboxer: none.wasm: no such file\n")


def test_json_tells_a_line_for_each(fresh: Cli) -> None:
    fresh("compile", example("exit"))
    lines = [json.loads(line) for line in fresh("compile", "--json", example("exit"), example("hello")).lines]
    assert [(line["module"], line["digest"], line["compiled"]) for line in lines] == [
        (str(example("exit")), digest_of(example("exit")), False),
        (str(example("hello")), digest_of(example("hello")), True),
    ]
    assert all(0 < line["seconds"] < PATIENCE for line in lines)


def test_a_module_that_lacks_an_import_can_be_compiled(fresh: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.wat").write_text('(module (import "env" "f" (func)))')
    assert fresh("compile", "m.wat").code == 0


def test_a_long_compilation_shows_its_progress_on_a_terminal(fresh: Cli, heavy: Path) -> None:
    leader, follower = pty.openpty()
    process = fresh.start("compile", "--compile-timeout", "1200ms", heavy, stderr=follower)
    os.close(follower)
    shown = b""
    while chunk := read(leader):
        shown += chunk
    os.close(leader)
    assert process.wait(PATIENCE) == 2
    assert "\rcompiling heavy.wasm … ".encode() in shown
    assert (
        shown.replace(b"\r\n", b"\n").rpartition(b"\r\033[K")[2]
        == (
            f"wasm-sandboxer: {heavy}: compiling it takes longer than its bound of 1.2 s; "
            "raise --compile-timeout if you trust it\n"
        ).encode()
    )


def read(terminal: int) -> bytes:
    """What a terminal has to say; nothing once all others have left it."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


def test_a_module_may_come_through_stdin(fresh: Cli) -> None:
    assert fresh("compile", "-", stdin=example("hello").read_bytes()).lines[0].startswith("/dev/stdin: compiled in ")
    assert "already in the store" in fresh("compile", example("hello")).stdout.decode()
