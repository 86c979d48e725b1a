"""The floor: the daemon with an engine that does nothing, as `python -m benchmarks.null` with serve's options.

Everything but the engine is the real thing: mounts, streams, threads, records, events. A guest whose last
argument is "forever" waits on a lock until it is stopped; every other one has ended as soon as it has begun.
"""

import _thread
import argparse
import asyncio
from collections.abc import Callable
from pathlib import Path

from wasm_sandboxer import daemon, logs
from wasm_sandboxer.choices import EngineChoice
from wasm_sandboxer.config import Config, LogLevel
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.protocol import ANYWHERE, Control, ExportItem, ImportItem, Kind, LoadObserver, Within
from wasm_sandboxer.forking.client import ForkServer
from wasm_sandboxer.guest import Exit, Guest, Reason, Stdio

_PATHS = ("listen", "task_listen", "state", "root", "containerd")


class NullControl:
    """See Control: a lock that a guest may wait for."""

    def __init__(self) -> None:
        self.stopped = _thread.allocate_lock()
        self.stopped.acquire()

    def stop(self) -> None:
        """See Control."""
        if self.stopped.locked():
            self.stopped.release()

    def pause(self) -> None:
        """Nothing runs."""

    def resume(self) -> None:
        """Nothing was held."""

    def memory(self) -> int:
        """See Control."""
        return 0

    def close(self) -> None:
        """There is nothing to free."""

    def resident(self) -> int:
        """See Control."""
        return 0


class NullProgram:
    """See Program."""

    kind = Kind.MODULE
    digest = "0" * 64
    imports: tuple[ImportItem, ...] = ()
    exports: tuple[ExportItem, ...] = ()

    def needs(self) -> list[str]:
        """See Program."""
        return []

    def check(self, guest: Guest) -> None:
        """Every guest will do."""

    def control(self, guest: Guest, stdio: Stdio, pool: MemoryPool | None) -> NullControl:
        """See Program."""
        del guest, stdio, pool
        return NullControl()

    def run(
        self, guest: Guest, stdio: Stdio, control: Control, ready: Callable[[], None], within: Within = ANYWHERE
    ) -> Exit:
        """See Program."""
        del stdio
        assert isinstance(control, NullControl)
        ready()
        with within.entered():
            if guest.argv[-1] == "forever":
                control.stopped.acquire()
                return Exit(code=0, reason=Reason.STOPPED)
        return Exit(code=0, reason=Reason.EXITED)


class NullEngine:
    """See Engine: reads nothing."""

    def __init__(self) -> None:
        self._program = NullProgram()

    def load(self, path: Path, *, name: str | None = None, choice: EngineChoice = EngineChoice.AUTO) -> NullProgram:
        """See Engine."""
        del path, name, choice
        return self._program


def make(_config: Config, _forks: ForkServer, _observe: LoadObserver | None) -> NullEngine:
    return NullEngine()


def configured(description: str) -> Config:
    """What serve's options on the command line say, with logs set up by them."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    for name in _PATHS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True)
    parser.add_argument("--log-level", type=LogLevel, default=LogLevel.INFO)
    config = Config(**vars(parser.parse_args()))
    logs.configure(config.log_level, config.log_format)
    return config


def main() -> None:
    config = configured(__doc__)
    asyncio.run(daemon.serve(config, lambda: config, make))


if __name__ == "__main__":
    main()
