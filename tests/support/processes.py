"""Containers whose guests run in processes, and programs that a native command runs."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.guests import Guests, Ran, content, in_loop
from tests.support.guestserver import OPEN
from wasm_sandboxer.core.container import Container
from wasm_sandboxer.engine.protocol import Command, ExportItem, ImportItem, Kind, Program
from wasm_sandboxer.engine.wasmtime.engine import WasmtimeEngine
from wasm_sandboxer.executor.assignment import RUNTIME
from wasm_sandboxer.executor.process import ProcessExecutor
from wasm_sandboxer.forking.client import ForkServer
from wasm_sandboxer.guest import Exit, Guest, Reason, Stdio


@contextmanager
def fork_server(engine: WasmtimeEngine, module: str = OPEN) -> Iterator[ForkServer]:
    """A fork server that can run this engine's programs."""
    server = ForkServer(module)
    own = engine.own_code()
    server.preload(RUNTIME, b"", tuple(held.fd for held in own))
    server.start()
    try:
        yield server
    finally:
        server.stop()
        for held in own:
            held.close()


class Processes:
    """Makes containers; what they borrow is closed by `guests`."""

    def __init__(self, guests: Guests, forks: ForkServer) -> None:
        self.guests = guests
        self.forks = forks

    def container(
        self, module: str | Path | Program, *arguments: str, stdio: Stdio | None = None, **guest: Any
    ) -> Container:
        """A container that has not started; `guest` are fields of Guest."""
        name = module if isinstance(module, str) else module.stem if isinstance(module, Path) else "external"
        program = self.guests.program(module) if isinstance(module, str | Path) else module
        made = Guest(module=Path(name), argv=(name, *arguments), **guest)
        return Container(name, program, made, stdio or Stdio(), ProcessExecutor(self.forks))

    def run(self, module: str | Path | Program, *arguments: str, stdin: bytes = b"", **guest: Any) -> Ran:
        """Run a guest to its end, with files for its streams."""
        stdio = Stdio(stdin=self.guests.file(stdin), stdout=self.guests.file(), stderr=self.guests.file())

        async def main() -> Exit:
            container = self.container(module, *arguments, stdio=stdio, **guest)
            await container.start()
            return await container.exit

        end = in_loop(main())
        return Ran(exit=end, stdout=content(stdio.stdout), stderr=content(stdio.stderr).decode())


class Shell:
    """A program that /bin/sh runs: its text is the script, the guest's arguments are the script's."""

    kind = Kind.MODULE
    digest = "0" * 64
    imports: tuple[ImportItem, ...] = ()
    exports: tuple[ExportItem, ...] = ()

    def __init__(self, script: str, *, executable: str = "/bin/sh", **command: Any) -> None:
        self._script = script
        self._executable = executable
        self._command = command

    def needs(self) -> list[str]:
        return ["a shell"]

    def check(self, guest: Guest) -> None:
        pass

    def control(self, *_: Any) -> Any:
        raise AssertionError("a native command has no control")

    run = control

    def command(self, guest: Guest) -> Command:
        folders = tuple((f"FOLDER{number}", str(each.host)) for number, each in enumerate(guest.preopens))
        return Command(
            argv=(self._executable, "-c", self._script, *guest.argv), env=guest.env + folders, **self._command
        )

    def exit_of(self, code: int) -> Exit:
        return Exit(code=code, reason=Reason.EXITED, message="" if code < 128 else f"killed by itself: {code}")


def descriptors() -> set[str]:
    """What this process has open, but for what asyncio and epoll come and go with.

    And for what belongs to nobody any more: other tests' modules would go between one look and the next.
    """
    gc.collect()
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{link.name} {os.readlink(link)}")  # noqa: PTH115
        except OSError:
            continue
    return found
