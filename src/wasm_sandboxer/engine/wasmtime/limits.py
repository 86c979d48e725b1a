"""The bounds a store holds its guest to, and what of it is charged to the guest's pool besides linear memory."""

import wasmtime

from wasm_sandboxer.engine.wasm import PAGE, Memory, Spaces
from wasm_sandboxer.errors import ModuleError
from wasm_sandboxer.guest import Limits
from wasm_sandboxer.units import format_size

_ELEMENT = 8  # bytes of the host's for each element of a table
_TABLE_GROWTH = 1 << 16  # elements that a table may have beyond those of the module's largest at the start


def check_memory(spaces: Spaces, limits: Limits) -> None:
    """Raise ModuleError if the module's memories and tables at their least are more than the guest may have."""
    if limits.memory is None:
        return
    needed = sum(memory.minimum * PAGE for memory in _own(spaces.memories)) + table_memory(spaces, limits)
    if needed > limits.memory:
        raise ModuleError(
            f"it needs {format_size(needed)} of memory to start, and its limit is {format_size(limits.memory)}"
        )


def bound(store: wasmtime.Store, spaces: Spaces, limits: Limits) -> None:
    """Set the store's limits; on the guest's thread, before anything is instantiated.

    Linear memory is not among them: the guest's pool bounds it.
    """
    store.set_limits(
        table_elements=most_elements(spaces, limits),
        instances=limits.instances,
        tables=limits.tables,
        memories=limits.memories,
    )


def table_memory(spaces: Spaces, limits: Limits) -> int:
    """Bytes that the guest's tables may come to: charged at the start, since nobody is told when a table grows."""
    most = most_elements(spaces, limits)
    elements = (most if table.maximum is None else min(table.maximum, most) for table in _own(spaces.tables))
    return sum(elements) * _ELEMENT


def most_elements(spaces: Spaces, limits: Limits) -> int:
    """How many elements each of the guest's tables may have."""
    largest = max((table.minimum for table in _own(spaces.tables)), default=0)
    return min(limits.table_elements, largest + _TABLE_GROWTH)


def _own(declared: tuple[Memory, ...]) -> list[Memory]:
    """Those that the module makes itself: inside a component one is made once and imported by others."""
    return [limits for limits in declared if not limits.imported]
