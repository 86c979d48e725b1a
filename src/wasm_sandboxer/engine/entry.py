"""How a core module is entered: which of its functions, with which arguments; for any engine.

Source: WASI's application ABI: a command exports `_start`, a reactor `_initialize`.
"""

from collections.abc import Mapping

from wasm_sandboxer.engine.interface import Signature
from wasm_sandboxer.engine.values import parse_arguments
from wasm_sandboxer.errors import ModuleError
from wasm_sandboxer.guest import Guest

COMMAND, REACTOR = "_start", "_initialize"
Functions = Mapping[str, Signature]


def entry_of(functions: Functions, guest: Guest) -> tuple[str, list[int | float]]:
    """The function to call and its arguments; raises ModuleError if there is none, or these do not fit."""
    if REACTOR in functions and functions[REACTOR].params:
        raise ModuleError(f"its {REACTOR} takes parameters, so it is no WASI reactor")
    if guest.function is not None and guest.function != COMMAND:
        signature = functions.get(guest.function)
        if signature is None:
            raise ModuleError(f"it exports no function {guest.function!r}{_to_call(functions)}")
        return guest.function, parse_arguments(guest.function, signature, guest.argv[1:])
    name = default_entry(functions)
    if name is None:
        raise ModuleError(f"it has no {COMMAND} to run{_to_call(functions)}")
    if functions[name].params:
        raise ModuleError(f"its {name} takes parameters, so it is no WASI command")
    return name, []


def default_entry(functions: Functions) -> str | None:
    """The function that is called if nobody names one."""
    return next((name for name in (COMMAND, "", REACTOR) if name in functions), None)


def describe_entry(functions: Functions) -> str:
    """What it takes to enter the module, for people."""
    entry = default_entry(functions)
    if entry is None or entry == REACTOR:
        what = "a reactor" if entry else "a library"
        return f"a function to call: it is {what}{_to_call(functions)}"
    return f"nothing more: it is a command ({entry or 'its unnamed export'})"


def _to_call(functions: Functions) -> str:
    names = [name for name in functions if name != REACTOR]
    if not names:
        return "; it exports no function at all"
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"; name one as MODULE#FUNCTION: {shown}"
