"""Runs an example by the `wasmtime` package alone, with nothing of wasm_sandboxer in between.

    python tests/examples/guest.py MODULE [ARG…]

As a script it lends the guest its own streams and the network, and exits as the guest does: for guests that
end only when they are killed. `run` does it within this process: for those that end by themselves.
"""

import functools
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import wasmtime
from wasmtime import _bindings, component

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "wasm"
CORE_MODULE = b"\0asm\1\0\0\0"

Loaded = wasmtime.Module | component.Component


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a guest ended: its exit code and what it wrote."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stdout.decode().splitlines()


@functools.cache
def engine() -> wasmtime.Engine:
    """One for all guests, so that each file is compiled once. Its epoch stops those that would spin on."""
    config = wasmtime.Config()
    config.epoch_interruption = True
    return wasmtime.Engine(config)


@functools.cache
def load(path: Path) -> Loaded:
    binary = path.read_bytes()
    if binary.startswith(CORE_MODULE):
        return wasmtime.Module(engine(), binary)
    return component.Component(engine(), binary)


def new_store() -> wasmtime.Store:
    store = wasmtime.Store(engine())
    store.set_epoch_deadline(1)
    return store


def run(
    name: str | Path,
    *arguments: str,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
    memory: int = -1,
) -> Ended:
    """Runs an example, or the file at a path, to its end; raises `wasmtime.Trap` when it traps.

    `folder` becomes its `/`; `memory` bounds its memory, in bytes.
    """
    path = name if isinstance(name, Path) else EXAMPLES / f"{name}.wasm"
    stdout, stderr = bytearray(), bytearray()
    with tempfile.NamedTemporaryFile() as given:
        given.write(stdin)
        given.flush()
        wasi = wasmtime.WasiConfig()
        wasi.argv = [path.stem, *arguments]
        wasi.env = (env or {}).items()
        wasi.stdin_file = given.name
        wasi.stdout_custom = stdout.extend
        wasi.stderr_custom = stderr.extend
        if folder:
            wasi.preopen_dir(str(folder), "/")
        store = new_store()
        store.set_limits(memory_size=memory)
        store.set_wasi(wasi)
        code = start(store, load(path))
    return Ended(code=code, stdout=bytes(stdout), stderr=stderr.decode())


def start(store: wasmtime.Store, loaded: Loaded) -> int:
    """Runs a loaded program to its end; its exit code."""
    try:
        if isinstance(loaded, wasmtime.Module):
            return start_module(store, loaded)
        return start_component(store, loaded)
    except wasmtime.ExitTrap as end:
        return end.code


def start_module(store: wasmtime.Store, module: wasmtime.Module) -> int:
    linker = wasmtime.Linker(engine())
    linker.define_wasi()
    linker.instantiate(store, module).exports(store)["_start"](store)
    return 0


def start_component(store: wasmtime.Store, program: component.Component) -> int:
    linker = component.Linker(engine())
    linker.add_wasip2()
    instance = linker.instantiate(store, program)
    interface = instance.get_export_index(store, "wasi:cli/run@0.2.0")
    run = instance.get_func(store, instance.get_export_index(store, "run", interface))
    return 0 if run(store).tag == "ok" else 1


def main(path: str, *arguments: str) -> int:
    wasi = wasmtime.WasiConfig()
    wasi.argv = [Path(path).stem, *arguments]
    wasi.inherit_stdin()
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    # Safe: the pointer is the configuration's own, which lives on; the call sets a flag in it.
    _bindings.wasi_config_inherit_network(wasi.ptr())
    store = new_store()
    store.set_wasi(wasi)
    return start(store, load(Path(path)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
