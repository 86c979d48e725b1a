"""The log of the commands: one line each on stderr, as everything else that they say there."""

import logging
import os

from wasm_sandboxer.cli import PROGRAM, one_line


class _OneLine(logging.Formatter):
    """An exception is its class and message; its traceback is for WASM_SANDBOXER_DEBUG."""

    def format(self, record: logging.LogRecord) -> str:
        if os.environ.get("WASM_SANDBOXER_DEBUG"):
            return super().format(record)
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            message += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        return f"{PROGRAM}: {one_line(message)}"


def log_to_stderr() -> None:
    """Send warnings and errors of all modules to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
