"""Owns a WebSocket client (RFC 6455) for Kubernetes' channels: a message starts with its channel's number."""

import base64
import os
import struct

from testing.upgrade import Connection, UpgradeError

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_FINAL = 0x80
_MASKED = 0x80
_IN_TWO_BYTES, _IN_EIGHT_BYTES = 126, 127
"""Lengths that stand for a longer one in the bytes that follow."""
_CHUNK = 32 * 1024


class Websocket:
    """One connection; one thread may receive while others send."""

    def __init__(self, url: str, subprotocol: str) -> None:
        headers = {
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Protocol": subprotocol,
        }
        self._connection = Connection(url, headers)
        chosen = self._connection.headers.get("sec-websocket-protocol")
        if chosen != subprotocol:
            self.close()
            raise UpgradeError(f"the server chose the subprotocol {chosen}, not {subprotocol}")

    def send(self, channel: int, data: bytes) -> None:
        """Send data on a channel, cut into messages that fit the server's buffers."""
        for start in range(0, len(data), _CHUNK):
            self._send(_BINARY, bytes([channel]) + data[start : start + _CHUNK])

    def finish(self, channel: int) -> None:
        """Raise ValueError: the subprotocols up to v4 have no such message."""
        raise ValueError(f"channel {channel} cannot be ended over WebSocket: use SPDY")

    def receive(self) -> tuple[int, bytes] | None:
        """The next message with content; answers pings on the way. None at the end, however it came."""
        message = b""
        while (frame := self._frame()) is not None:
            opcode, final, payload = frame
            if opcode == _PING:
                self._send(_PONG, payload)
            elif opcode == _CLOSE:
                return None
            elif opcode in {_CONTINUATION, _TEXT, _BINARY}:
                message += payload
                if final and message:
                    return message[0], message[1:]
        return None

    def close(self) -> None:
        """Leave without ceremony, which also ends a `receive` in another thread."""
        self._connection.close()

    def _frame(self) -> tuple[int, bool, bytes] | None:
        """Read a frame as servers send it, without a mask (section 5.2)."""
        read = self._connection.exactly
        try:
            first, second = read(2)
            length = second & ~_MASKED
            if length == _IN_TWO_BYTES:
                (length,) = struct.unpack(">H", read(2))
            elif length == _IN_EIGHT_BYTES:
                (length,) = struct.unpack(">Q", read(8))
            return first & 0x0F, bool(first & _FINAL), read(length)
        except EOFError:
            return None

    def _send(self, opcode: int, payload: bytes) -> None:
        """Send a frame as clients must, masked (section 5.3); a mask of zeros is a mask too."""
        if len(payload) < _IN_TWO_BYTES:
            length = bytes([_MASKED | len(payload)])
        elif len(payload) < 1 << 16:
            length = struct.pack(">BH", _MASKED | _IN_TWO_BYTES, len(payload))
        else:
            length = struct.pack(">BQ", _MASKED | _IN_EIGHT_BYTES, len(payload))
        self._connection.send(bytes([_FINAL | opcode]) + length + bytes(4) + payload)
