"""How the daemon logs: lines for people or for programs, on stderr, which systemd keeps."""

import json
import logging
import os
import sys
from datetime import UTC, datetime

from wasm_sandboxer.config import LogFormat, LogLevel


def configure(level: LogLevel, form: LogFormat) -> None:
    """Set up logging for this process."""
    # Nothing of this is shown, and finding it out takes as long as the rest of a line: logging howto, "Optimization".
    logging._srcfile = None  # noqa: SLF001  # which stands there
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form is LogFormat.JSON else _Text(timed=not _is_journals(2)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)


def set_level(level: LogLevel) -> None:
    """Change how much is logged from now on."""
    logging.getLogger().setLevel(level.upper())
    for noisy in ("asyncio", "_cygrpc", "grpc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _is_journals(fd: int) -> bool:
    """Whether it leads to the journal, which notes the time itself; systemd.exec(5), $JOURNAL_STREAM."""
    try:
        found = os.fstat(fd)
    except OSError:  # it is closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _Text(logging.Formatter):
    def __init__(self, *, timed: bool) -> None:
        super().__init__()
        self._timed = timed

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        about = "".join(f" {name}={value}" for name, value in fields.items() if name not in ("rpc", "outcome"))
        line = _one_line(f"{self._time(record)}{record.levelname.lower():7} {record.getMessage()}{about}")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line

    def _time(self, record: logging.LogRecord) -> str:
        if not self._timed:
            return ""
        return f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03}Z "


def _one_line(text: str) -> str:
    """The text with what would end its line or command a terminal written out: images choose some of the words."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
