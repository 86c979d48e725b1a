"""A core module's run as calls of a script: what module.py and instances.py do, for a process without Python."""

from collections.abc import Callable
from dataclasses import dataclass

from wasm_sandboxer.engine import counting
from wasm_sandboxer.engine.entry import COMMAND, REACTOR, entry_of
from wasm_sandboxer.engine.starting import EXPORT
from wasm_sandboxer.engine.store import Facts
from wasm_sandboxer.engine.wasmtime import binding, making, thunks
from wasm_sandboxer.engine.wasmtime.control import pollfds
from wasm_sandboxer.engine.wasmtime.instances import SHIM_IMPORTS, Import, flags_of
from wasm_sandboxer.engine.wasmtime.runtime import Runtime
from wasm_sandboxer.engine.wasmtime.scripting import Ends, attempt, engine, store
from wasm_sandboxer.guest import Guest, Stdio
from wasm_sandboxer.linux.script import NOT_ZERO, NULL, TRUE, Label, Result, Script, equal
from wasm_sandboxer.linux.syscall import address_of

_WORD = 8
_INSTANCE = 16  # bytes of a wasmtime_instance_t
_EXTERN, _ITEM = 32, 8  # bytes of a wasmtime_extern_t, and where in it the item is
_VALUE, _NUMBER = 32, 8  # bytes of a wasmtime_val_t, and where in it the number is
_OTHERS = 6  # imports of the shim beside WASI's: memory, three functions, flags, table
_WASI = binding.WASI.encode()


@dataclass
class _Made:
    """A store's context, and where in the script's memory its instances are; `trap` is for what calls leave."""

    context: Result
    trampoline: int
    guest: int
    trap: int


def can_run(facts: Facts, guest: Guest) -> bool:
    """Whether nothing is to be said of the run's results."""
    assert facts.interface is not None
    name, arguments = entry_of(facts.interface.functions, guest)
    return not arguments and not facts.interface.functions[name].results


def show_image(script: Script, runtime: Runtime, facts: Facts, code: int) -> None:
    """Have what the guest's memory holds at the start mapped into it from the file of its code."""
    if facts.image is None:
        return
    desk = runtime.memories.desk.address
    image = facts.image
    words = script.words(image.size, image.memory, image.address, code, image.offset)
    script.call(address_of("memcpy"), desk + making.IMAGE_SIZE, words, 5 * _WORD)


def run(
    script: Script, runtime: Runtime, module: Result, facts: Facts, guest: Guest, stdio: Stdio,
    ready: Callable[[], None], ends: Ends,
) -> None:  # fmt: skip
    """Make its instances, have `ready` write down what is to be done then, and call its functions."""
    assert facts.interface is not None
    context = store(script, runtime, facts, guest, Stdio(), ends)  # the shim serves the streams
    made = _Made(context, script.room(_INSTANCE), script.room(_INSTANCE), script.room(_WORD))
    _instantiate(script, made, made.trampoline, binding.address_of(runtime.trampoline), 0, 0, ends)
    imports = [Import(item.module.encode(), item.name.encode()) for item in facts.interface.imports]
    externs = script.room(_EXTERN * len(imports))
    for number, item in enumerate(imports):
        place = externs + number * _EXTERN
        if item.is_trampoline:
            _export(script, context, made.trampoline, item.name, place)
        else:
            _wasi(script, runtime, context, item.name, place)
    _instantiate(script, made, made.guest, module, externs, len(imports), ends)
    if any(item.is_shimmed for item in imports):
        _add_shim(script, runtime, made, guest, stdio, ends)
    functions = facts.interface.functions
    if facts.interface.starts:
        _call(script, made, EXPORT, ends)
    ready()
    name, _ = entry_of(functions, guest)
    if name not in (COMMAND, REACTOR) and REACTOR in functions:
        _call(script, made, REACTOR, ends)
    _call(script, made, name, ends)
    script.jump(ends.exited)


def _add_shim(script: Script, runtime: Runtime, made: _Made, guest: Guest, stdio: Stdio, ends: Ends) -> None:
    """Put the shim between the guest and WASI, if it exports its memory."""
    context = made.context
    externs = script.room(_EXTERN * (len(SHIM_IMPORTS) + _OTHERS))
    place = iter(range(externs, externs + _EXTERN * (len(SHIM_IMPORTS) + _OTHERS), _EXTERN))
    without = Label()
    memory = externs + _EXTERN * len(SHIM_IMPORTS)
    _export(script, context, made.guest, b"memory", memory, otherwise=without)
    script.call(
        address_of("memcmp"), memory, script.data(bytes([binding.MEMORY])), 1, check=equal(0), otherwise=without
    )
    cell = _cell(script, runtime, guest, stdio)
    base = engine(script, "wasmtime_memory_data", context, memory + _ITEM)
    script.call(address_of("memcpy"), cell + thunks.CELL_MEMORY, int(base), _WORD)
    for name in SHIM_IMPORTS:
        _wasi(script, runtime, context, name, next(place))
    next(place)  # the memory
    for callee, callback in (
        (runtime.transfer_type, "transfer"), (runtime.wait_type, "wait"), (runtime.count_type, "count"),
    ):  # fmt: skip
        function = next(place)
        script.set_words(function, {0: binding.FUNC})
        given = binding.address_of(callee), thunks.address(callback), cell, 0
        engine(script, "wasmtime_func_new_unchecked", context, *given, function + _ITEM)
    flags = next(place)
    script.set_words(flags, {0: binding.GLOBAL})
    value = script.room(_VALUE)  # of kind 0, which is i32
    script.set_words(value, {_NUMBER: flags_of(stdio)})
    kind = binding.address_of(runtime.flags_type)
    attempt(script, ends, ends.unmade, "wasmtime_global_new", context, kind, value, flags + _ITEM)
    _export(script, context, made.trampoline, b"table", next(place))
    shim = script.room(_INSTANCE)
    _instantiate(script, made, shim, binding.address_of(runtime.shim), externs, len(SHIM_IMPORTS) + _OTHERS, ends)
    _call(script, _Made(context, made.trampoline, shim, made.trap), "begin", ends)
    script.place(without)


def _cell(script: Script, runtime: Runtime, guest: Guest, stdio: Stdio) -> int:
    """The cell of a guest that nobody stops or pauses; its address. See control.py."""
    files = counting.lay_out(
        script, counting.lay_out(script, 0, runtime.files.limit), guest.limits.files, used=len(guest.preopens)
    )
    count = counting.addresses()
    cell = script.room(thunks.CELL_SIZE)
    script.set_words(
        cell,
        {
            thunks.CELL_FILES: files,
            thunks.CELL_CHARGE: count["charge"],
            thunks.CELL_RELEASE: count["release"],
            thunks.CELL_DOORS: 0xFFFFFFFF,  # there are none
            **{thunks.CELL_POLL + number * _WORD: word for number, word in enumerate(pollfds(stdio))},
        },
    )
    return cell


def _instantiate(
    script: Script, made: _Made, place: int, module: int | Result, externs: int, count: int, ends: Ends
) -> None:
    attempt(
        script, ends, ends.unmade, "wasmtime_instance_new", made.context, module, externs, count, place, made.trap
    )
    _check_trap(script, made, ends)


def _export(
    script: Script, context: Result, instance: int, name: bytes, place: int, otherwise: Label | None = None
) -> None:
    engine(
        script, "wasmtime_instance_export_get", context, instance, script.data(name), len(name), place,
        check=TRUE, what=f"find {name.decode(errors='replace')}", otherwise=otherwise,
    )  # fmt: skip


def _wasi(script: Script, runtime: Runtime, context: Result, name: bytes, place: int) -> None:
    engine(
        script, "wasmtime_linker_get", binding.address_of(runtime.linker), context, script.data(_WASI), len(_WASI),
        script.data(name), len(name), place, check=TRUE, what=f"find {name.decode(errors='replace')}",
    )  # fmt: skip


def _call(script: Script, made: _Made, name: str, ends: Ends) -> None:
    """Call a function of the guest's that takes and gives nothing."""
    function = script.room(_EXTERN)
    _export(script, made.context, made.guest, name.encode(), function)
    failed = Label()
    given = made.context, function + _ITEM, 0, 0, 0, 0, made.trap
    error = engine(script, "wasmtime_func_call", *given, check=NULL, otherwise=failed)
    _check_trap(script, made, ends)

    def look() -> None:
        _look_for_exit(script, made, ends)
        engine(script, "wasmtime_error_message", error, ends.report)
        script.jump(ends.trapped)

    script.aside(failed, look)


def _check_trap(script: Script, made: _Made, ends: Ends) -> None:
    """Go on where the call before has left no trap."""
    trapped = Label()
    script.call(address_of("labs"), Result(made.trap), check=NULL, otherwise=trapped)

    def look() -> None:
        _look_for_exit(script, made, ends)
        engine(script, "wasm_trap_message", Result(made.trap), ends.report)
        script.jump(ends.trapped)

    script.aside(trapped, look)


def _look_for_exit(script: Script, made: _Made, ends: Ends) -> None:
    """Go on where the guest has not called proc_exit."""
    item, value = script.room(_EXTERN), script.room(_VALUE)
    running, number = Label(), value + _NUMBER
    for name in (b"exited", b"exit_code"):
        _export(script, made.context, made.trampoline, name, item)
        engine(script, "wasmtime_global_get", made.context, item + _ITEM, value)
        if name == b"exited":
            script.call(address_of("memcmp"), number, script.data(bytes(4)), 4, check=NOT_ZERO, otherwise=running)
    script.call(address_of("memcpy"), ends.code, number, 4)
    script.jump(ends.exited)
    script.place(running)
