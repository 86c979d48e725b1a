"""Imports that cannot be satisfied here: which they are, and who would offer them."""

import ctypes

import wasmtime

from wasm_sandboxer.engine.protocol import ImportItem
from wasm_sandboxer.engine.wasmtime.binding import WASI, Extern, ffi
from wasm_sandboxer.engine.wasmtime.runtime import Runtime, store_context

_HINTS = (
    ("wasi_unstable", "this is preview 0, older than anything here runs; build it for preview 1"),
    ("wasi_ephemeral_", "WasmEdge may offer it as a plugin (--engine wasmedge)"),
    ("wasi_nn", "WasmEdge may offer it as a plugin (--engine wasmedge)"),
    ("wasmedge", "WasmEdge offers it (--engine wasmedge)"),
    ("wasi:http", "outgoing requests need --network host; serving is not offered"),
    ("wasi:", "no engine here offers this interface or version"),
    ("env", "the module expects a host of its own; build it for WASI"),
    ("wbg", "the module was built for JavaScript (wasm-bindgen); build it for WASI"),
    ("__wbindgen", "the module was built for JavaScript (wasm-bindgen); build it for WASI"),
    ("gojs", "the module was built for JavaScript (GOOS=js); build it with GOOS=wasip1"),
    ("go", "the module was built for JavaScript (GOOS=js); build it with GOOS=wasip1"),
    ("a", "the module was built for JavaScript (Emscripten); build it for WASI"),
)


def describe_missing(runtime: Runtime, imports: tuple[ImportItem, ...], report: str) -> str:
    """One line that names the imports nobody here defines and who would."""
    store = wasmtime.Store(runtime.engine)
    missing = [item for item in imports if not _is_defined(runtime, store, item)]
    store.close()
    if not missing:
        return f"an import has a type this engine does not offer: {report.strip().splitlines()[0]}"
    first = missing[0]
    names = ", ".join(f"{item.module}::{item.name}" for item in missing[:5])
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    return f"missing import {names}{more}: {hint(first)}"


def hint(item: ImportItem) -> str:
    """Who would offer an import that is missing."""
    if item.module == WASI and item.name.startswith("sock_"):
        return "WasmEdge offers its sockets (--engine wasmedge)"
    for prefix, text in _HINTS:
        if item.module == prefix or (len(prefix) > 3 and item.module.startswith(prefix)):
            return text
    return "no engine here offers it"


def _is_defined(runtime: Runtime, store: wasmtime.Store, item: ImportItem) -> bool:
    module, name = item.module.encode(), item.name.encode()
    found: bool = ffi.wasmtime_linker_get(
        runtime.linker.ptr(),
        store_context(store),
        module,
        len(module),
        name,
        len(name),
        ctypes.byref(Extern()),
    )
    return found
