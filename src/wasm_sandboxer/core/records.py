"""What is kept on disk so that a daemon that died is replaced without loss: a file per sandbox and container.

Written to a temporary name and renamed, so a record is whole or not there. Files live under the state folder,
on a tmpfs as a rule: they outlive the daemon, not the machine. Called in worker threads.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


class Records:
    """A folder of JSON records, by kind, namespace and id; ids were validated before they come here."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, kind: str, namespace: str, ident: str, record: dict[str, Any]) -> None:
        """Write or replace a record."""
        path = self._path(kind, namespace, ident)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(json.dumps(record))
        temporary.rename(path)

    def remove(self, kind: str, namespace: str, ident: str) -> None:
        """Remove a record if there is one, and its namespace's folder with the last."""
        path = self._path(kind, namespace, ident)
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()

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

    def _path(self, kind: str, namespace: str, ident: str) -> Path:
        return self._folder / kind / namespace / f"{ident}.json"
