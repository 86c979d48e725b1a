"""Which WasmEdge there is: where it is looked for, and whether it is one that we know."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from wasm_sandboxer.engine.wasmedge import tool
from wasm_sandboxer.errors import Unavailable
from wasm_sandboxer.forking.jobs import Runner

VARIABLE = "WASMEDGE"
KNOWN = (0, 14)
"""The version we know how to use, and have measured. Others differ where we would not notice.

0.16 has other proposals switched on and no old exceptions (its changelog says), and 0.17 interprets what it compiled
unless `--run-mode` says otherwise (tried).
"""
_VERSION = re.compile(r"version (\d+)\.(\d+)\.(\d+)")
_SECONDS = 10
_BESIDE = ("lib", "lib64", "plugin")


@dataclass(frozen=True, kw_only=True)
class Binary:
    """A WasmEdge that can be used."""

    path: Path
    version: str

    @property
    def needs(self) -> tuple[Path, ...]:
        """The folders it is in, and those beside a bin that upstream's installer puts libraries and plugins into."""
        folders = {self.path.parent, self.path.resolve().parent}
        beside = {folder.parent / name for folder in folders for name in _BESIDE if folder.name == "bin"}
        return (*folders, *(folder for folder in beside if folder.is_dir()))


class Finder:
    """Looks for WasmEdge anew each time it is asked, but asks each file for its version once. Any thread."""

    def __init__(self, runner: Runner, configured: Path | None = None) -> None:
        """`configured` goes before $WASMEDGE, and that before PATH."""
        self._runner = runner
        self._configured = configured
        self._known: dict[tuple[str, int, int], Binary] = {}

    def find(self) -> Binary:
        """The binary; raises Unavailable, saying what is wrong and what to do."""
        path = self._path()
        try:
            state = path.stat()
        except OSError as error:
            raise Unavailable(f"cannot use WasmEdge at {path}: {error.strerror}") from None
        key = (str(path), state.st_ino, state.st_mtime_ns)
        if key not in self._known:
            self._known[key] = Binary(path=path, version=self._version(path))
        return self._known[key]

    def _path(self) -> Path:
        if self._configured is not None:
            return self._configured
        if given := os.environ.get(VARIABLE):
            return Path(given).absolute()
        if found := shutil.which("wasmedge"):
            return Path(found).absolute()
        raise Unavailable(
            f"there is no WasmEdge here: install it on PATH, or name it by ${VARIABLE} or in the configuration"
        )

    def _version(self, path: Path) -> str:
        done = tool.run(self._runner, [str(path), "--version"], seconds=_SECONDS)
        found = _VERSION.search(done.output)
        if done.code != 0 or found is None:
            said = (done.output.strip().splitlines() or [f"exit code {done.code}"])[0]
            raise Unavailable(f"{path} --version tells no version: {said}")
        numbers = tuple(int(number) for number in found.groups())
        version = ".".join(found.groups())
        if numbers[:2] != KNOWN:
            known = ".".join(str(number) for number in KNOWN)
            raise Unavailable(f"WasmEdge {version} at {path} is not one we know how to use: {known} is")
        return version
