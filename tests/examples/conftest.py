"""What the tests of the examples share: running one to its end, and starting one to be killed."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"

Background = Callable[..., "subprocess.Popen[bytes]"]


def load_script(path: Path) -> ModuleType:
    """A Python file that stands in no package, as a module."""
    spec = importlib.util.spec_from_file_location(f"tests_examples_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def guest() -> ModuleType:
    return load_script(HERE / "guest.py")


@pytest.fixture(scope="session")
def component() -> ModuleType:
    return load_script(EXAMPLES / "component.py")


@pytest.fixture
def background() -> Iterator[Background]:
    """Starts an example in a process of its own, with pipes for stdin and stdout; kills it after the test."""
    with ExitStack() as undo:

        def start(name: str, *arguments: str) -> "subprocess.Popen[bytes]":
            module = EXAMPLES / "wasm" / f"{name}.wasm"
            command = [sys.executable, str(HERE / "guest.py"), str(module), *arguments]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            undo.enter_context(process)
            undo.callback(process.kill)
            return process

        yield start
