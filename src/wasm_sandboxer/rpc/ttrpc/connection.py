"""One client's ttrpc connection: requests in, answers out.

Whatever a client sends, the worst it gets is an error on the stream concerned: the header says where the next
frame begins, so no frame is bad enough to lose the connection.
"""

import logging

from google.protobuf.message import DecodeError, Message

from wasm_sandboxer.api.ttrpc_pb2 import Request
from wasm_sandboxer.rpc.transport.connection import Connection, Owner
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode
from wasm_sandboxer.rpc.ttrpc.answers import failure, success
from wasm_sandboxer.rpc.ttrpc.frames import MAX_DATA, REQUEST, STREAMING, Frame, FrameReader

__all__ = ["TtrpcConnection"]

_log = logging.getLogger(__name__)


class TtrpcConnection(Connection):
    """See Connection."""

    __slots__ = ("_frames", "_last", "_refused")

    wire = "ttrpc"

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self._frames = FrameReader()
        self._last = 0  # the highest stream id seen
        self._refused = False  # a bad frame has come

    def succeed(self, stream: int, response: Message) -> None:
        """See Connection."""
        self._send(success(stream, response))

    def fail(self, stream: int, error: RpcError) -> None:
        """See Connection."""
        self._send(failure(stream, error))

    def _feed(self, data: bytes) -> None:
        self._frames.feed(data)

    def _step(self) -> bool:
        frame = self._frames.next()
        if frame is None:
            return False
        self._take(frame)
        return True

    def _take(self, frame: Frame) -> None:
        stream, kind, flags, data = frame
        if kind != REQUEST:
            self._refuse(stream, f"a frame of kind {kind} is not a request")
        elif not stream & 1:
            self._refuse(stream, "a client's stream id must be odd")
        elif stream <= self._last:
            self._refuse(stream, f"stream ids must grow, and {self._last} has been seen")
        else:
            self._last = stream
            self._open(stream, flags, data)

    def _open(self, stream: int, flags: int, data: bytes | bytearray | None) -> None:
        if data is None:
            text = f"a request must not be longer than {MAX_DATA} bytes"
            self.fail(stream, RpcError(StatusCode.RESOURCE_EXHAUSTED, text))
            return
        try:
            request = Request.FromString(bytes(data))
        except DecodeError:
            self._refuse(stream, "the data is not a ttrpc request")
            return
        metadata: dict[str, str] = {}
        for entry in request.metadata:
            metadata.setdefault(entry.key.lower(), entry.value)
        self.calls.open(
            stream,
            request.service,
            request.method,
            request.payload,
            metadata,
            timeout=request.timeout_nano / 1e9 if request.timeout_nano else None,
            streaming=bool(flags & STREAMING),
        )

    def _refuse(self, stream: int, why: str) -> None:
        """Answer a frame that makes no sense, unless that would end a good call on the same stream."""
        # Loud once for each connection: what sends one bad frame may send a million.
        _log.log(logging.DEBUG if self._refused else logging.WARNING, "ttrpc: stream %d: %s", stream, why)
        self._refused = True
        if not self.calls.is_running(stream):
            self.fail(stream, RpcError(StatusCode.INVALID_ARGUMENT, why))
