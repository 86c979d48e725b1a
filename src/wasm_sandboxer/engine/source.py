"""A module's source on its way to a compiler: read from a file, handed to a child, refused; for any engine."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from wasm_sandboxer.engine import wasm
from wasm_sandboxer.engine.turns import Turns
from wasm_sandboxer.errors import ModuleError, ResourceExhausted
from wasm_sandboxer.forking.jobs import Bounds, JobEnd, JobFailed
from wasm_sandboxer.linux import files
from wasm_sandboxer.units import format_size

MAX_SOURCE = 512 << 20
_BOM = b"\xef\xbb\xbf"  # which some editors put before text, and no text format has


@dataclass(frozen=True, kw_only=True)
class CompileBounds:
    """What compiling one module may use, in bytes beyond the child's own and seconds; and how many compile at a time.

    A compiler's child runs only while somebody has a turn for it. Who shares these bounds takes turns, whatever the
    engine; who waits for one uses no time meanwhile.
    """

    memory: int = 2 << 30
    seconds: float = 120
    turns: Turns = field(default_factory=Turns, compare=False)

    @property
    def of_job(self) -> Bounds:
        """The same for a job."""
        return Bounds(memory=self.memory, seconds=self.seconds)

    def explain(self, failure: JobFailed) -> ResourceExhausted | ModuleError:
        """What it means that compiling within these bounds failed."""
        match failure.end:
            case JobEnd.MEMORY:
                bound = f"{format_size(self.memory)}; raise --compile-memory if you trust it"
                return ResourceExhausted(f"compiling it needs more memory than its bound of {bound}")
            case JobEnd.TIME:
                bound = f"{self.seconds:g} s; raise --compile-timeout if you trust it"
                return ResourceExhausted(f"compiling it takes longer than its bound of {bound}")
        return ModuleError(f"compiling it failed: {failure}")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A module that is in the store; `new` if it was compiled just now."""

    digest: str
    new: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class ModuleSource:
    """What a module is made from: its bytes, binary or text, and what messages call it."""

    name: str
    data: bytes

    @cached_property
    def digest(self) -> str:
        """Its SHA-256, by which it is known everywhere."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def file(self) -> str:
        """The last part of its name."""
        return self.name.rpartition("/")[2]


def read_source(path: Path, name: str | None = None) -> ModuleSource:
    """A module's source, read once, as a pipe's can be; `name` is what messages call it.

    Raises ModuleError that names it for what cannot be read or is no WebAssembly.
    """
    name = name or str(path)
    try:
        data = _read(path)
        if data.startswith(_BOM) and wasm.looks_like_text(data[len(_BOM) :]):
            data = data.removeprefix(_BOM)
        _require_source(name, data)
    except ModuleError as error:
        raise type(error)(f"{name}: {error}") from None
    return ModuleSource(name=name, data=data)


def _require_source(name: str, data: bytes) -> None:
    if name.endswith(".cwasm"):
        raise ModuleError("compiled code is only trusted from the module store; give the .wasm it was made from")
    if not wasm.looks_like_text(data):
        wasm.kind_of(data)


def _read(path: Path) -> bytes:
    try:
        return files.read(path, MAX_SOURCE)
    except FileNotFoundError:
        raise ModuleError("no such file") from None
    except IsADirectoryError:
        raise ModuleError("this is a folder, not a WebAssembly module") from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ModuleError(f"the file has more than the {format_size(MAX_SOURCE)} that are read") from None
        raise ModuleError(f"cannot be read: {error.strerror}") from None


@contextmanager
def in_memory(source: bytes) -> Iterator[int]:
    """A descriptor that another process can read the source from."""
    fd = os.memfd_create("module", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:  # closed below
            file.write(source)
        yield fd
    finally:
        os.close(fd)


def processor_features() -> str:
    """What machine code may count on here, for a module store's key."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(("flags", "Features")):
                return " ".join(sorted(line.partition(":")[2].split()))
    return ""
