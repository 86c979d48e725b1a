"""HTTP/2's frames: a header of nine bytes, then a payload; RFC 9113, sections 4 and 6. No I/O.

Header: u24 length, u8 kind, u8 flags, u32 stream whose highest bit means nothing, big-endian.
"""

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

__all__ = [
    "ACK", "CONTINUATION", "DATA", "END_HEADERS", "END_STREAM", "GOAWAY", "HEADERS", "MAX_PAYLOAD", "PING",
    "PREFACE", "PRIORITY", "PUSH_PROMISE", "RST_STREAM", "SETTINGS", "WINDOW_UPDATE", "Code", "Frame",
    "FrameReader", "Http2Error", "encode",
]  # fmt: skip

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_PAYLOAD = 16 << 10  # HTTP/2's default; what we grant, and what every client takes
_HEADER = Struct(">HBBBI")


# Kinds.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

# Flags; which kinds have which is in section 6.
ACK = END_STREAM = 1
END_HEADERS = 4
_PADDED = 8
_WITH_PRIORITY = 32


class Code(IntEnum):
    """Why a stream or connection is ended; section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Http2Error(Exception):
    """What a client did that ends its connection."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class Frame(NamedTuple):
    """One frame as it arrived."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    def content(self) -> bytes:
        """The payload of DATA or HEADERS without padding and priority; raises Http2Error."""
        payload = self.payload
        if self.flags & _PADDED:
            if not payload or payload[0] >= len(payload):
                raise Http2Error(Code.PROTOCOL_ERROR, "more padding than payload")
            payload = payload[1 : len(payload) - payload[0]]
        if self.kind == HEADERS and self.flags & _WITH_PRIORITY:
            if len(payload) < 5:
                raise Http2Error(Code.FRAME_SIZE_ERROR, "HEADERS end in their priority")
            payload = payload[5:]
        return payload


def encode(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame's bytes."""
    length = len(payload)
    return _HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


class FrameReader:
    """Cuts a client's bytes into the preface and frames, however they arrive."""

    __slots__ = ("_buffer", "_greeted", "_start")

    def __init__(self) -> None:
        self._buffer: bytes | bytearray = b""
        self._start = 0  # of what has not been read yet
        self._greeted = False

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        if self._start == len(self._buffer):
            self._buffer, self._start = data, 0  # the common case, which copies nothing
            return
        if not isinstance(self._buffer, bytearray):
            self._buffer = bytearray(self._buffer)
        del self._buffer[: self._start]
        self._buffer += data
        self._start = 0

    def next(self) -> Frame | None:
        """The next frame, or None until more has arrived; raises Http2Error."""
        if not self._greeted and not self._take_preface():
            return None
        buffer, start = self._buffer, self._start
        body = start + _HEADER.size
        if body > len(buffer):
            if start == len(buffer):
                self._buffer, self._start = b"", 0  # an idle connection keeps nothing
            return None
        high, low, kind, flags, stream = _HEADER.unpack_from(buffer, start)
        end = body + (high << 8 | low)
        if end - body > MAX_PAYLOAD:
            raise Http2Error(Code.FRAME_SIZE_ERROR, f"a frame of {end - body} bytes")
        if end > len(buffer):
            return None
        self._start = end
        return Frame(kind, flags, stream & 0x7FFFFFFF, bytes(buffer[body:end]))

    def _take_preface(self) -> bool:
        begun = bytes(self._buffer[self._start : self._start + len(PREFACE)])
        if not PREFACE.startswith(begun):
            raise Http2Error(Code.PROTOCOL_ERROR, "this is not HTTP/2")
        if len(begun) < len(PREFACE):
            return False
        self._start += len(PREFACE)
        self._greeted = True
        return True
