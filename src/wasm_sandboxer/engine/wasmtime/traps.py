"""How a guest ended, from what the engine reports."""

import re

from wasm_sandboxer.engine.wasmtime.binding import EngineError
from wasm_sandboxer.engine.wasmtime.control import CellControl
from wasm_sandboxer.guest import OOM_EXIT_CODE, TRAP_EXIT_CODE, Exit, Reason
from wasm_sandboxer.units import format_size

_CAUSE = "\nCaused by:\n"
# Of a line each, since what stands there are a guest's own names: no expression may try one text many times.
_FRAME = re.compile(r"^[ \t]*(\d+):[ \t]+(?:0x([0-9a-f]+) - )?(\S.*)$", re.MULTILINE)
_OF_NO_MEMORY = ("`unreachable`", "out of bounds memory access", "GC heap out of memory")
_NUMBERED = re.compile(r"^[ \t]*\d+:[ \t]")


def exit_of(error: EngineError, control: CellControl) -> Exit:
    """The guest's end: its own exit, the stop it was told, or a trap with its message and backtrace."""
    if error.exit_status is not None:
        return Exit(code=error.exit_status, reason=Reason.EXITED)
    if control.stopped:
        return Exit(code=OOM_EXIT_CODE, reason=Reason.STOPPED)
    pool = control.memories.pool
    return trapped(str(error), denied=pool.denied, used=pool.used)


def trapped(report: str, *, denied: bool, used: int) -> Exit:
    """The end of a guest that trapped with this report of the engine's; `used` are its bytes of memory.

    A guest whose latest memory.grow was denied and that then gives up has died of that. Languages do so by
    `unreachable` (Rust, C++, Zig, TinyGo), by what they read from nowhere, or by the collector's own failure.
    """
    message = trap_message(report)
    if denied and any(sign in message for sign in _OF_NO_MEMORY):
        why = f"out of memory: more than {format_size(used)} was refused"
        return Exit(code=OOM_EXIT_CODE, reason=Reason.OUT_OF_MEMORY, message=f"{why}; {message}")
    return Exit(code=TRAP_EXIT_CODE, reason=Reason.TRAPPED, message=message)


def trap_message(report: str) -> str:
    """The engine's report as one line of what happened and, below it, the Wasm backtrace."""
    trace, found, cause = report.rpartition(_CAUSE)
    if not found:
        trace, cause = report, report.split("\n", 1)[0]
    what = "; ".join(_NUMBERED.sub("", line).strip() for line in cause.splitlines() if line.strip())
    what = what.replace("wasm trap: ", "").replace("wasm `unreachable`", "`unreachable`")
    frames = [
        f"    {number}: {place}" + (f" at 0x{int(offset, 16):x}" if offset else "")
        for number, offset, place in _FRAME.findall(trace)
    ]
    return "\n".join([f"trap: {what}", *(["wasm backtrace:", *frames] if frames else [])])
