"""A process's standard streams as containerd names them: FIFOs, a terminal, log URIs, nothing.

Opening happens in a worker thread and never waits for another side. The guest reads and writes the descriptors
itself; the loop only moves a terminal's bytes. Outputs come to their end when the guest has ended, and are closed
when the process is deleted (bundle/output.py).
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from wasm_sandboxer.bundle import output
from wasm_sandboxer.bundle.logger import LogProcess
from wasm_sandboxer.bundle.output import Output, OutputFifo
from wasm_sandboxer.bundle.terminal import Terminal
from wasm_sandboxer.errors import FailedPrecondition, InvalidArgument
from wasm_sandboxer.guest import Stdio
from wasm_sandboxer.linux.pipe import write_at_once

_PROGRAM = "binary://"


@dataclass(frozen=True, kw_only=True)
class StreamNames:
    """What containerd gave for a process's streams, to be given back exactly so."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


class Streams:
    """The opened streams of one process. Made in a worker thread; the rest is for the loop's."""

    def __init__(self, names: StreamNames, container: str, namespace: str, *, hold_stdin: bool = False) -> None:
        """Open everything; raises InvalidArgument that names the stream. Nothing stays open then.

        With `hold_stdin` the input does not end with its writers, who come and go as CRI's clients attach, but
        only by close_stdin(). Others, as ctr, may end it by leaving.
        """
        self.names = names
        self._hold_stdin = hold_stdin
        self._container = container
        self._namespace = namespace
        self._outputs: list[Output] = []
        self._written: list[Output] = []  # those that a reader of containerd's is behind
        self._inputs = ExitStack()  # and a terminal's master side
        self._stdin_keeper = -1
        self._terminal: Terminal | None = None
        self._logger: LogProcess | None = None
        with ExitStack() as undo:
            undo.callback(self.close)
            self.stdio = self._open_terminal() if names.terminal else self._open_pipes()
            undo.pop_all()

    def begin(self) -> None:
        """Start moving a terminal's bytes; on the loop, before the guest starts."""
        if self._terminal is not None:
            self._terminal.begin()

    def on_interrupt(self, callback: Callable[[int], None]) -> None:
        """Have Ctrl-C and its like on the terminal call back with their signal."""
        if self._terminal is not None:
            self._terminal.on_signal = callback

    def resize(self, columns: int, rows: int) -> None:
        """Tell the terminal its size; raises FailedPrecondition without one."""
        if self._terminal is None:
            raise FailedPrecondition("there is no terminal to resize")
        self._terminal.resize(columns, rows)

    def close_stdin(self) -> None:
        """Let the guest come to the end of its input once nobody else holds it open."""
        if self._stdin_keeper >= 0:
            os.close(self._stdin_keeper)
            self._stdin_keeper = -1
        if self._terminal is not None:
            self._terminal.end_input()

    def explain(self, text: bytes) -> None:
        """Say on stderr why a process that did not begin has ended, as far as that takes it at once."""
        if self.stdio.stderr is not None:
            write_at_once(self.stdio.stderr, text)

    def guest_ended(self) -> None:
        """Let the readers of what the guest wrote come to the end; on the loop."""
        for each in self._outputs:
            each.end()
        self.close_stdin()
        if self._terminal is not None:
            self._terminal.guest_ended()

    async def drained(self) -> None:
        """Until the readers have taken what the guest wrote, or do not take it; after guest_ended()."""
        await output.drained(self.unread)

    def unread(self) -> int:
        """How much drained() waits for; as far as anybody can know."""
        # A reader may empty the pipe before the loop puts the rest into it.
        held = self._terminal is not None and self._terminal.moving
        return held + sum(each.unread() for each in self._written)

    def close(self) -> None:
        """Close everything; idempotent."""
        if self._stdin_keeper >= 0:
            os.close(self._stdin_keeper)
            self._stdin_keeper = -1
        if self._terminal is not None:
            self._terminal.close()
        for each in self._outputs:
            each.close()
        self._inputs.close()
        if self._logger is not None:
            self._logger.stop()

    def _open_pipes(self) -> Stdio:
        names = self.names
        stdin = self._open_input(names.stdin) if names.stdin else None
        if names.stdout.startswith(_PROGRAM):
            out, error = self._open_logger(names.stdout)
            self._outputs += (Output(out), Output(error))
            return Stdio(stdin=stdin, stdout=out, stderr=error)
        stdout, stderr = (
            self._own(_open_output(which, name)) if name else None
            for which, name in (("stdout", names.stdout), ("stderr", names.stderr))
        )
        return Stdio(stdin=stdin, stdout=stdout, stderr=stderr)

    def _own(self, opened: Output) -> int:
        self._outputs.append(opened)
        self._written.append(opened)
        return opened.fd

    def _open_terminal(self) -> Stdio:
        master, slave = os.openpty()
        self._inputs.callback(os.close, master)
        self._outputs.append(Output(slave))  # the guest's side; the sink comes to its end after it
        os.set_blocking(master, False)
        stdin = self._open_input(self.names.stdin) if self.names.stdin else None
        sink = self._open_sink(self.names.stdout)
        if sink is not None:
            self._written.append(sink)
            os.set_blocking(sink.fd, False)
            self._inputs.callback(sink.close)
        self._terminal = Terminal(master, stdin, sink)
        return Stdio(stdin=slave, stdout=slave, stderr=slave, terminals=frozenset({0, 1, 2}))

    def _open_sink(self, name: str) -> Output | None:
        """Where a terminal's output goes, beyond the guest's end, since the terminal may hold some still."""
        if not name:
            return None
        if name.startswith(_PROGRAM):
            sink, error = self._open_logger(name)
            self._outputs.append(Output(error))
            return Output(sink)
        return _open_output("stdout", name)

    def _open_input(self, name: str) -> int:
        path = _local(name, "stdin")
        reader = _open(path, os.O_RDONLY | os.O_NONBLOCK, "stdin")
        self._inputs.callback(os.close, reader)
        if self._hold_stdin and stat.S_ISFIFO(os.fstat(reader).st_mode):
            self._stdin_keeper = _open(path, os.O_WRONLY | os.O_NONBLOCK, "stdin")
        return reader

    def _open_logger(self, uri: str) -> tuple[int, int]:
        parts = urlsplit(uri)
        arguments = [word for pair in parse_qsl(parts.query, keep_blank_values=True) for word in pair if word]
        program = unquote(parts.path) if not parts.netloc else f"{parts.netloc}{parts.path}"
        self._logger = LogProcess(program, arguments, self._container, self._namespace)
        return self._logger.outputs


def _open_output(which: str, name: str) -> Output:
    path = _local(name, which)
    if not name.startswith("file://"):
        with _named(path, which):
            return OutputFifo(path)
    with suppress(OSError):  # opening it says what is wrong
        Path(path).parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    return Output(_open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, which))


def _local(name: str, which: str) -> str:
    if name.startswith("/"):  # as containerd has it for FIFOs, whatever letters are in it
        return name
    parts = urlsplit(name)
    if parts.scheme in ("fifo", "file") and parts.path.startswith("/"):
        return unquote(parts.path)
    raise InvalidArgument(f"{which}: {name!r} is neither a path nor file:// nor binary://")


def _open(path: str, flags: int, which: str) -> int:
    with _named(path, which):
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY, 0o640)


@contextmanager
def _named(path: str, which: str) -> Iterator[None]:
    """Have a failure to open it say what it was for."""
    try:
        yield
    except OSError as error:
        raise InvalidArgument(f"{which}: cannot open {path}: {error.strerror}") from None
