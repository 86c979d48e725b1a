"""One client's gRPC connection: HTTP/2's streams and windows, a unary call on each stream.

A client that breaks HTTP/2's rules loses its connection, after GOAWAY with the reason; one that only breaks
gRPC's gets an error on the stream concerned.
"""

import logging
import struct

from google.protobuf.message import Message

from wasm_sandboxer.rpc.grpc import frames, hpack, messages
from wasm_sandboxer.rpc.grpc.frames import Code, Frame, FrameReader, Http2Error, encode
from wasm_sandboxer.rpc.transport.connection import Connection, Owner
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode

__all__ = ["GrpcConnection"]

_log = logging.getLogger(__name__)

# Settings (RFC 9113, section 6.5.2).
_HEADER_TABLE_SIZE, _MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE = 1, 3, 4
_SETTING = struct.Struct(">HI")
_DEFAULT_WINDOW = (64 << 10) - 1
_LARGEST_WINDOW = (1 << 31) - 1
# What we let clients send: a stream one whole message, a connection two, and more once they were dealt with.
_STREAM_WINDOW = messages.MAX_MESSAGE + (64 << 10)
_WINDOW = 2 * _STREAM_WINDOW
_LONGEST_BLOCK = 64 << 10  # bytes of header fields, packed


class _Stream:
    """A stream from its request's first frame to its answer's last."""

    __slots__ = ("body", "opening", "received", "unsent", "window")

    def __init__(self, opening: messages.Opening, window: int) -> None:
        self.opening = opening
        self.window = window  # bytes that the client lets us send
        self.body: bytearray | None = bytearray()  # None once the request is whole, or of no interest any more
        self.received = 0  # bytes of the client's window that it holds
        self.unsent = memoryview(b"")  # of the response, for want of a window


class GrpcConnection(Connection):
    """See Connection."""

    __slots__ = (
        "_block", "_block_ends", "_block_stream", "_blocked", "_decoder", "_first_window", "_frames", "_inbox",
        "_last", "_owed", "_prefix", "_streams", "_window",
    )  # fmt: skip

    wire = "grpc"

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self._frames = FrameReader()
        self._decoder = hpack.Decoder()
        self._streams: dict[int, _Stream] = {}
        self._blocked: dict[int, _Stream] = {}  # those of them with something unsent
        self._last = 0  # the highest stream id seen
        self._block: bytearray | None = None  # a header block that is not whole yet, and on which stream
        self._block_stream = 0
        self._block_ends = False  # its stream too
        self._prefix = b""  # of the next header block
        self._window = _DEFAULT_WINDOW  # bytes that the client lets us send
        self._first_window = _DEFAULT_WINDOW  # and on a new stream
        self._inbox = _WINDOW  # bytes that we let the client send
        self._owed = 0  # bytes dealt with that it may send anew, which it has not been told

    def _greet(self) -> None:
        settings = _SETTING.pack(_MAX_CONCURRENT_STREAMS, self._owner.limits.calls)
        settings += _SETTING.pack(_INITIAL_WINDOW_SIZE, _STREAM_WINDOW)
        more = (_WINDOW - _DEFAULT_WINDOW).to_bytes(4, "big")
        self._send(encode(frames.SETTINGS, 0, 0, settings) + encode(frames.WINDOW_UPDATE, 0, 0, more))

    def say_goodbye(self) -> None:
        """See Connection."""
        self._send(_goaway(self._last, Code.NO_ERROR, "the server is stopping"))

    # Answers.

    def succeed(self, stream: int, response: Message) -> None:
        """See Connection."""
        body = messages.pack(response.SerializeToString())
        state = self._streams.get(stream)
        if state is None:
            return  # the client has reset it
        head = self._headers(stream, messages.OK_HEAD)
        if len(body) <= min(state.window, self._window, frames.MAX_PAYLOAD):
            self._window -= len(body)
            del self._streams[stream]
            self._send(head + encode(frames.DATA, 0, stream, body) + self._tail(stream))
            return
        state.unsent = memoryview(body)
        self._blocked[stream] = state
        self._send(head)
        self._send_on(stream, state)

    def fail(self, stream: int, error: RpcError) -> None:
        """See Connection."""
        if stream in self._streams:
            self._send(self._headers(stream, messages.error_block(error), frames.END_STREAM))
            self._forget(stream)

    def _headers(self, stream: int, block: bytes, flags: int = 0) -> bytes:
        prefix, self._prefix = self._prefix, b""
        return encode(frames.HEADERS, frames.END_HEADERS | flags, stream, prefix + block)

    def _tail(self, stream: int) -> bytes:
        return self._headers(stream, messages.OK_TAIL, frames.END_STREAM)

    def _send_on(self, stream: int, state: _Stream) -> None:
        """Send as much of a response as the windows allow."""
        while state.unsent:
            size = min(len(state.unsent), state.window, self._window, frames.MAX_PAYLOAD)
            if size <= 0:
                self._bound_unsent()
                return
            state.window -= size
            self._window -= size
            self._send(encode(frames.DATA, 0, stream, bytes(state.unsent[:size])))
            state.unsent = state.unsent[size:]
        self._send(self._tail(stream))
        self._forget(stream)

    def _bound_unsent(self) -> None:
        if sum(len(state.unsent) for state in self._blocked.values()) > self._owner.limits.unread:
            self._drop("leaves too many answers unread")

    def _forget(self, stream: int) -> None:
        """A stream was answered: whatever else comes on it is of no interest."""
        state = self._streams.pop(stream)
        self._blocked.pop(stream, None)
        if state.body is not None:
            self._give_back(state.received)
            self._send(_reset(stream, Code.NO_ERROR))

    # What arrives.

    def _feed(self, data: bytes) -> None:
        self._frames.feed(data)

    def _step(self) -> bool:
        try:
            frame = self._frames.next()
            if frame is None:
                return False
            self._take(frame)
        except Http2Error as error:
            _log.warning("grpc: dropped a client: %s", error.message)
            self._send(_goaway(self._last, error.code, error.message))
            self._flush()
            self.close()
            return False
        return True

    def _take(self, frame: Frame) -> None:
        if self._block is not None and (frame.kind, frame.stream) != (frames.CONTINUATION, self._block_stream):
            raise Http2Error(Code.PROTOCOL_ERROR, "a header block is not whole")
        match frame.kind:
            case frames.HEADERS:
                self._take_headers(frame)
            case frames.CONTINUATION:
                self._take_continuation(frame)
            case frames.DATA:
                self._take_data(frame)
            case frames.WINDOW_UPDATE:
                self._take_window(frame)
            case frames.PING:
                self._take_ping(frame)
            case frames.SETTINGS:
                self._take_settings(frame)
            case frames.RST_STREAM:
                self._take_reset(frame)
            case frames.PUSH_PROMISE:
                raise Http2Error(Code.PROTOCOL_ERROR, "a client cannot push")
            # GOAWAY: it will close once it has its answers. PRIORITY and kinds to come: nothing.

    def _take_headers(self, frame: Frame) -> None:
        if not frame.stream & 1:
            raise Http2Error(Code.PROTOCOL_ERROR, f"a client's stream cannot be {frame.stream}")
        self._block = bytearray(frame.content())
        self._block_stream = frame.stream
        self._block_ends = bool(frame.flags & frames.END_STREAM)
        if frame.flags & frames.END_HEADERS:
            self._end_block(self._block)

    def _take_continuation(self, frame: Frame) -> None:
        if self._block is None:
            raise Http2Error(Code.PROTOCOL_ERROR, "there is no header block to continue")
        self._block += frame.payload
        if len(self._block) > _LONGEST_BLOCK:
            raise Http2Error(Code.ENHANCE_YOUR_CALM, f"more than {_LONGEST_BLOCK} bytes of header fields")
        if frame.flags & frames.END_HEADERS:
            self._end_block(self._block)

    def _end_block(self, block: bytearray) -> None:
        self._block = None
        try:
            fields = self._decoder.decode(bytes(block))
        except hpack.HpackError as error:
            raise Http2Error(Code.COMPRESSION_ERROR, str(error)) from None
        stream = self._block_stream
        if stream > self._last:
            self._last = stream
            self._open(stream, fields)
        state = self._streams.get(stream)
        if state is not None and self._block_ends:
            self._begin(stream, state)

    def _open(self, stream: int, fields: list[tuple[str, str]]) -> None:
        if len(self._streams) >= self._owner.limits.calls:
            self._send(_reset(stream, Code.REFUSED_STREAM))
            return
        try:
            opening = messages.opening(fields)
        except messages.MalformedError:
            self._send(_reset(stream, Code.PROTOCOL_ERROR))
        except messages.HttpError as error:
            self._refuse(stream, error.block())
        except RpcError as error:
            self._refuse(stream, messages.error_block(error))
        else:
            self._streams[stream] = _Stream(opening, self._first_window)

    def _refuse(self, stream: int, block: bytes) -> None:
        self._send(self._headers(stream, block, frames.END_STREAM))
        if not self._block_ends:
            self._send(_reset(stream, Code.NO_ERROR))

    def _take_data(self, frame: Frame) -> None:
        size = len(frame.payload)
        self._inbox -= size
        if self._inbox < 0:
            raise Http2Error(Code.FLOW_CONTROL_ERROR, "more data than the window allows")
        if not frame.stream or frame.stream > self._last:
            raise Http2Error(Code.PROTOCOL_ERROR, f"data on stream {frame.stream}, which was never opened")
        state = self._streams.get(frame.stream)
        if state is None or state.body is None:
            self._give_back(size)
            return
        state.received += size
        state.body += frame.content()
        if len(state.body) > messages.MAX_MESSAGE + messages.PREFIX:
            text = f"a request must not be longer than {messages.MAX_MESSAGE} bytes"
            self.fail(frame.stream, RpcError(StatusCode.RESOURCE_EXHAUSTED, text))
        elif frame.flags & frames.END_STREAM:
            self._begin(frame.stream, state)

    def _begin(self, stream: int, state: _Stream) -> None:
        """Call the handler: the request is whole."""
        body, state.body = state.body, None
        self._give_back(state.received)
        if body is None:
            return
        opening = state.opening
        try:
            payload = messages.unpack(body)
        except RpcError as error:
            self.fail(stream, error)
        else:
            self.calls.open(
                stream, opening.service, opening.method, payload, opening.metadata, timeout=opening.timeout
            )

    def _take_reset(self, frame: Frame) -> None:
        if not frame.stream or frame.stream > self._last:
            raise Http2Error(Code.PROTOCOL_ERROR, f"stream {frame.stream} cannot be reset, for it was never opened")
        self._abandon(frame.stream)

    def _abandon(self, stream: int) -> None:
        state = self._streams.pop(stream, None)
        self._blocked.pop(stream, None)
        if state is not None and state.body is not None:
            self._give_back(state.received)
        self.calls.abandon(stream, RpcError(StatusCode.CANCELLED, "the client has cancelled the call"))

    def _take_ping(self, frame: Frame) -> None:
        if len(frame.payload) != 8:
            raise Http2Error(Code.FRAME_SIZE_ERROR, "a ping has eight bytes")
        if not frame.flags & frames.ACK:
            self._send(encode(frames.PING, frames.ACK, 0, frame.payload))

    def _take_settings(self, frame: Frame) -> None:
        if frame.stream:
            raise Http2Error(Code.PROTOCOL_ERROR, "settings are the connection's")
        if len(frame.payload) % _SETTING.size:
            raise Http2Error(Code.FRAME_SIZE_ERROR, "a setting has six bytes")
        if frame.flags & frames.ACK:
            return
        for name, value in _SETTING.iter_unpack(frame.payload):
            if name == _INITIAL_WINDOW_SIZE:
                self._set_first_window(value)
            elif name == _HEADER_TABLE_SIZE and value < hpack.TABLE_SIZE:
                self._prefix = hpack.without_table()
        self._send(encode(frames.SETTINGS, frames.ACK, 0))
        self._send_blocked()

    def _set_first_window(self, size: int) -> None:
        if size > _LARGEST_WINDOW:
            raise Http2Error(Code.FLOW_CONTROL_ERROR, "a window is too large")
        for state in self._streams.values():
            state.window += size - self._first_window
        self._first_window = size

    def _take_window(self, frame: Frame) -> None:
        if len(frame.payload) != 4:
            raise Http2Error(Code.FRAME_SIZE_ERROR, "a window's update has four bytes")
        more = int.from_bytes(frame.payload, "big") & _LARGEST_WINDOW
        state = self._streams.get(frame.stream)
        if not frame.stream:
            self._window += more
        elif state is not None:
            state.window += more
        if not more or max(self._window, state.window if state else 0) > _LARGEST_WINDOW:
            raise Http2Error(Code.FLOW_CONTROL_ERROR, f"a window cannot grow by {more}")
        self._send_blocked()

    def _send_blocked(self) -> None:
        for stream, state in list(self._blocked.items()):
            self._send_on(stream, state)

    def _give_back(self, size: int) -> None:
        """Let the client send as much again, and tell it when it is worth a frame."""
        self._owed += size
        if self._owed >= _WINDOW // 2:
            self._send(encode(frames.WINDOW_UPDATE, 0, 0, self._owed.to_bytes(4, "big")))
            self._inbox += self._owed
            self._owed = 0


def _goaway(last: int, code: Code, why: str) -> bytes:
    return encode(frames.GOAWAY, 0, 0, struct.pack(">II", last, code) + why.encode())


def _reset(stream: int, code: Code) -> bytes:
    return encode(frames.RST_STREAM, 0, stream, code.to_bytes(4, "big"))
