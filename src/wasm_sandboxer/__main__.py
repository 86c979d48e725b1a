"""The entry point of `wasm-sandboxer` and `python -m wasm_sandboxer`: signals first, the command line after them.

Importing the command line takes most of the time until a verb begins, and who presses Ctrl-C meanwhile wants no
traceback; so this imports next to nothing itself. PID 1 of a container has no default action for a signal: one that
it does not handle is lost.
"""

import os
import signal


def main() -> None:
    """Run the command line; one of its signals ends the process even while that is being imported."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _leave)
    from wasm_sandboxer import cli  # noqa: PLC0415  # see above

    cli.main()


def _leave(number: int, _frame: object) -> None:
    os._exit(128 + number)  # nothing has been begun that were to be undone


if __name__ == "__main__":
    main()
