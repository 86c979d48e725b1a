"""Bundles made by hand, as containerd makes them, and the other ends of a process's streams."""

import json
import os
import select
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import PATIENCE, example


class Bundle:
    """A folder with config.json and rootfs/, and FIFOs beside them.

    Skips its test for those who may not mount, which a daemon does for each.
    """

    def __init__(self, folder: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("NOT RUN: the daemon mounts, which needs root")
        self.folder = folder
        self.root = folder / "rootfs"
        self.root.mkdir(parents=True)
        self._readers: dict[str, int] = {}
        self._writer = -1

    def add(self, *modules: str) -> None:
        """Put examples into the root, as NAME.wasm."""
        for name in modules:
            (self.root / f"{name}.wasm").write_bytes(example(name).read_bytes())

    def configure(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        terminal: bool = False,
        readonly: bool = False,
        mounts: Sequence[Mapping[str, Any]] = (),
        annotations: Mapping[str, str] | None = None,
        memory: int | None = None,
        process: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Write config.json, as containerd's CRI does for a Linux container; `process` are more of that's fields."""
        spec: dict[str, Any] = {
            "ociVersion": "1.2.0",
            "process": {
                "args": list(args),
                "env": [f"{name}={value}" for name, value in (env or {}).items()],
                "cwd": cwd,
                "terminal": terminal,
                "user": {"uid": 0, "gid": 0},
                **(process or {}),
            },
            "root": {"path": "rootfs", "readonly": readonly},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                *mounts,
            ],
            "annotations": dict(annotations or {}),
            "linux": {"resources": {"memory": {"limit": memory}} if memory else {}},
            **more,
        }
        (self.folder / "config.json").write_text(json.dumps(spec))

    # Streams.

    def fifo(self, name: str) -> str:
        """A FIFO; the reading end of an output is open from now on, as containerd holds it."""
        path = self.folder / name
        os.mkfifo(path)
        if not name.endswith("stdin"):
            self._readers[name] = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return str(path)

    def streams(self, prefix: str = "", *, stdin: bool = False) -> dict[str, str]:
        """FIFOs for a process's outputs, and its input if asked for, as fields of Create and Exec."""
        names = ["stdin", "stdout", "stderr"] if stdin else ["stdout", "stderr"]
        return {name: self.fifo(f"{prefix}{name}") for name in names}

    def read(self, name: str = "stdout", *, until: bytes | None = None) -> bytes:
        """What comes out of a stream, up to its end or to `until`."""
        fd = self._readers[name]
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + PATIENCE
        data = b""
        while until is None or until not in data:
            if time.monotonic() > deadline or not poll.poll((deadline - time.monotonic()) * 1000):
                raise TimeoutError(f"{name} does not end; it brought {data[-200:]!r}")
            piece = os.read(fd, 1 << 16)
            if not piece:
                break
            data += piece
        return data

    def write(self, data: bytes, name: str = "stdin") -> None:
        """Write to the input, which stays open."""
        if self._writer < 0:
            self._writer = os.open(self.folder / name, os.O_WRONLY | os.O_CLOEXEC)
        os.write(self._writer, data)

    def close_stdin(self) -> None:
        """Let go of the input."""
        os.close(self._writer)
        self._writer = -1

    def close(self) -> None:
        """Let go of all streams."""
        for fd in [*self._readers.values(), self._writer]:
            if fd >= 0:
                os.close(fd)
        self._readers.clear()
        self._writer = -1


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    """A volume as CRI puts it into a spec."""
    return {
        "destination": destination,
        "type": "bind",
        "source": str(source),
        "options": ["rbind", "rprivate", *(options or ("rw",))],
    }
