"""What is to be run and how it ended, as pure values: no I/O, no threads, no engine.

A Guest is frozen before its thread or process starts, so nothing that runs it shares state with the loop.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath

from wasm_sandboxer.choices import EngineChoice, Isolation

TABLE_ELEMENTS = 1 << 20  # 8 MiB of host memory; a table is not charged as linear memory
INSTANCES = 64  # a component is made of several core instances
TABLES = 64
MEMORIES = 16
FILES = 1024  # what a process has of descriptors if nobody says


class Network(StrEnum):
    """What a guest may reach: nothing, or all that the network namespace it runs in reaches."""

    NONE = "none"
    HOST = "host"


@dataclass(frozen=True, kw_only=True)
class Preopen:
    """A directory of the host that the guest sees at a path of its own.

    `source` is what people know it by, where `host` only leads to a mount of it.
    """

    host: Path
    guest: str
    writable: bool = True
    source: Path | None = None


def place_of(path: str, preopens: tuple[Preopen, ...]) -> tuple[Preopen, str] | None:
    """The innermost folder that an absolute path of the guest's leads into, and the way from there; None for none."""
    place = PurePosixPath(path)
    inside = [preopen for preopen in preopens if place.is_relative_to(preopen.guest)]
    if not inside:
        return None
    preopen = max(inside, key=lambda preopen: len(PurePosixPath(preopen.guest).parts))
    return preopen, str(place.relative_to(preopen.guest))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds the engine holds: memory in bytes of linear memory (None: 4 GiB, what 32 bits address).

    `files` are those open at a time, the folders that it was given included.
    """

    memory: int | None = None
    table_elements: int = TABLE_ELEMENTS
    instances: int = INSTANCES
    tables: int = TABLES
    memories: int = MEMORIES
    files: int = FILES


@dataclass(frozen=True, kw_only=True)
class Guest:
    """One run of a module: argv (its name first), env, directories, limits.

    `function` names an export to call instead of the module's entry point; argv[1:] are then its arguments.
    `engine` and `isolation` are what it is to run on. For WasmEdge: `plugins` is a folder or file of plugins on the
    host, `models` what its WASI-NN loads before, each as NAME:ENCODING:TARGET:FILE, the file as the guest sees it.
    """

    module: Path
    argv: tuple[str, ...]
    function: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    preopens: tuple[Preopen, ...] = ()
    limits: Limits = field(default_factory=Limits)
    network: Network = Network.NONE
    engine: EngineChoice = EngineChoice.AUTO
    isolation: Isolation = Isolation.AUTO
    plugins: Path | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stdio:
    """Descriptors a guest reads and writes, borrowed for its run; None is closed input, discarded output.

    The guest reads and writes them itself. `terminals` are those of 0, 1, 2 that it shall see as a terminal.
    """

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    terminals: frozenset[int] = frozenset()


class Reason(StrEnum):
    """Why a guest ended."""

    EXITED = "exited"  # returned, or called exit
    TRAPPED = "trapped"
    STOPPED = "stopped"  # by a signal or a time limit
    OUT_OF_MEMORY = "out-of-memory"
    FAILED = "failed"  # never began: its instance could not be made


TRAP_EXIT_CODE = 134  # 128 + SIGABRT, what a native program that aborts reports
OOM_EXIT_CODE = 137  # 128 + SIGKILL, what the kernel's OOM killer leaves


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a guest ended; times in seconds, memory in bytes of linear memory at its largest."""

    code: int
    reason: Reason
    message: str = ""
    cpu_time: float = 0.0
    peak_memory: int = 0
