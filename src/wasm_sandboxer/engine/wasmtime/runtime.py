"""One wasmtime engine and what all its guests share: configuration, trampoline, shim, WASI linkers.

The one engine-wide epoch is bumped only to make guests look at their cells; it does not tick.
"""

import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wasmtime

from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.wasmtime import binding, thunks
from wasm_sandboxer.engine.wasmtime.memories import Memories

if TYPE_CHECKING:
    from wasmtime.component import Component, Linker

MAX_WASM_STACK = 512 << 10  # bytes of native stack for Wasm frames; wasmtime's own default

# What the compiled code depends on; part of the module store's key. Change it with `configuration()`.
CONFIGURATION = f"epoch,stack={MAX_WASM_STACK},own-memories,arranged-data"


def configuration() -> wasmtime.Config:
    """The configuration every engine of ours is made with, for compiling and for running alike."""
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.shared_memory = False  # it would not be bounded by a store's limits
    config.max_wasm_stack = MAX_WASM_STACK
    return config


class Runtime:
    """The process's engine. Everything here may be used by any thread."""

    def __init__(self, assemble: Callable[["Runtime", str], wasmtime.Module] | None = None) -> None:
        """Make the engine; `assemble` compiles a module of ours by name (default: here and now)."""
        self.memories = Memories()
        config = configuration()
        self.memories.serve(config)
        self.engine = wasmtime.Engine(config)
        assemble = assemble or _assemble_here
        self.trampoline = assemble(self, "trampoline")
        self.shim = assemble(self, "shim")
        self.on_epoch = binding.EpochCallback(thunks.address("on_epoch"))
        self.transfer = binding.HostFunction(thunks.address("transfer"))
        self.transfer_type = binding.func_type("i32", "i32", "i32", "i32", result="i64")
        self.wait = binding.HostFunction(thunks.address("wait"))
        self.wait_type = binding.func_type("i32", "i64", "i64", result="i64")
        self.count = binding.HostFunction(thunks.address("count"))
        self.count_type = binding.func_type("i32", result="i32")
        self.flags_type = wasmtime.GlobalType(wasmtime.ValType.i32(), mutable=False)
        # Files of guests are descriptors of this process, which needs the rest for sockets, streams and counters.
        self.files = MemoryPool("the process's", resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self.linker = wasmtime.Linker(self.engine)
        self.linker.define_wasi()
        self._component_linkers: dict[bool, Any] = {}
        self._linkers_lock = threading.Lock()

    def bump_epoch(self) -> None:
        """Have every running guest look at its cell."""
        self.engine.increment_epoch()

    def component_linker(self, *, http: bool) -> "Linker":
        """The linker of preview 2, with outgoing wasi:http or without; made at first use."""
        from wasmtime.component import Linker  # noqa: PLC0415  # start-up time of core modules

        with self._linkers_lock:
            linker = self._component_linkers.get(http)
            if linker is None:
                linker = Linker(self.engine)
                linker.add_wasip2()
                if http:
                    linker.add_wasi_http()
                self._component_linkers[http] = linker
            return linker

    def load_module(self, path: str) -> wasmtime.Module:
        """A module from a compiled file of our own store.

        Deserialising trusts the file completely: only the store calls this, after it has checked owner, mode
        and digest of what it wrote itself.
        """
        return wasmtime.Module.deserialize_file(self.engine, path)

    def load_component(self, path: str) -> "Component":
        """A component from a compiled file of our own store; as load_module."""
        from wasmtime.component import Component  # noqa: PLC0415  # start-up time of core modules

        return Component.deserialize_file(self.engine, path)


def own_source(name: str) -> str:
    """The text of one of our own modules: trampoline or shim."""
    return Path(__file__).with_name(f"{name}.wat").read_text()


def _assemble_here(runtime: Runtime, name: str) -> wasmtime.Module:
    return wasmtime.Module(runtime.engine, own_source(name))


def store_context(store: wasmtime.Store) -> Any:
    """The C pointer to a store's context."""
    return store._context()  # noqa: SLF001  # the package keeps it private; the version is pinned
