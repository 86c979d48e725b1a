"""Core values as text: arguments parsed to a function's parameter types, results printed."""

import struct
from contextlib import suppress
from typing import Any

from wasm_sandboxer.engine import numbers
from wasm_sandboxer.engine.interface import Signature
from wasm_sandboxer.errors import ModuleError

_BITS = {"i32": 32, "i64": 64}
_FLOAT = {"f32": 32, "f64": 64}


def parse_arguments(function: str, signature: Signature, arguments: tuple[str, ...]) -> list[int | float]:
    """The arguments as the function's parameters; raises ModuleError that names the one that does not fit."""
    params = signature.params
    if len(arguments) != len(params):
        takes = f"{len(params)} argument{'' if len(params) == 1 else 's'}"
        raise ModuleError(f"{function}{signature} takes {takes}, {len(arguments)} given")
    return [
        _parse(f"argument {index} of {function}", param, text)
        for index, (param, text) in enumerate(zip(params, arguments, strict=True), 1)
    ]


def _parse(what: str, param: str, text: str) -> int | float:
    if param in _BITS:
        return _parse_integer(what, _BITS[param], text)
    if param in _FLOAT:
        try:
            return numbers.floating(text, _FLOAT[param])
        except ValueError:
            raise ModuleError(f"{what} must be {param}, not {text[:40]!r}") from None
    raise ModuleError(f"{what} is of type {param}, which cannot be given as text")


def _parse_integer(what: str, bits: int, text: str) -> int:
    try:
        value = numbers.integer(text)
    except ValueError:
        raise ModuleError(f"{what} must be i{bits}, not {text[:40]!r}") from None
    if not -(1 << (bits - 1)) <= value < 1 << bits:
        raise ModuleError(f"{what} must be i{bits}, and {text[:40]} does not fit into {bits} bits")
    return value - (1 << bits) if value >= 1 << (bits - 1) else value


def format_result(param: str, value: Any) -> str:
    """A result for people: integers signed, floats in the fewest digits that give them back."""
    if param != "f32":
        return str(value)
    for digits in range(1, 9):
        short = f"{value:.{digits}g}"
        with suppress(OverflowError):  # rounded up, it is more than the largest
            if struct.pack("<f", float(short)) == struct.pack("<f", value):
                return str(float(short))
    return str(float(f"{value:.9g}"))
