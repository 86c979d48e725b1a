"""Names for modules: WasmEdge calls a program by its file's name, and ours are files without one.

A folder of symbolic links, all to the descriptor behind the one that the folder is given as; they are the same for
whoever uses them, so they stay.
"""

import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

from wasm_sandboxer.engine.protocol import FIRST_DESCRIPTOR
from wasm_sandboxer.errors import Unavailable

_TARGET = f"/proc/self/fd/{FIRST_DESCRIPTOR + 1}"
_LONGEST = 200  # bytes
_MOST = 1000


class Names:
    """The names in one folder; any thread, and any number of processes."""

    def __init__(self, folder: Path) -> None:
        """Make the folder; raises Unavailable."""
        self._folder = folder
        try:
            folder.mkdir(mode=0o755, exist_ok=True)
            folder.chmod(0o755)  # who runs a guest may be anybody, and has the folder only as a descriptor
            self.descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Unavailable(f"cannot make the folder {folder}: {error.strerror}") from None

    def add(self, name: str) -> str:
        """The file's name for a guest of this name: its last part, ending with .wasm."""
        stem = PurePosixPath(name.replace("\0", "")).stem.encode(errors="replace")[:_LONGEST]
        file = (stem.decode(errors="replace") or "module") + ".wasm"
        try:
            self._link(file)
        except OSError as error:
            raise Unavailable(f"cannot name a module in {self._folder}: {error.strerror}") from None
        return file

    def _link(self, file: str) -> None:
        with suppress(FileExistsError):
            os.symlink(_TARGET, file, dir_fd=self.descriptor)
            self._tidy(file)

    def _tidy(self, kept: str) -> None:
        """Remove the others when they have become many."""
        links = list(self._folder.iterdir())
        for link in links if len(links) > _MOST else ():
            if link.name != kept:
                link.unlink(missing_ok=True)
