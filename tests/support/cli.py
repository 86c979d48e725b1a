"""The program `wasm-sandboxer` as a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from testing.vm import SLOWNESS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "wasm"
PROGRAM = Path(sys.executable).with_name("wasm-sandboxer")
PATIENCE = 30.0 * float(os.environ.get(SLOWNESS, "1"))  # seconds; what has not come by then will not come


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended: its exit code, negative for the signal that ended it, and what it wrote."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


class Cli:
    """Runs the program with an environment that holds nothing of ours but where the store is."""

    def __init__(self, root: Path, folder: Path, undo: ExitStack, variables: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.folder = folder
        self._undo = undo
        self._variables = variables or {}

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "WASM_SANDBOXER_ROOT": str(self.root),
            **self._variables,
        }

    def start(
        self, *arguments: Any, env: Mapping[str, str] | None = None, wrapper: tuple[str, ...] = (), **popen: Any
    ) -> "subprocess.Popen[bytes]":
        """The running program, with pipes unless `popen` says otherwise; `wrapper` is a command that starts it."""
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(
            [*wrapper, PROGRAM, *map(os.fspath, arguments)],
            env={**self.environment, **(env or {})},
            **{"cwd": self.folder, **streams, **popen},
        )
        self._undo.enter_context(process)
        self._undo.callback(process.kill)
        return process

    def __call__(self, *arguments: Any, stdin: bytes | int | IO[bytes] = b"", **options: Any) -> Ended:
        """Run the program to its end; bytes come to its stdin through a pipe."""
        given = stdin if isinstance(stdin, bytes) else None
        process = self.start(*arguments, stdin=stdin if given is None else subprocess.PIPE, **options)
        stdout, stderr = process.communicate(given, timeout=PATIENCE)
        return Ended(code=process.returncode, stdout=stdout or b"", stderr=(stderr or b"").decode())

    def refused(self, *arguments: Any, code: int = 2, **options: Any) -> str:
        """What the program says in the one line that it refuses with."""
        ended = self(*arguments, **options)
        assert ended.stderr.startswith("wasm-sandboxer: "), ended
        assert ended.stderr.endswith("\n"), ended
        assert len(ended.stderr.splitlines()) == 1, ended.stderr
        assert (ended.code, ended.stdout) == (code, b""), ended
        return ended.stderr.removeprefix("wasm-sandboxer: ").removesuffix("\n")


def example(name: str) -> Path:
    """A committed example."""
    return EXAMPLES / f"{name}.wasm"


def wait_for_guest(process: "subprocess.Popen[bytes]", name: str) -> int:
    """Wait until the guest of this name runs in the process; the id of its thread."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        for comm in Path(f"/proc/{process.pid}/task").glob("*/comm"):
            try:
                if comm.read_text().strip() == name[:15]:
                    time.sleep(0.05)  # named, and about to begin
                    return int(comm.parent.name)
            except OSError:  # a thread that has ended since
                continue
        time.sleep(0.005)
    raise TimeoutError(name)
