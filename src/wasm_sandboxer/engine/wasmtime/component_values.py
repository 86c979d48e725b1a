"""Component types and values as text: signatures, arguments parsed, results printed."""

import json
from collections.abc import Iterator
from typing import Any

import wasmtime
from wasmtime import component as api

from wasm_sandboxer.engine import numbers
from wasm_sandboxer.errors import ModuleError

_INTEGERS = {
    f"{'SU'[unsigned]}{bits}": (0 if unsigned else -(1 << (bits - 1)), (1 << (bits - 1 + unsigned)) - 1)
    for bits in (8, 16, 32, 64)
    for unsigned in (0, 1)
}
_BOOLEANS = {"true": True, "false": False}


def members(item: Any, engine: wasmtime.Engine) -> Iterator[tuple[str, Any]]:
    """An item's members with their types; the item itself under an empty name if it is no instance."""
    if not isinstance(item, api.ComponentInstanceType):
        yield "", item
        return
    for name, inner in item.exports(engine).items():
        if isinstance(inner, api.FuncType):
            yield name, inner


def type_text(ty: Any) -> str:
    """A value type for people: "u32", "string", "list<u8>"."""
    name = type(ty).__name__.removesuffix("Type").lower()
    if isinstance(ty, api.ListType):
        return f"list<{type_text(ty.element)}>"
    if isinstance(ty, api.OptionType):
        return f"option<{type_text(ty.payload)}>"
    if isinstance(ty, api.ResultType):
        return _result_text(ty)
    if isinstance(ty, api.TupleType):
        return f"tuple<{', '.join(type_text(element) for element in ty.elements)}>"
    return name


def _result_text(ty: api.ResultType) -> str:
    """As WIT writes it: "result", "result<u32>", "result<_, string>", "result<u32, string>"."""
    if ty.err is not None:
        return f"result<{'_' if ty.ok is None else type_text(ty.ok)}, {type_text(ty.err)}>"
    return "result" if ty.ok is None else f"result<{type_text(ty.ok)}>"


def item_text(ty: Any) -> str:
    """An import's or export's type for people."""
    if not isinstance(ty, api.FuncType):
        return type(ty).__name__.removesuffix("Type").removeprefix("Component").lower()
    params = ", ".join(f"{name}: {type_text(param)}" for name, param in ty.params)
    return f"func ({params})" + (f" -> {type_text(ty.result)}" if ty.result is not None else "")


def parse_arguments(function: str, ty: api.FuncType, arguments: tuple[str, ...]) -> list[Any]:
    """The arguments as the function's parameters; raises ModuleError that names the one that does not fit."""
    params = ty.params
    if len(arguments) != len(params):
        takes = f"{len(params)} argument{'' if len(params) == 1 else 's'}"
        raise ModuleError(f"{function}: {item_text(ty)} takes {takes}, {len(arguments)} given")
    return [
        _parse(f"argument {name} of {function}", param, text)
        for (name, param), text in zip(params, arguments, strict=True)
    ]


def _parse(what: str, ty: Any, text: str) -> Any:
    kind = type(ty).__name__
    if kind in _INTEGERS:
        return _parse_integer(what, kind, text)
    if kind in ("F32", "F64"):
        try:
            return numbers.floating(text, int(kind[1:]))
        except ValueError:
            raise ModuleError(f"{what} must be {kind.lower()}, not {text[:40]!r}") from None
    if kind == "Bool" and text in _BOOLEANS:
        return _BOOLEANS[text]
    if kind == "String" or (kind == "Char" and len(text) == 1):
        return text
    if kind in ("Bool", "Char"):
        raise ModuleError(f"{what} must be {'true or false' if kind == 'Bool' else 'one character'}, not {text!r}")
    raise ModuleError(f"{what} is of type {type_text(ty)}, which cannot be given as text")


def _parse_integer(what: str, kind: str, text: str) -> int:
    low, high = _INTEGERS[kind]
    try:
        value = numbers.integer(text)
    except ValueError:
        raise ModuleError(f"{what} must be {kind.lower()}, not {text[:40]!r}") from None
    if not low <= value <= high:
        raise ModuleError(f"{what} must be {kind.lower()}, from {low} to {high}, not {text[:40]}")
    return value


def format_result(value: Any) -> str:
    """A result for people: a string as it is, the rest as JSON where that can say it."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, default=lambda other: getattr(other, "__dict__", None) or repr(other))
    except (TypeError, ValueError):
        return repr(value)
