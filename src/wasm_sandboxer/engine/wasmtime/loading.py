"""From compiled code to a Program: in the process that compiled it, or in a child that was handed it.

Deserialising machine code trusts it completely. What is loaded here was checked by the module store, in this process
or in the one that this one was forked for, whose descriptors it uses.
"""

import pickle
from typing import TYPE_CHECKING

import wasmtime

from wasm_sandboxer.engine.protocol import Kind
from wasm_sandboxer.engine.store import Held
from wasm_sandboxer.engine.wasmtime.module import CoreProgram
from wasm_sandboxer.engine.wasmtime.runtime import Runtime

if TYPE_CHECKING:
    from wasm_sandboxer.engine.wasmtime.component import ComponentProgram

OWN_MODULES = ("trampoline", "shim")


def load_program(
    runtime: Runtime, digest: str, held: Held, command: str | None = None
) -> "CoreProgram | ComponentProgram":
    """The program of a compiled file, which must stay held as long as the program is used.

    `command` is a component's wasi:cli/run, if that is known.
    """
    if held.facts.kind is Kind.COMPONENT:
        from wasm_sandboxer.engine.wasmtime.component import ComponentProgram  # noqa: PLC0415  # start-up time

        return ComponentProgram(runtime, runtime.load_component(held.path), digest, held, command)
    return CoreProgram(runtime, runtime.load_module(held.path), digest, held)


def unpack_program(runtime: Runtime, about: bytes, code: int) -> "CoreProgram | ComponentProgram":
    """The program that another process has sent; see Carried.

    Safe to unpickle and to map: only the process that started this one can have sent it.
    """
    digest, facts, command = pickle.loads(about)  # noqa: S301
    return load_program(runtime, digest, Held(code, facts), command)


def runtime_of(files: tuple[int, ...]) -> Runtime:
    """A runtime made of descriptors of the compiled code of OWN_MODULES, in their order.

    Safe to map: as in unpack_program.
    """

    def assemble(runtime: Runtime, name: str) -> wasmtime.Module:
        return runtime.load_module(f"/proc/self/fd/{files[OWN_MODULES.index(name)]}")

    return Runtime(assemble)
