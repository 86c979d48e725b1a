"""Owns a SPDY/3.1 client, as far as Kubernetes uses it: a few streams, data, and the end of one direction.

What it leaves out, the server does not ask for: flow control, priorities, pushed streams. Headers that come
are not looked into, so the protocol's compression dictionary is not needed; those sent are compressed without
it, which a reader must accept all the same. (SPDY protocol, draft 3.1.)
"""

import struct
import zlib
from collections.abc import Mapping

from testing.upgrade import Connection

_CONTROL = 0x8003 << 16
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING, _GOAWAY = 1, 2, 3, 6, 7
_FIN = 1
_CHUNK = 32 * 1024


class Spdy:
    """One connection; its streams, one for each channel, are there once it is made.

    One thread may receive while others send.
    """

    def __init__(self, url: str, protocol: str, streams: Mapping[int, Mapping[str, str]]) -> None:
        headers = {"Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": protocol}
        self._connection = Connection(url, headers)
        self._headers = zlib.compressobj()  # one for the whole connection, as the protocol has it
        self._streams = {channel: 2 * index + 1 for index, channel in enumerate(streams)}
        self._channels = {stream: channel for channel, stream in self._streams.items()}
        self._early: list[tuple[int, bytes]] = []
        self._open = set(self._channels)
        try:
            for channel, stream_headers in streams.items():
                self._start(self._streams[channel], stream_headers)
            self._wait_for_replies()
        except BaseException:
            self.close()
            raise

    def send(self, channel: int, data: bytes) -> None:
        """Send data on a channel."""
        for start in range(0, len(data), _CHUNK):
            self._send_data(channel, data[start : start + _CHUNK], 0)

    def finish(self, channel: int) -> None:
        """End our direction of a channel."""
        self._send_data(channel, b"", _FIN)

    def receive(self) -> tuple[int, bytes] | None:
        """The next data; None once the server has ended or reset every stream, or is gone."""
        if self._early:
            return self._early.pop(0)
        while self._open:
            frame = self._frame()
            if frame is None:
                break
            kind, stream, payload = frame
            if kind is None and stream in self._channels and payload:
                return self._channels[stream], payload
            if kind == _GOAWAY:
                break
        return None

    def close(self) -> None:
        """Leave without ceremony, which also ends a `receive` in another thread."""
        self._connection.close()

    def _start(self, stream: int, headers: Mapping[str, str]) -> None:
        block = struct.pack(">I", len(headers))
        for name, value in headers.items():
            for text in (name.encode(), value.encode()):
                block += struct.pack(">I", len(text)) + text
        packed = self._headers.compress(block) + self._headers.flush(zlib.Z_SYNC_FLUSH)
        self._send_control(_SYN_STREAM, struct.pack(">IIH", stream, 0, 0) + packed)

    def _wait_for_replies(self) -> None:
        """Wait until the server knows every stream: it drops what comes before its own reply."""
        waiting = set(self._channels)
        while waiting:
            frame = self._frame()
            if frame is None or frame[0] in {_RST_STREAM, _GOAWAY}:
                raise ConnectionError("the server refused a stream")
            kind, stream, payload = frame
            if kind == _SYN_REPLY:
                waiting.discard(stream)
            elif kind is None and payload:
                self._early.append((self._channels[stream], payload))

    def _frame(self) -> tuple[int | None, int, bytes] | None:
        """Read a frame: its kind, None for data; its stream; its data. Answers pings."""
        while True:
            try:
                first, second = struct.unpack(">II", self._connection.exactly(8))
                payload = self._connection.exactly(second & 0xFFFFFF)
            except EOFError:
                return None
            if not first & 0x80000000:
                if second >> 24 & _FIN:
                    self._open.discard(first)
                return None, first, payload
            kind = first & 0xFFFF
            stream = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
            if kind == _PING:
                self._send_control(_PING, payload)
                continue
            if kind == _RST_STREAM:
                self._open.discard(stream)
            return kind, stream, b""

    def _send_control(self, kind: int, payload: bytes) -> None:
        self._connection.send(struct.pack(">II", _CONTROL | kind, len(payload)) + payload)

    def _send_data(self, channel: int, data: bytes, flags: int) -> None:
        self._connection.send(struct.pack(">II", self._streams[channel], flags << 24 | len(data)) + data)
