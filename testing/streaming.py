"""Owns exec, attach and port-forward as a client sees them: bytes in, bytes out, an exit code in the end.

containerd answers such a call with a URL of its streaming server, which speaks two protocols. Over WebSocket
it takes the subprotocols up to v4, in which a client cannot end its stdin but by leaving; over SPDY, which is
what the API server and kubectl's port-forward use, it can. A session reads in a thread of its own from the
start.
"""

import contextlib
import enum
import json
import threading
import time
from types import TracebackType
from typing import Protocol, Self

from testing.spdy import Spdy
from testing.websocket import Websocket

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
DATA, FAILURE = range(2)
_PORT_BYTES = 2


class Wire(enum.Enum):
    """How to speak to the streaming server."""

    WEBSOCKET = "websocket"
    SPDY = "spdy"


class StreamError(RuntimeError):
    """The other side reported an error that is no exit code."""


class Transport(Protocol):
    """A connection with numbered channels."""

    def send(self, channel: int, data: bytes) -> None:
        """Send all of `data`."""

    def finish(self, channel: int) -> None:
        """Tell that nothing more will be sent on a channel."""

    def receive(self) -> tuple[int, bytes] | None:
        """The next piece of data and its channel; None once the other side has left."""

    def close(self) -> None:
        """Leave."""


class _Streams:
    """What has come in on each channel of a transport, gathered by a thread."""

    def __init__(self, transport: Transport, channels: int, *, skip: int = 0) -> None:
        """`skip` is how many bytes of each channel are none of the caller's."""
        self._transport = transport
        self._changed = threading.Condition()
        self._received = [bytearray() for _ in range(channels)]
        self._skip = [skip] * channels
        self._over = False
        self._thread = threading.Thread(target=self._read, name="cri-stream", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave, whatever still goes on."""
        self._transport.close()
        self._thread.join(10)

    def _read(self) -> None:
        while (received := self._transport.receive()) is not None:
            channel, data = received
            with self._changed:
                if channel < len(self._received):
                    self._received[channel] += data[self._skip[channel] :]
                    self._skip[channel] = max(self._skip[channel] - len(data), 0)
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _wait_over(self, timeout: float) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._over, timeout):
                raise TimeoutError(f"the stream did not end in {timeout} s; it brought {self._received!r}")

    def _wait_for(self, channel: int, text: bytes, timeout: float) -> bytes:
        """Wait for `text`; take everything up to its end. Raises TimeoutError, ConnectionError."""
        deadline = time.monotonic() + timeout
        buffer = self._received[channel]
        with self._changed:
            while (at := buffer.find(text)) < 0:
                if self._over:
                    raise ConnectionError(f"the stream ended after {bytes(buffer)!r}, without {text!r}")
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"no {text!r} in {timeout} s, only {bytes(buffer)!r}")
            end = at + len(text)
            found = bytes(buffer[:end])
            del buffer[:end]
            return found


class Session(_Streams):
    """The streams of an exec or an attach."""

    def __init__(self, url: str, wire: Wire, *, stdin: bool, tty: bool) -> None:
        transport: Transport
        if wire is Wire.WEBSOCKET:
            transport = Websocket(url, "v4.channel.k8s.io")
        else:
            wanted = {ERROR: "error", STDOUT: "stdout"}
            wanted |= {STDIN: "stdin"} if stdin else {}
            wanted |= {RESIZE: "resize"} if tty else {STDERR: "stderr"}
            streams = {channel: {"streamtype": name} for channel, name in wanted.items()}
            transport = Spdy(url, "v4.channel.k8s.io", streams)
        super().__init__(transport, 5)

    @property
    def stdout(self) -> bytes:
        """What has come and has not been taken by `read_until`; with a terminal, stderr too."""
        return bytes(self._received[STDOUT])

    @property
    def stderr(self) -> bytes:
        """What has come on stderr."""
        return bytes(self._received[STDERR])

    def send(self, data: bytes) -> None:
        """Write to stdin."""
        self._transport.send(STDIN, data)

    def end_stdin(self) -> None:
        """Close stdin, which only SPDY can do; raises ValueError otherwise."""
        self._transport.finish(STDIN)

    def resize(self, columns: int, rows: int) -> None:
        """Tell a new size of the terminal."""
        self._transport.send(RESIZE, json.dumps({"Width": columns, "Height": rows}).encode() + b"\n")

    def read_until(self, text: bytes, timeout: float = 30) -> bytes:
        """Take stdout up to the end of `text`, waiting for it."""
        return self._wait_for(STDOUT, text, timeout)

    def ask(self, line: bytes, answer: bytes, timeout: float = 30) -> int:
        """Send a line until `answer` comes on stdout, and take stdout up to its end; how often it was sent.

        containerd starts to copy an attached client's stdin before it adds the client to those that get the
        output. What a guest answers in between goes to the container's log alone, so one line may not be enough.
        """
        for sent in range(1, int(timeout) + 1):
            self.send(line)
            with contextlib.suppress(TimeoutError):
                self.read_until(answer, timeout=1)
                return sent
        raise TimeoutError(f"no {answer!r} in {timeout} s, only {self.stdout!r}")

    def wait(self, timeout: float = 30) -> int:
        """Wait for the end and give the exit code: that of an exec's program; an attach ends with 0.

        Raises StreamError for any other failure, and for an end without a word, and TimeoutError.
        """
        self._wait_over(timeout)
        said = bytes(self._received[ERROR])
        if not said:
            raise StreamError("the stream ended without a status")
        status = json.loads(said)
        if status.get("status") == "Success":
            return 0
        for cause in (status.get("details") or {}).get("causes") or ():
            if cause.get("reason") == "ExitCode":
                return int(cause["message"])
        raise StreamError(status.get("message"))


class Forward(_Streams):
    """A connection to a port on a pod's localhost."""

    def __init__(self, url: str, port: int, wire: Wire) -> None:
        transport: Transport
        if wire is Wire.WEBSOCKET:
            # The ports were named in the call; each of its channels starts with the port again.
            transport = Websocket(url, "v4.channel.k8s.io")
        else:
            common = {"port": str(port), "requestid": "0"}
            streams = {FAILURE: {"streamtype": "error", **common}, DATA: {"streamtype": "data", **common}}
            transport = Spdy(url, "portforward.k8s.io", streams)
        super().__init__(transport, 2, skip=_PORT_BYTES if wire is Wire.WEBSOCKET else 0)

    @property
    def error(self) -> str:
        """Why forwarding failed, as far as it is known; empty while all is well."""
        return bytes(self._received[FAILURE]).decode(errors="replace")

    @property
    def received(self) -> bytes:
        """What has come and has not been taken by `read_until`."""
        return bytes(self._received[DATA])

    def send(self, data: bytes) -> None:
        """Send to the port."""
        self._transport.send(DATA, data)

    def end(self) -> None:
        """Stop sending, which only SPDY can do; raises ValueError otherwise.

        containerd does not pass the end on: a second later it closes both directions.
        """
        self._transport.finish(DATA)

    def read_until(self, text: bytes, timeout: float = 30) -> bytes:
        """Take what came up to the end of `text`, waiting for it."""
        return self._wait_for(DATA, text, timeout)

    def wait(self, timeout: float = 30) -> bytes:
        """Wait for the end and give what is left to read; raises StreamError if forwarding failed."""
        self._wait_over(timeout)
        if self.error:
            raise StreamError(self.error)
        return self.received
