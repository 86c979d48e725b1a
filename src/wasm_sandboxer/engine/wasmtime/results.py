"""What a function gives back, on its way to the guest's stdout."""

import contextlib
import os

from wasm_sandboxer.guest import Exit, Reason
from wasm_sandboxer.linux import syscall


def write(out: int | None, lines: str) -> Exit:
    """The end of a run that has these results: with 1 if they cannot be written, as that of any program.

    That nobody reads them is no failure. Waits as write(2) does; a stop's signal ends it.
    """
    if not lines or out is None:
        return Exit(code=0, reason=Reason.EXITED)
    try:
        with contextlib.suppress(BrokenPipeError, InterruptedError):
            syscall.write_interruptible(out, lines.encode())
    except OSError as error:
        why = os.strerror(error.errno or 0)
        return Exit(code=1, reason=Reason.EXITED, message=f"its result cannot be written: {why}")
    return Exit(code=0, reason=Reason.EXITED)
