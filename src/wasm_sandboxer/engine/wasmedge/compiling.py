"""What becomes of a module before WasmEdge may run it: cleaned, compiled, described; tried without running it.

Each is a job in a bounded child, since it reads what a stranger wrote.
"""

import json
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wasm_sandboxer.engine import wasm
from wasm_sandboxer.engine.interface import Interface, check_description, interface_of
from wasm_sandboxer.engine.protocol import Kind
from wasm_sandboxer.engine.wasm import Spaces
from wasm_sandboxer.engine.wasmedge import rewriting, tool
from wasm_sandboxer.engine.wasmedge.binary import Binary
from wasm_sandboxer.engine.wasmedge.imports import check_sockets
from wasm_sandboxer.errors import ModuleError
from wasm_sandboxer.forking.jobs import Jobs

# Optimising takes ten to twenty times as long, a minute for each megabyte; what it makes is several times as fast,
# but what is not optimised is already some thirty times as fast as what is interpreted.
COMPILE = ("compile", "--optimize", "0", *(
    f"--enable-{name}" for name in ("tail-call", "extended-const", "multi-memory", "threads", "relaxed-simd")
))  # fmt: skip
PROPOSALS = tuple(
    f"--enable-{name}"
    for name in (
        "tail-call", "extended-const", "multi-memory", "threads", "relaxed-simd", "exception-handling",
        "function-reference",
    )
)  # fmt: skip
# What it says last of a module that it has loaded and linked, and that has no function by the name to call.
_LINKED = "A function name is required"
_NN = '(plugin "wasi_nn")'  # as --version lists it
_PREFIX = re.compile(r"^(?:\x1b\[[0-9;]*m|\[[^\]]*\] ?)+", re.MULTILINE)
_CODE = re.compile(r", Code: 0x[0-9a-f]+")
_UNKNOWN = re.compile(r'When linking module: "(.*)" , (?:function|table|memory|global|tag) name: "(.*)"')
_OUT_OF_MEMORY = re.compile(r"bad_alloc|out of memory|Cannot allocate memory|buffer allocation failed", re.IGNORECASE)
_NOT_COMPILED = re.compile(r"requires enabling (Exception Handling|Typed Function References) proposal")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What the child found out about a module that it made ready."""

    spaces: Spaces
    interface: Interface
    seconds: float


def prepare_request(binary: Binary, folder: str, memory: int) -> bytes:
    """The argument of the job `PREPARE`, whose descriptors are the source and the target.

    `folder` is scratch, `memory` what the compiler may have in bytes.
    """
    return json.dumps({**_about(binary), "folder": folder, "memory": min(memory, tool.DATA)}).encode()


def read_prepared(answer: bytes) -> Prepared:
    """What the job answered; raises ModuleError with the reason why WasmEdge cannot run the module."""
    found = json.loads(answer)
    if "refused" in found:
        raise ModuleError(found["refused"])
    return Prepared(
        spaces=Spaces.from_json(found["spaces"]),
        interface=Interface.from_json(found["interface"]),
        seconds=found["seconds"],
    )


def try_request(binary: Binary, plugins: Path | None, *, models: bool) -> bytes:
    """The argument of the job `TRY`, whose descriptor is a module that was prepared; `models` want WASI-NN."""
    return json.dumps({**_about(binary), "plugins": str(plugins or ""), "models": models}).encode()


def _about(binary: Binary) -> dict[str, Any]:
    return {"binary": str(binary.path), "needs": [str(path) for path in binary.needs]}


def read_tried(answer: bytes) -> None:
    """Raise ModuleError if the module cannot be linked, naming what is missing."""
    found = json.loads(answer)
    if "refused" in found:
        raise ModuleError(found["refused"])


def environment(plugins: Path | None) -> dict[str, str]:
    """The variables of WasmEdge's own; a guest's are given otherwise."""
    return {"WASMEDGE_PLUGIN_PATH": str(plugins)} if plugins is not None else {}


def _prepare(argument: bytes, fds: tuple[int, ...]) -> bytes:
    """Clean and compile what the first descriptor holds into the second."""
    given = json.loads(argument)
    source, target = fds
    begun = time.perf_counter()
    tool.bound(given["memory"])
    try:
        module = rewriting.cleaned(_module(_read(source)))
        tool.enclose(given["needs"], given["folder"])  # nothing is imported from here on
        spaces = wasm.spaces(module)
        if any(memory.is_64 for memory in spaces.memories):
            return _refusal("it has a 64-bit memory, which WasmEdge does not know")
        ready = _compile(given["binary"], module, Path(given["folder"]), given["memory"])
        if ready is None:
            _check(_try(given["binary"], module, {}), linked=False)
        # The module is valid, or this could not be read.
        interface = interface_of(module)
        check_description(interface, spaces)
        check_sockets(interface)
    except ModuleError as error:
        return _refusal(str(error))
    view = memoryview(ready if ready is not None else module)
    while view:
        view = view[os.write(target, view) :]
    prepared = Prepared(spaces=spaces, interface=interface, seconds=time.perf_counter() - begun)
    return json.dumps(asdict(prepared)).encode()


def _compile(binary: str, module: bytes, folder: Path, memory: int) -> bytes | None:
    """The module with machine code in it, or None if WasmEdge compiles none such."""
    source, target = folder / "module.wasm", folder / "compiled.wasm"
    source.write_bytes(module)
    done = tool.run_here([binary, *COMPILE, str(source), str(target)], data=memory)
    if done.code == 0:
        return target.read_bytes()
    if _NOT_COMPILED.search(done.output):
        return None
    if _OUT_OF_MEMORY.search(done.output):
        raise MemoryError
    raise ModuleError(explain(done.output) or f"WasmEdge's compiler ended with {done.code}")


def _try_job(argument: bytes, fds: tuple[int, ...]) -> bytes:
    """Load and link a prepared module, of which nothing is run."""
    given = json.loads(argument)
    plugins = Path(given["plugins"]) if given["plugins"] else None
    tool.enclose([*given["needs"], *([given["plugins"]] if plugins is not None else [])])
    try:
        if given["models"] and _NN not in tool.run_here([given["binary"], "--version"], environment(plugins)).output:
            return _refusal("it has models to be loaded before, and WasmEdge has no plugin wasi_nn here")
        module = rewriting.cleaned(_read(fds[0]))  # without machine code that is not needed
        _check(_try(given["binary"], module, environment(plugins)), linked=True)
    except ModuleError as error:
        return _refusal(str(error))
    return b"{}"


def _try(binary: str, module: bytes, env: dict[str, str]) -> str:
    fd = os.memfd_create("module", 0)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(rewriting.harmless(module))
        return tool.run_here([binary, *PROPOSALS, tool.lend(fd)], env).output
    finally:
        os.close(fd)


def _check(output: str, *, linked: bool) -> None:
    if _LINKED in output:
        return
    unknown = _UNKNOWN.search(output)
    if unknown is None:
        raise ModuleError(explain(output) or "WasmEdge does not load it, and does not say why")
    if linked:
        what = "is not offered by WasmEdge" if "unknown import" in output else "is of another type in WasmEdge"
        raise ModuleError(f"missing import {unknown[1]}::{unknown[2]}: it {what} or a plugin that is found here")


def explain(output: str) -> str:
    """The error among WasmEdge's messages as one line, empty for none."""
    lines = [_PREFIX.sub("", line) for line in output.splitlines() if "[error]" in line]
    if not lines:
        return ""
    details = [line.strip() for line in lines[1:] if "requires enabling" in line or "Bytecode offset" in line]
    return ": ".join([_CODE.sub("", lines[0]), *details])


def _module(source: bytes) -> bytes:
    if wasm.looks_like_text(source):
        from wasm_sandboxer.engine.wasmtime.compiling import translate  # noqa: PLC0415  # it knows the text form

        source = translate(source)
    if wasm.kind_of(source) is Kind.COMPONENT:
        raise ModuleError("it is a component, and WasmEdge runs only core modules")
    return source


def _read(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:  # the descriptor is the caller's
        file.seek(0)
        return file.read()


def _refusal(reason: str) -> bytes:
    return json.dumps({"refused": reason}).encode()


PREPARE, TRY = "wasmedge-prepare", "wasmedge-try"
JOBS: Jobs = {PREPARE: _prepare, TRY: _try_job, tool.JOB: tool.run_job}
