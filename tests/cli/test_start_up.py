"""What the program costs and says before it does anything: imports, version, help, completion."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

import wasm_sandboxer
from tests.support.cli import PROGRAM, Cli, example

LOADED = """
import atexit, json, os, sys
real_exit = os._exit
def tell(code):
    os.write(2, json.dumps(sorted(sys.modules)).encode())
    real_exit(code)
os._exit = tell
sys.argv = ["wasm-sandboxer", *sys.argv[1:]]
from wasm_sandboxer.cli import main
main()
"""


def loaded(cli: Cli, *arguments: object) -> set[str]:
    """The modules that a run of the program has imported when it ends."""
    command = [sys.executable, "-c", LOADED, *map(str, arguments)]
    ended = subprocess.run(command, env=cli.environment, capture_output=True, check=True)
    return set(json.loads(ended.stderr))


@pytest.mark.parametrize("module", ["hello", "hello-component"])
def test_run_imports_nothing_of_the_daemon(cli: Cli, module: str) -> None:
    cli("compile", example(module))
    names = loaded(cli, "run", example(module))
    assert "wasm_sandboxer.core.container" in names
    parts = {name.partition(".")[0] for name in names}
    ours = {name.removeprefix("wasm_sandboxer.").partition(".")[0] for name in names if "wasm_sandboxer" in name}
    assert not parts & {"grpc", "google", "cgroupspy"}
    assert not ours & {"rpc", "api", "daemon", "bundle", "config", "logs", "spec", "forkserver"}


def test_the_entry_point_imports_next_to_nothing_before_it_takes_the_signals() -> None:
    script = (
        "import sys, wasm_sandboxer.__main__; sys.exit(', '.join({'click', 'typing', 'pathlib'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=False,
                           env={"PYTHONPATH": str(Path(wasm_sandboxer.__file__).parents[1])})  # fmt: skip
    assert ended.stderr.strip() == ""


def test_help_does_not_import_the_engine() -> None:
    script = (
        "import sys; sys.argv = ['wasm-sandboxer', 'run', '--help']\n"
        "from wasm_sandboxer.cli import main\n"
        "try: main()\n"
        "finally: assert 'wasmtime' not in sys.modules and 'asyncio' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("Usage: wasm-sandboxer run [OPTIONS] MODULE[#FUNCTION] ")


def test_version_tells_ours_and_the_engines(cli: Cli) -> None:
    ours, engine = (importlib.metadata.version(name) for name in ("wasm-sandboxer", "wasmtime"))
    assert cli("--version").text == f"wasm-sandboxer {ours} (wasmtime {engine})\n"


@pytest.mark.parametrize("verb", [[], ["run"], ["inspect"], ["compile"], ["modules"], ["modules", "ls"]])
def test_every_verb_has_help(cli: Cli, verb: list[str]) -> None:
    for option in ("-h", "--help"):
        ended = cli(*verb, option)
        assert (ended.code, ended.stderr) == (0, "")
        assert ended.lines[0].startswith("Usage: wasm-sandboxer ")


def test_the_help_of_run_tells_its_exit_codes_in_a_line_each(cli: Cli) -> None:
    text = cli("run", "--help").text
    assert "\b" not in text
    assert "\\b" not in text
    codes = text.partition("Exit codes:\n")[2].splitlines()
    assert [line.split()[0] for line in codes] == ["the", "134", "137", "124", "130", "2"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_has_a_source_for_every_shell(cli: Cli, shell: str) -> None:
    ended = cli(env={"_WASM_SANDBOXER_COMPLETE": f"{shell}_source"})
    assert (ended.code, ended.stderr) == (0, "")
    assert "_WASM_SANDBOXER_COMPLETE" in ended.text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("wasm-sandboxer ", {"run", "inspect", "compile", "modules"}),
        ("wasm-sandboxer mod", {"modules"}),
        ("wasm-sandboxer modules ", {"ls", "rm", "prune"}),
        ("wasm-sandboxer run --net", {"--network"}),
        ("wasm-sandboxer run --network ", {"none", "host"}),
        ("wasm-sandboxer run exa", {"file exa"}),
        ("wasm-sandboxer run --dir exa", {"file exa"}),
        ("wasm-sandboxer run --env-file exa", {"file exa"}),
        ("wasm-sandboxer run --root exa", {"dir exa"}),
        ("wasm-sandboxer compile exa", {"file exa"}),
    ],
)
def test_completion_completes(cli: Cli, line: str, expected: set[str]) -> None:
    words = line.split(" ")
    variables = {
        "_WASM_SANDBOXER_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    ended = cli(env=variables)
    found = {answer.removeprefix("plain,").replace(",", " ") for answer in ended.lines}
    assert expected <= found, ended
    assert len(words[-1]) == 0 or found == expected


def test_the_module_can_be_run_by_name(cli: Cli) -> None:
    command = [sys.executable, "-m", "wasm_sandboxer", "run", str(example("hello"))]
    ended = subprocess.run(command, env=cli.environment, capture_output=True, check=True)
    assert ended.stdout == b"Hello from WebAssembly!\n"


def test_a_bug_of_ours_is_one_line_too(cli: Cli) -> None:
    script = (
        "import sys; sys.argv = ['wasm-sandboxer', 'modules', 'ls']\n"
        "from wasm_sandboxer.engine import store\n"
        "store.ModuleStore.entries = lambda self: 1 / 0\n"
        "from wasm_sandboxer.cli import main; main()"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, env=cli.environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 70
    assert ended.stderr == (
        "wasm-sandboxer: internal error: ZeroDivisionError: division by zero "
        "(set WASM_SANDBOXER_DEBUG=1 to see where)\n"
    )
    env = {**cli.environment, "WASM_SANDBOXER_DEBUG": "1"}
    debugged = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert "Traceback" in debugged.stderr


def test_the_program_is_installed() -> None:
    assert PROGRAM.exists()
