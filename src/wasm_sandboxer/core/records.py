"""What is kept on disk so that a daemon that died is replaced without loss: a file per sandbox and container.

Written to a temporary name and renamed, so a record is whole or not there. Files live under the state folder,
on a tmpfs as a rule: they outlive the daemon, not the machine. That is why nothing here waits for a disk, and the
loop may call it: handing one to a worker thread and back costs more than writing it.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from wasm_sandboxer.errors import WasmSandboxerError
from wasm_sandboxer.linux import files

_log = logging.getLogger(__name__)


class Records:
    """A folder of JSON records, by kind, namespace and id; ids were validated before they come here."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, kind: str, namespace: str, ident: str, record: dict[str, Any]) -> None:
        """Write or replace a record; raises WasmSandboxerError if that cannot be, and leaves what there was."""
        folder = f"{self._folder}/{kind}/{namespace}"
        temporary, path = f"{folder}/.{ident}.tmp", f"{folder}/{ident}.json"
        data = json.dumps(record).encode()
        try:
            try:
                files.write(temporary, data)
            except FileNotFoundError:
                os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103  # the first of its namespace
                files.write(temporary, data)
            os.rename(temporary, path)  # noqa: PTH104  # text is the cheaper path
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108  # where room is short
            raise WasmSandboxerError(f"cannot write the record {path}: {error.strerror}") from None

    def remove(self, kind: str, namespace: str, ident: str) -> None:
        """Remove a record if there is one."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self._folder}/{kind}/{namespace}/{ident}.json")  # noqa: PTH108

    def all(self, kind: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Every record of a kind with its namespace and id; what cannot be read is removed, with a log line."""
        for path in sorted((self._folder / kind).glob("*/*.json")):
            try:
                yield path.parent.name, path.stem, json.loads(path.read_text())
            except (OSError, ValueError) as error:
                _log.warning("record %s cannot be read and is removed: %s", path, error)
                path.unlink(missing_ok=True)
        for path in (self._folder / kind).glob("*/.*.tmp"):
            path.unlink(missing_ok=True)
