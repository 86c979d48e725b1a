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


def load_program(runtime: Runtime, digest: str, held: Held) -> "CoreProgram | ComponentProgram":
    """The program of a compiled file, which must stay held as long as the program is used."""
    if held.facts.kind is Kind.COMPONENT:
        from wasm_sandboxer.engine.wasmtime.component import ComponentProgram  # noqa: PLC0415  # start-up time

        return ComponentProgram(runtime, runtime.load_component(held.path), digest, held)
    return CoreProgram(runtime, runtime.load_module(held.path), digest, held)


def unpack_program(runtime: Runtime, about: bytes, code: int) -> "CoreProgram | ComponentProgram":
    """The program that another process has sent; see Carried.

    Safe to unpickle and to map: only the process that started this one can have sent it.
    """
    digest, facts = pickle.loads(about)  # noqa: S301
    return load_program(runtime, digest, Held(code, facts))


def carried_runtime(own: tuple[int, ...]) -> Runtime:
    """A runtime whose own modules come from descriptors of their compiled code, in the order of OWN_MODULES."""
    code = dict(zip(OWN_MODULES, own, strict=True))

    def assemble(runtime: Runtime, name: str) -> wasmtime.Module:
        return runtime.load_module(f"/proc/self/fd/{code[name]}")

    return Runtime(assemble)
