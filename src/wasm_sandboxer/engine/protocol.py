"""What an engine offers to those who run guests; no engine is imported here.

An Engine turns a file into a Program, shared by all guests of the same content. A Program runs one guest at a
time per call of `run`, on the thread that calls it. A Control is the guest's end of the daemon: made before the
thread starts, usable from any thread while the guest runs, closed after it has ended.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeAlias, TypeGuard

from wasm_sandboxer.choices import EngineChoice
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.guest import Exit, Guest, Stdio


class Kind(StrEnum):
    """What a WebAssembly binary is."""

    MODULE = "module"
    COMPONENT = "component"


@dataclass(frozen=True, kw_only=True)
class ImportItem:
    """An import: `module` is the module or interface name, `type` is for people ("func (i32) -> i32")."""

    module: str
    name: str
    type: str


@dataclass(frozen=True, kw_only=True)
class ExportItem:
    """An export with its type for people."""

    name: str
    type: str


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A thread's way into its guest's bounds and out of them, for native code.

    It goes through a door by writing `0` to that descriptor. Those of `enter` are whoever's it is given to, to close;
    those of `leave` stay open. `nice` is its priority inside and outside.
    """

    enter: tuple[int, ...]
    leave: tuple[int, ...]
    nice: tuple[int, int]


class Within(Protocol):
    """The bounds that a guest's instructions run within; asked on the guest's thread, for each call into it."""

    def passage(self) -> AbstractContextManager[Passage | None]:
        """The way in and out for one call; None if there is none to go."""

    def entered(self) -> AbstractContextManager[None]:
        """Be inside, for a call that comes back by Python."""


class Anywhere:
    """Within no bounds; see Within."""

    def passage(self) -> AbstractContextManager[Passage | None]:
        """See Within."""
        return nullcontext()

    def entered(self) -> AbstractContextManager[None]:
        """See Within."""
        return nullcontext()


ANYWHERE = Anywhere()


class Control(Protocol):
    """Acts on a guest from any thread."""

    def stop(self) -> None:
        """End the guest at its next instruction or wait; idempotent; also before it runs."""

    def pause(self) -> None:
        """Hold the guest at its next loop, call or wait."""

    def resume(self) -> None:
        """Let a paused guest go on."""

    def memory(self) -> int:
        """Bytes of linear memory and tables the guest has now; 0 where that is not known."""

    def resident(self) -> int:
        """Bytes of its linear memory that are in memory now; 0 where that is not known."""

    def close(self) -> None:
        """Free what the control holds; only once the guest has ended."""


class Program(Protocol):
    """A module that is compiled and can be run."""

    @property
    def kind(self) -> Kind:
        """Module or component."""

    @property
    def digest(self) -> str:
        """SHA-256 of the source, in hexadecimal."""

    @property
    def imports(self) -> tuple[ImportItem, ...]:
        """What it imports, in its order."""

    @property
    def exports(self) -> tuple[ExportItem, ...]:
        """What it exports, in its order."""

    def needs(self) -> list[str]:
        """What it takes to run it, for people: engine, WASI, how it is entered, what is missing."""

    def check(self, guest: Guest) -> None:
        """Raise ModuleError if the guest could not start: a missing import or function, wrong arguments."""

    def control(self, guest: Guest, stdio: Stdio, pool: MemoryPool | None) -> Control:
        """A control for a guest to come that uses these descriptors; its memory is charged to `pool`.

        Without a pool it has what its own limit says.
        """

    def run(
        self, guest: Guest, stdio: Stdio, control: Control, ready: Callable[[], None], within: Within = ANYWHERE
    ) -> Exit:
        """Run the guest to its end on the calling thread; `ready` is called once its instance is made.

        The guest's instructions, those of its start function too, are run within these bounds, and nothing else is:
        a core module's thread holds the GIL only outside.

        Raises ModuleError if the instance cannot be made. Never raises for what the guest does.
        """


@dataclass(frozen=True, kw_only=True)
class Carried:
    """A program on its way to another process: what is known of it, and its compiled code's descriptor.

    The descriptor stays the program's. Both may be trusted there as far as whoever sent them.
    """

    about: bytes
    code: int


class PortableProgram(Program, Protocol):
    """A program that the same engine can run in another process."""

    def carry(self) -> Carried:
        """The program for a process that shares nothing with this one."""


FIRST_DESCRIPTOR = 3
"""The number that a command finds the first of its descriptors by."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A native command that runs a guest; argv[0] is its absolute path.

    `needs` are files and folders of the host that it must see beside the usual libraries, at their own paths.
    `descriptors` are its 3 and on, and stay the program's. `data` is how many bytes of memory of its own it may have
    (RLIMIT_DATA, getrlimit(2)); None is no bound.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    needs: tuple[Path, ...] = ()
    descriptors: tuple[int, ...] = ()
    data: int | None = None


class ExternalProgram(Program, Protocol):
    """A program that a native command runs, in a process of its own; `run` and `control` are never called.

    The command reads and writes the guest's standard streams as its own 0, 1 and 2.
    """

    def command(self, guest: Guest) -> Command:
        """What to execute. The guest's preopens lie where the command will find them."""

    def exit_of(self, code: int) -> Exit:
        """What it means that the command ended with this code, or with 128 and the number of a signal of its own."""


def is_portable(program: Program) -> TypeGuard[PortableProgram]:
    """Whether it can be run in another process."""
    return hasattr(program, "carry")


def is_external(program: Program) -> TypeGuard[ExternalProgram]:
    """Whether a native command runs it."""
    return hasattr(program, "command")


class Source(StrEnum):
    """Where a module that was asked for came from."""

    MEMORY = "memory"  # loaded already
    STORE = "store"  # compiled before
    COMPILED = "compiled"  # now
    FAILED = "failed"  # nowhere: it cannot be had


LoadObserver: TypeAlias = Callable[[Source, float], None]
"""Told of each module that was asked for: where it came from, and the seconds that compiling it took. Any thread."""


class Engine(Protocol):
    """Loads programs; any thread."""

    def load(self, path: Path, *, name: str | None = None, choice: EngineChoice = EngineChoice.AUTO) -> Program:
        """The module at this path, compiled if it never was; `name` is what messages call it.

        `choice` is for an engine that is several. Raises ModuleError with the reason why it cannot be.
        """
