"""ttrpc's frames: a header of ten bytes, then data. Bytes to frames and back, without any I/O.

Header: u32 length of the data, u32 stream id, u8 kind, u8 flags, big-endian. The client's streams have odd
ids that only grow. Data is at most 4 MiB.
"""

from struct import Struct
from typing import NamedTuple

__all__ = ["DATA", "MAX_DATA", "REQUEST", "RESPONSE", "STREAMING", "Frame", "FrameReader", "encode"]

_HEADER = Struct(">IIBB")
MAX_DATA = 4 << 20

# Kinds.
REQUEST = 1
RESPONSE = 2
DATA = 3

# Flags of a request that mark it as streaming: the client has sent all it will send, or will send more.
_REMOTE_CLOSED = 1
_REMOTE_OPEN = 2
STREAMING = _REMOTE_CLOSED | _REMOTE_OPEN


class Frame(NamedTuple):
    """One frame as it arrived; `data` is None if there was too much of it."""

    stream: int
    kind: int
    flags: int
    data: bytes | bytearray | None


def encode(stream: int, kind: int, data: bytes, flags: int = 0) -> bytes:
    """A frame's bytes; `data` must not be longer than MAX_DATA."""
    return _HEADER.pack(len(data), stream, kind, flags) + data


class FrameReader:
    """Cuts a stream of bytes into frames, however they arrive.

    Holds at most one frame in part, and nothing of one that is too long: that is reported when its header has
    come, and its data is dropped as it comes.
    """

    __slots__ = ("_buffer", "_drop", "_start")

    def __init__(self) -> None:
        self._buffer: bytes | bytearray = b""
        self._start = 0  # of what has not been read yet
        self._drop = 0  # bytes still to come that belong to a frame that is too long

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        if self._drop:
            dropped = min(self._drop, len(data))
            self._drop -= dropped
            data = data[dropped:]
        if self._start == len(self._buffer):
            # Nothing is left over: the common case, and the one that copies nothing.
            self._buffer, self._start = data, 0
            return
        # A bytearray grows, and loses its head, without moving the rest: 4 MiB come in hundreds of pieces.
        if not isinstance(self._buffer, bytearray):
            self._buffer = bytearray(self._buffer)
        del self._buffer[: self._start]
        self._buffer += data
        self._start = 0

    def next(self) -> Frame | None:
        """The next frame, or None until more has arrived."""
        buffer, start = self._buffer, self._start
        body = start + _HEADER.size
        if body > len(buffer):
            if start == len(buffer):
                # Let go of what was read: an idle connection should cost nothing.
                self._buffer, self._start = b"", 0
            return None
        length, stream, kind, flags = _HEADER.unpack_from(buffer, start)
        if length > MAX_DATA:
            self._start = min(body + length, len(buffer))
            self._drop = body + length - self._start
            return Frame(stream, kind, flags, None)
        end = body + length
        if end > len(buffer):
            return None
        self._start = end
        return Frame(stream, kind, flags, buffer[body:end])
