"""A store that holds one guest: bounded, watched, its memory charged; what module.py and component.py run in."""

import contextlib
from collections.abc import Iterator

import wasmtime

from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.wasm import Spaces
from wasm_sandboxer.engine.wasmtime.binding import EngineError
from wasm_sandboxer.engine.wasmtime.control import CellControl
from wasm_sandboxer.engine.wasmtime.limits import bound, table_memory
from wasm_sandboxer.engine.wasmtime.memories import MappedImage, too_much
from wasm_sandboxer.engine.wasmtime.runtime import Runtime
from wasm_sandboxer.errors import ModuleError, OutOfMemory, ResourceExhausted, WasmSandboxerError
from wasm_sandboxer.guest import Guest


@contextlib.contextmanager
def held(
    runtime: Runtime, spaces: Spaces, guest: Guest, control: CellControl, image: MappedImage | None = None
) -> Iterator[wasmtime.Store]:
    """A store for the guest, on its thread, until it has ended; raises OutOfMemory if its pools have no room.

    `image` is what the guest's memory holds at the start.
    """
    tables = table_memory(spaces, guest.limits)
    pool = control.memories.pool
    if (refusing := pool.charge(tables)) is not None:
        raise OutOfMemory(f"its instance could not be made: {too_much(tables, refusing)}")
    try:
        _charge_folders(guest, control.files)
        with (
            contextlib.closing(wasmtime.Store(runtime.engine)) as store,
            runtime.memories.made_for(control.memories, image),
        ):
            bound(store, spaces, guest.limits)
            control.guard(store)
            yield store
    finally:
        pool.release(tables)
        control.files.release(control.files.used)  # the store has closed them all


def not_made(error: EngineError, control: CellControl) -> WasmSandboxerError:
    """Why the guest has no instance, by the engine's error."""
    why = f"its instance could not be made: {error.first_line}"
    memories = control.memories
    # A heap of collected objects grows from nothing, and so is denied, where a memory is lacking.
    return OutOfMemory(why) if memories.lacking or memories.pool.denied else ModuleError(why)


def _charge_folders(guest: Guest, files: MemoryPool) -> None:
    """Each folder that a guest is given takes a descriptor, as each file it will open."""
    count = len(guest.preopens)
    if (refusing := files.charge(count)) is not None:
        raise ResourceExhausted(
            f"its {count} folders are more than {refusing.what} limit on open files: "
            f"{refusing.used} of {refusing.limit} are taken"
        )
