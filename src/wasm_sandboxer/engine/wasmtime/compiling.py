"""Compiling a module with wasmtime: the job that runs in a bounded child, and how its answer reads."""

import json
import os
import re
import time
from dataclasses import asdict, dataclass
from typing import Any

import wasmtime

from wasm_sandboxer.engine import image, wasm
from wasm_sandboxer.engine.image import Arranged, Image
from wasm_sandboxer.engine.interface import Interface, check_description, interface_of
from wasm_sandboxer.engine.protocol import Kind
from wasm_sandboxer.engine.starting import export_start
from wasm_sandboxer.engine.wasm import Spaces
from wasm_sandboxer.engine.wasmtime.runtime import configuration
from wasm_sandboxer.errors import ModuleError, UnknownFeature
from wasm_sandboxer.forking.jobs import Jobs

_UNKNOWN_FEATURE = "feature required"  # as wasmtime says of an instruction that belongs to a proposal
# Where text is wrong, and below it a picture of that, which takes more than one line.
_PLACE_IN_TEXT = re.compile(r"\s*--> <anon>:(\d+):(\d+)\n.*", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the child found out about the module it compiled."""

    kind: Kind
    spaces: Spaces
    interface: Interface | None
    image: Image | None
    seconds: float


def _compile(_argument: bytes, fds: tuple[int, ...]) -> bytes:
    """Compile what the first descriptor holds into the second; answers with JSON for `read_answer`."""
    source_fd, target = fds
    begun = time.perf_counter()
    with open(source_fd, "rb", closefd=False) as file:  # the descriptor is the caller's
        file.seek(0)
        source = file.read()
    try:
        binary = translate(source) if wasm.looks_like_text(source) else source
        kind = wasm.kind_of(binary)
        spaces = wasm.spaces(binary)
        if any(memory.shared for memory in spaces.memories):
            return _refusal("it uses shared memory (threads), which only WasmEdge offers here", unknown=True)
        engine = wasmtime.Engine(configuration())
        arranged = _arrange(engine, kind, binary)
        code = _code(engine, kind, binary, arranged.binary)
        interface = interface_of(binary) if kind is Kind.MODULE else None
        check_description(interface, spaces)
    except wasmtime.WasmtimeError as error:
        report = one_line(str(error))
        return _refusal(report, unknown=_UNKNOWN_FEATURE in report)
    except ModuleError as error:
        return _refusal(str(error))
    try:
        _write(target, code)
        mapped = _append_image(target, len(code), arranged) if arranged.data else None
    except OSError as error:
        return json.dumps({"unwritten": error.errno}).encode()
    seconds = time.perf_counter() - begun
    compiled = Compiled(kind=kind, spaces=spaces, interface=interface, image=mapped, seconds=seconds)
    return json.dumps(asdict(compiled)).encode()


def _code(engine: wasmtime.Engine, kind: Kind, binary: bytes, arranged: bytes) -> bytes:
    """What is compiled of a binary that was arranged; what is wrong is told as it stands in the former.

    Raises WasmtimeError, ModuleError.
    """
    made = export_start(arranged) if kind is Kind.MODULE else arranged
    try:
        return bytes(_load(engine, kind, made).serialize())
    except wasmtime.WasmtimeError:
        if made != binary:
            _load(engine, kind, binary)
        raise


def _load(engine: wasmtime.Engine, kind: Kind, binary: bytes) -> Any:
    if kind is Kind.MODULE:
        return wasmtime.Module(engine, binary)
    from wasmtime.component import Component  # noqa: PLC0415  # start-up time of core modules

    return Component(engine, binary)


def _arrange(engine: wasmtime.Engine, kind: Kind, binary: bytes) -> Arranged:
    try:
        return image.arrange(binary)
    except ModuleError:
        if kind is Kind.MODULE:
            wasmtime.Module.validate(engine, binary)  # which says it in the engine's words, with the place
        raise


def _append_image(target: int, written: int, arranged: Arranged) -> Image:
    """Write the image behind the code, where it can be mapped; the engine looks at what its own headers say."""
    gap = image.padding(written)
    _write(target, bytes(gap))
    _write(target, arranged.data)
    size = len(arranged.data)
    return Image(offset=written + gap, address=arranged.address, size=size, memory=arranged.memory)


def _write(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def read_answer(answer: bytes) -> Compiled:
    """What the job answered; raises ModuleError with the reason why the module cannot be compiled.

    And OSError where what it was compiled to could not be written.
    """
    found = json.loads(answer)
    if "unwritten" in found:
        raise OSError(found["unwritten"], os.strerror(found["unwritten"]))
    if "refused" in found:
        raise (UnknownFeature if found["unknown"] else ModuleError)(found["refused"])
    interface, mapped = found["interface"], found["image"]
    return Compiled(
        kind=Kind(found["kind"]),
        spaces=Spaces.from_json(found["spaces"]),
        interface=Interface.from_json(interface) if interface else None,
        image=Image(**mapped) if mapped else None,
        seconds=found["seconds"],
    )


def translate(text: bytes) -> bytes:
    """The binary form of text; raises WasmtimeError, or ModuleError for what is no text. For a bounded child."""
    try:
        return bytes(wasmtime.wat2wasm(text.decode()))
    except UnicodeDecodeError:
        raise ModuleError(f"not WebAssembly but {wasm.describe(text)}") from None


def _refusal(reason: str, *, unknown: bool = False) -> bytes:
    return json.dumps({"refused": reason, "unknown": unknown}).encode()


def one_line(report: str) -> str:
    """The engine's report of an invalid module, its causes joined: "…: type mismatch (at offset 0x2a)"."""
    report = _PLACE_IN_TEXT.sub(r" (line \1, column \2)", report)
    lines = [line.strip() for line in report.splitlines()]
    wanted = [line for line in lines if line and line != "Caused by:"]
    return ": ".join(line.split(": ", 1)[1] if line[0].isdigit() and ": " in line else line for line in wanted)


JOB = "compile"
JOBS: Jobs = {JOB: _compile}
