"""The bounds a store holds its guest to."""

import wasmtime

from wasm_sandboxer.engine.wasm import PAGE, Memory
from wasm_sandboxer.errors import ModuleError
from wasm_sandboxer.guest import Limits
from wasm_sandboxer.units import format_size


def check_memory(memories: tuple[Memory, ...], limits: Limits) -> None:
    """Raise ModuleError if the module's memories at their least are more than the guest may have."""
    needed = sum(memory.minimum for memory in memories) * PAGE
    if limits.memory is not None and needed > limits.memory:
        raise ModuleError(
            f"it needs {format_size(needed)} of memory to start, and its limit is {format_size(limits.memory)}"
        )


def bound(store: wasmtime.Store, limits: Limits) -> None:
    """Set the store's limits; on the guest's thread, before anything is instantiated."""
    store.set_limits(
        memory_size=-1 if limits.memory is None else limits.memory,
        table_elements=limits.table_elements,
        instances=limits.instances,
        tables=limits.tables,
        memories=limits.memories,
    )
