"""The bounds a store holds its guest to."""

import wasmtime

from wasm_sandboxer.engine.wasm import PAGE, Memory
from wasm_sandboxer.errors import ModuleError
from wasm_sandboxer.guest import Limits
from wasm_sandboxer.units import format_size

_ALL_OF_32_BITS = 1 << 32


def check_memory(memories: tuple[Memory, ...], limits: Limits) -> None:
    """Raise ModuleError if the module's memories at their least are more than the guest may have."""
    at_least = [memory.minimum * PAGE for memory in _own(memories)]
    needed = max(at_least, default=0) * len(at_least)
    if needed > _limit(limits):
        raise ModuleError(
            f"it needs {format_size(needed)} of memory to start, and its limit is {format_size(_limit(limits))}"
        )


def bound(store: wasmtime.Store, memories: tuple[Memory, ...], limits: Limits) -> None:
    """Set the store's limits; on the guest's thread, before anything is instantiated.

    The engine holds each memory by itself to its bound, so a module's several get equal parts of the limit.
    """
    store.set_limits(
        memory_size=_limit(limits) // max(len(_own(memories)), 1),
        table_elements=limits.table_elements,
        instances=limits.instances,
        tables=limits.tables,
        memories=limits.memories,
    )


def _own(memories: tuple[Memory, ...]) -> list[Memory]:
    """Those that the module makes itself: inside a component one is made once and imported by others."""
    return [memory for memory in memories if not memory.imported]


def _limit(limits: Limits) -> int:
    return _ALL_OF_32_BITS if limits.memory is None else limits.memory
