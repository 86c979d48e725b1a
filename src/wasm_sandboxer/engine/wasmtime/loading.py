"""From compiled code to a Program: in the process that compiled it, or in a child that was handed it.

Deserialising machine code trusts it completely. What is loaded here was checked by the module store, in this process
or in the one that this one was forked for, whose descriptors it uses.
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import wasmtime

from wasm_sandboxer.engine.protocol import Carried, Kind
from wasm_sandboxer.engine.store import Held
from wasm_sandboxer.engine.wasmtime.module import CoreProgram
from wasm_sandboxer.engine.wasmtime.runtime import Runtime

if TYPE_CHECKING:
    from wasm_sandboxer.engine.wasmtime.component import ComponentProgram

OWN_MODULES = ("trampoline", "shim")
# Guests that call nothing: to run them makes no thread, and leaves little to be done for the first time.
EXERCISES = {
    "exercise": b"""(module
      (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
      (memory (export "memory") 1)
      (func (export "_start")))""",
    "exercise-component": b"""(component
      (core module $program (memory (export "memory") 1) (func (export "run") (result i32) (i32.const 0)))
      (core instance $program (instantiate $program))
      (func $run (result (result)) (canon lift (core func $program "run")))
      (instance $run (export "run" (func $run)))
      (export "wasi:cli/run@0.2.0" (instance $run)))""",
}


@dataclass(frozen=True, kw_only=True)
class Luggage:
    """Compiled code of OWN_MODULES and EXERCISES, held, and what is known of the latter."""

    about: bytes
    files: tuple[Held, ...]

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those of the files."""
        return tuple(held.fd for held in self.files)


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


def pack_exercises(held: list[Held]) -> bytes:
    """What is known of them, for `unpack_luggage`."""
    return pickle.dumps([pickle.dumps((name, each.facts, None)) for name, each in zip(EXERCISES, held, strict=True)])


def unpack_luggage(about: bytes, files: tuple[int, ...]) -> tuple[Runtime, list[Carried]]:
    """A runtime made of luggage, and the exercises as programs that were sent.

    Safe to unpickle and to map: as in unpack_program.
    """
    exercises = [
        Carried(about=known, code=code)
        for known, code in zip(pickle.loads(about), files[len(OWN_MODULES) :], strict=True)  # noqa: S301
    ]
    return _runtime(dict(zip(OWN_MODULES, files, strict=False))), exercises


def _runtime(code: Mapping[str, int]) -> Runtime:
    """A runtime whose own modules come from descriptors of their compiled code."""

    def assemble(runtime: Runtime, name: str) -> wasmtime.Module:
        return runtime.load_module(f"/proc/self/fd/{code[name]}")

    return Runtime(assemble)
