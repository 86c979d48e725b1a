"""A core module as a Program that WasmEdge runs: the command for it, and what the end of that means."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from wasm_sandboxer.engine.entry import COMMAND, REACTOR, describe_entry, entry_of
from wasm_sandboxer.engine.protocol import FIRST_DESCRIPTOR, Command, ExportItem, ImportItem, Kind
from wasm_sandboxer.engine.store import Facts
from wasm_sandboxer.engine.wasm import PAGE
from wasm_sandboxer.engine.wasmedge.binary import Binary
from wasm_sandboxer.engine.wasmedge.compiling import PROPOSALS, environment
from wasm_sandboxer.engine.wasmedge.files import Files
from wasm_sandboxer.engine.wasmedge.names import Names
from wasm_sandboxer.errors import InvalidArgument, ModuleError, Unsupported
from wasm_sandboxer.guest import TRAP_EXIT_CODE, Exit, Guest, Preopen, Reason, place_of
from wasm_sandboxer.units import format_size

_OWN_DATA = 256 << 20  # bytes beside the guest's memory: WasmEdge's own, the interpreter's stack, tables
_ALL_OF_32_BITS = 1 << 32
_WHY = "WasmEdge says why at the end of its output, unless the program itself exited with 134"
Link = Callable[[Path | None, bool], None]


class WasmEdgeProgram:
    """See ExternalProgram. Made by the engine from a prepared file; any thread."""

    kind = Kind.MODULE

    def __init__(
        self,
        binary: Binary,
        digest: str,
        facts: Facts,
        files: Files,
        names: Names,
        link: Link,
    ) -> None:
        """`link` tries whether the module finds its imports, given plugins, and if it wants that WASI-NN's plugin.

        It raises ModuleError.
        """
        assert facts.interface is not None  # a module has one
        self.digest = digest
        self.spaces = facts.spaces
        self.imports: tuple[ImportItem, ...] = facts.interface.imports
        self.exports: tuple[ExportItem, ...] = facts.interface.exports
        self._functions = facts.interface.functions
        self._binary = binary
        self._files = files
        self._names = names
        self._link = link
        self._linked: set[tuple[Path | None, bool]] = set()

    def needs(self) -> list[str]:
        """See Program."""
        lines = [f"WasmEdge {self._binary.version} ({self._binary.path})"]
        try:
            self._try_linking(None, models=False)
        except ModuleError as error:
            return [*lines, str(error)]
        return [*lines, describe_entry(self._functions)]

    def check(self, guest: Guest) -> None:
        """See Program; what takes long is done here, so that `command` is quick."""
        self._try_linking(guest.plugins, models=bool(guest.models))
        name, _ = entry_of(self._functions, guest)
        if name == REACTOR:
            raise ModuleError("it is a reactor, of which WasmEdge only calls a function: name one as MODULE#FUNCTION")
        needed = sum(memory.minimum for memory in self._files.memories) * PAGE
        if guest.limits.memory is not None and needed > guest.limits.memory:
            limit = format_size(guest.limits.memory)
            raise ModuleError(f"it needs {format_size(needed)} of memory to start, and its limit is {limit}")
        for preopen in guest.preopens:
            _check_path(preopen)
        for model in guest.models:
            _on_host(model, guest)
        self._files.descriptor(guest.limits.memory)

    def control(self, *_: object, **__: object) -> NoReturn:
        """Not for a program of this kind; see ExternalProgram."""
        raise Unsupported("what WasmEdge runs needs a process of its own, and cannot be on a thread")

    run = control

    def command(self, guest: Guest) -> Command:
        """See ExternalProgram."""
        name, arguments = entry_of(self._functions, guest)
        given = [_text(f"argument {number}", each) for number, each in enumerate(guest.argv[1:], 1)]
        if name != COMMAND:
            given = [name, *map(str, arguments)]  # in the form that it can read
        limit = guest.limits.memory
        code = self._files.descriptor(limit)
        memory = _ALL_OF_32_BITS * len(self._files.memories) if limit is None else limit
        file = self._names.add(guest.argv[0])
        options = [f"--dir={_mapping(preopen)}" for preopen in guest.preopens]
        options += [f"--env={_text('environment variable', f'{key}={value}')}" for key, value in guest.env]
        options += [f"--nn-preload={_on_host(model, guest)}" for model in guest.models]
        options += ["--reactor"] if name != COMMAND else []
        return Command(
            argv=(str(self._binary.path), *PROPOSALS, *options, f"/proc/self/fd/{FIRST_DESCRIPTOR}/{file}", *given),
            env=tuple(environment(guest.plugins).items()),
            needs=(*self._binary.needs, *([guest.plugins] if guest.plugins is not None else [])),
            descriptors=(self._names.descriptor, code),
            data=memory + _OWN_DATA + os.fstat(code).st_size,
        )

    def exit_of(self, code: int) -> Exit:
        """See ExternalProgram."""
        if code in (TRAP_EXIT_CODE, 128 + signal.SIGSEGV):
            # WasmEdge makes no difference between a trap and an exit with that code.
            why = "its stack is used up" if code != TRAP_EXIT_CODE else _WHY
            return Exit(code=TRAP_EXIT_CODE, reason=Reason.TRAPPED, message=f"trap: {why}")
        return Exit(code=code, reason=Reason.EXITED)

    def _try_linking(self, plugins: Path | None, *, models: bool) -> None:
        if (plugins, models) not in self._linked:
            self._link(plugins, models)
            self._linked.add((plugins, models))


def _mapping(preopen: Preopen) -> str:
    return f"{preopen.guest}:{preopen.host.absolute()}{'' if preopen.writable else ':readonly'}"


def _on_host(model: str, guest: Guest) -> str:
    """A model with its file's path where WasmEdge finds it."""
    *words, path = model.split(":")
    place = place_of(path, guest.preopens)
    if len(words) != 3 or place is None:
        raise InvalidArgument(f"the model {model!r} is not NAME:ENCODING:TARGET:FILE with a file that the guest sees")
    preopen, rest = place
    return ":".join((*words, _text("path", str(preopen.host.absolute() / rest))))


def _check_path(preopen: Preopen) -> None:
    for path in (preopen.guest, str(preopen.host.absolute())):
        _text("path", path)
        if ":" in path:
            raise InvalidArgument(f"WasmEdge cannot be given the folder {path!r}: it takes a colon for a separator")


def _text(what: str, text: str) -> str:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} is not valid UTF-8, which WASI asks for: {text!r}") from None
    if b"\0" in encoded:
        raise InvalidArgument(f"{what} has a NUL byte in it: {text!r}")
    return text
