"""What a guest of either kind needs as calls of a script, for a process in which Python shall not run.

Nobody stops such a guest but by its process, so it has no deadline.

What a script points to must have been there when the mould was made, or the child has it not: all that lives as long
as the runtime, and nothing that is made at first use.
"""

import ctypes
import functools
import os
from dataclasses import dataclass, field
from typing import Any

from wasm_sandboxer.engine import counting
from wasm_sandboxer.engine.protocol import Kind
from wasm_sandboxer.engine.store import Facts
from wasm_sandboxer.engine.wasmtime import making
from wasm_sandboxer.engine.wasmtime.binding import address_of as address_of_object
from wasm_sandboxer.engine.wasmtime.binding import ffi
from wasm_sandboxer.engine.wasmtime.limits import most_elements, table_memory
from wasm_sandboxer.engine.wasmtime.runtime import Runtime
from wasm_sandboxer.guest import Guest, Network, Preopen, Stdio
from wasm_sandboxer.linux.script import NOT_NEGATIVE, NULL, TRUE, Check, Label, Result, Script
from wasm_sandboxer.linux.syscall import address_of

_NEVER = 1 << 62  # epochs from now
_READ, _WRITE = 1, 2  # both of wasmtime's directory and file permission bits
_NO_LIMIT = -1
_FALSE = Check(0xFF, 0)
_WORD = 8
REPORT_LENGTH, REPORT_PLACE = 0, 8  # of a wasm_byte_vec_t, by their offsets in bytes


@dataclass(frozen=True)
class Ends:
    """Where the script goes on when the guest has come to an end: places for its maker to fill.

    `code` is where the exit code is then, four bytes; `report` two words, of the engine's text (REPORT_LENGTH,
    REPORT_PLACE). `refused` is the address of how many bytes its pools had no room for, or 0.
    """

    code: int
    report: int
    refused: int
    exited: Label = field(default_factory=Label)
    trapped: Label = field(default_factory=Label)
    unmade: Label = field(default_factory=Label)
    folder: Label = field(default_factory=Label)


def load(script: Script, runtime: Runtime, kind: Kind, path: str, ends: Ends) -> Result:
    """Load compiled code; the result is its pointer."""
    loaded = script.room(_WORD)
    place = address_of_object(runtime.engine), script.text(path), loaded
    attempt(script, ends, ends.unmade, f"wasmtime_{kind}_deserialize_file", *place)
    return Result(loaded)


def place_of_refusal(runtime: Runtime) -> int:
    """Where in a child it is written how many bytes its pools had no room for; 0 if they had."""
    return runtime.memories.desk.address + making.REFUSED


def charge(script: Script, runtime: Runtime, pool: int, facts: Facts, guest: Guest, ends: Ends) -> None:
    """Have the guest's memories and tables charged to the pool at this address."""
    desk = runtime.memories.desk.address
    slots = script.room(making.MEMORY_SIZE * (guest.limits.memories + 1))
    for word, value in ((making.POOL, pool), (making.NEXT, slots)):
        script.call(address_of("memcpy"), desk + word, script.words(value), _WORD)
    tables = table_memory(facts.spaces, guest.limits)
    if tables:
        refused = Label()
        script.call(counting.addresses()["charge"], pool, tables, check=NULL, otherwise=refused)
        script.aside(refused, lambda: _refuse(script, tables, ends))


def store(script: Script, runtime: Runtime, facts: Facts, guest: Guest, stdio: Stdio, ends: Ends) -> Result:
    """Make the guest's store with its WASI, which serves these streams; the result is its context."""
    made = engine(script, "wasmtime_store_new", address_of_object(runtime.engine), 0, 0)
    context = engine(script, "wasmtime_store_context", made)
    limits = guest.limits
    most = most_elements(facts.spaces, limits), limits.instances, limits.tables, limits.memories
    engine(script, "wasmtime_store_limiter", made, _NO_LIMIT, *most)
    engine(script, "wasmtime_context_set_epoch_deadline", context, _NEVER)
    config = _wasi(script, guest, stdio, ends)
    attempt(script, ends, ends.unmade, "wasmtime_context_set_wasi", context, config)
    return context


def _wasi(script: Script, guest: Guest, stdio: Stdio, ends: Ends) -> Result:
    """See wasi.build; the streams are the process's own 0, 1 and 2."""
    config = engine(script, "wasi_config_new")
    argv = script.words(*(script.text(each) for each in guest.argv))
    engine(script, "wasi_config_set_argv", config, len(guest.argv), argv, check=TRUE, what="set its arguments")
    if guest.env:
        names, values = (
            script.words(*(script.text(each) for each in column)) for column in zip(*guest.env, strict=True)
        )
        given = config, len(guest.env), names, values
        engine(script, "wasi_config_set_env", *given, check=TRUE, what="set its environment")
    for preopen in guest.preopens:
        _give(script, config, preopen, ends)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(stdio, name) is not None:
            engine(script, f"wasi_config_inherit_{name}", config)
    if guest.network is Network.HOST:
        engine(script, "wasi_config_inherit_network", config)
        engine(script, "wasi_config_allow_ip_name_lookup", config, 1)
    return config


def _give(script: Script, config: Result, preopen: Preopen, ends: Ends) -> None:
    permissions = _READ | _WRITE if preopen.writable else _READ
    host, inside = script.text(str(preopen.host)), script.text(preopen.guest)
    closed = Label()
    what = f"cannot open the directory {preopen.host} for the guest's {preopen.guest}"
    given = config, host, inside, permissions, permissions
    engine(script, "wasi_config_preopen_dir", *given, check=TRUE, what=what, otherwise=closed)

    def why() -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        script.call(address_of("open"), host, flags, check=NOT_NEGATIVE, what=what, otherwise=ends.folder)
        script.jump(ends.folder, what)

    script.aside(closed, why)


def attempt(script: Script, ends: Ends, otherwise: Label, name: str, *arguments: int | Result) -> None:
    """Call what may give an error: then the guest has exited, or ends `otherwise`."""
    found = Label()
    error = engine(script, name, *arguments, check=NULL, otherwise=found)

    def look() -> None:
        engine(script, "wasmtime_error_exit_status", error, ends.code, check=_FALSE, otherwise=ends.exited)
        engine(script, "wasmtime_error_message", error, ends.report)
        script.jump(otherwise)

    script.aside(found, look)


def _refuse(script: Script, size: int, ends: Ends) -> None:
    script.call(address_of("memcpy"), ends.refused, script.words(size), _WORD)
    script.jump(ends.unmade)


def engine(script: Script, name: str, *arguments: int | Result, **more: Any) -> Result:
    """Call a function of the C API; see Script.call."""
    return script.call(_function(name), *arguments, **more)


@functools.cache
def _function(name: str) -> int:
    return ctypes.cast(getattr(ffi.dll, name), ctypes.c_void_p).value or 0
