"""A component's command as calls of a script: what component.py does, for a process in which Python shall not run."""

from collections.abc import Callable

from wasm_sandboxer.engine.store import Facts
from wasm_sandboxer.engine.wasmtime.binding import address_of as address_of_object
from wasm_sandboxer.engine.wasmtime.binding import ffi
from wasm_sandboxer.engine.wasmtime.runtime import Runtime
from wasm_sandboxer.engine.wasmtime.scripting import Ends, attempt, engine, store
from wasm_sandboxer.guest import Guest, Network, Stdio
from wasm_sandboxer.linux.script import NOT_NULL, TRUE, Label, Result, Script, equal
from wasm_sandboxer.linux.syscall import address_of

# Bytes of the C API's structures, with some to spare.
_INSTANCE, _FUNCTION, _VALUE = 32, 32, 64
_IS_OK = 8  # where a value of kind result says so


def run(
    script: Script, runtime: Runtime, component: Result, facts: Facts, command: str, guest: Guest, stdio: Stdio,
    ready: Callable[[], None], ends: Ends,
) -> None:  # fmt: skip
    """Make its instance, have `ready` write down what is to be done then, and call the command."""
    context = store(script, runtime, facts, guest, stdio, ends)
    if guest.network is Network.HOST:
        engine(script, "wasmtime_context_set_wasi_http", context)
    linker = address_of_object(runtime.component_linker(http=guest.network is Network.HOST))
    instance = script.room(_INSTANCE)
    attempt(script, ends, ends.unmade, "wasmtime_component_linker_instantiate", linker, context, component, instance)
    ready()
    function = _find(script, context, instance, command)
    value = script.room(_VALUE)
    attempt(script, ends, ends.trapped, "wasmtime_component_func_call", function, context, 0, 0, value, 1)
    # If it is of another type than a result, it does not say that anything failed.
    kind = script.data(bytes([ffi.WASMTIME_COMPONENT_RESULT.value]))
    script.call(address_of("memcmp"), value, kind, 1, check=equal(0), otherwise=ends.exited)
    failed = Label()
    script.call(address_of("memcmp"), value + _IS_OK, script.data(b"\1"), 1, check=equal(0), otherwise=failed)
    script.jump(ends.exited)
    script.place(failed)
    script.call(address_of("memcpy"), ends.code, script.data(b"\1\0\0\0"), 4)
    script.jump(ends.exited)


def _find(script: Script, context: Result, instance: int, command: str) -> int:
    found: int | Result = 0
    for name in (command, "run"):
        text = name.encode()
        found = engine(
            script, "wasmtime_component_instance_get_export_index", instance, context, found, script.data(text),
            len(text), check=NOT_NULL, what=f"find {name}",
        )  # fmt: skip
    function = script.room(_FUNCTION)
    engine(
        script,
        "wasmtime_component_instance_get_func",
        instance,
        context,
        found,
        function,
        check=TRUE,
        what="find run",
    )
    return function
