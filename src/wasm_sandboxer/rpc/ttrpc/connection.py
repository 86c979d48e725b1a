"""One client's connection: requests in, answers out, and how much of either.

Everything happens in the event loop's thread. A connection harms no other: it handles a bounded number of
requests in one turn of the loop, it stops reading from a client that does not read, and it drops one that
goes too far. Whatever a client sends, the worst it gets is an error on the stream concerned: the header says
where the next frame begins, so no frame is bad enough to lose the connection.
"""

import asyncio
import logging
from typing import Protocol, cast

from google.protobuf.message import DecodeError

from wasm_sandboxer.api.ttrpc_pb2 import Request
from wasm_sandboxer.rpc.ttrpc.answers import failure
from wasm_sandboxer.rpc.ttrpc.dispatch import Dispatcher, Offer
from wasm_sandboxer.rpc.ttrpc.frames import MAX_DATA, REQUEST, Frame, FrameReader
from wasm_sandboxer.rpc.ttrpc.status import RpcError, StatusCode

__all__ = ["Connection", "Owner"]

_log = logging.getLogger(__name__)

# Requests handled before the loop sees to other connections: about a millisecond's worth.
_BURST = 64
# Answers are written together, once this many bytes have come up or the turn is over.
_TOGETHER = 64 << 10
# Seconds that a client has left to read what was written before its connection was closed.
_FAREWELL = 5.0


class Owner(Offer, Protocol):
    """What a connection needs of its server."""

    connections: "set[Connection]"
    buffer: memoryview


class Connection(asyncio.BufferedProtocol):
    """The server's end of one connection."""

    __slots__ = (
        "_backlog", "_corked", "_frames", "_last", "_loop", "_out", "_out_size", "_owner", "_refused",
        "_stall", "_stalled", "_transport", "_written", "calls", "lost",
    )  # fmt: skip

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._frames = FrameReader()
        self._last = 0  # the highest stream id seen
        self._refused = False  # a bad frame has come
        self._out: list[bytes] = []
        self._out_size = 0
        self._corked = False
        self._backlog = False  # frames wait for the loop's next turn
        self._stalled = False  # the client does not read
        self._stall: asyncio.TimerHandle | None = None
        self._written = 0
        self.calls = Dispatcher(owner, self._send)
        self.lost = self._loop.create_future()

    def close(self) -> None:
        """Close once the client has read what it was sent, or has had time to."""
        if self._transport.get_write_buffer_size():
            self._loop.call_later(_FAREWELL, self._transport.abort)
        self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, unless the server has begun to stop in the meantime."""
        self._transport = cast("asyncio.Transport", transport)
        self._owner.connections.add(self)
        if self._owner.stopping:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # how it ended changes nothing
        """Forget the client and end what it asked for."""
        self._owner.connections.discard(self)
        if self._stall:
            self._stall.cancel()
        self.calls.cancel(RpcError(StatusCode.CANCELLED, "the client has gone"))
        self.lost.set_result(None)

    def eof_received(self) -> bool:
        """End the calls: nobody is left to take their answers, and some would wait for ever."""
        self.calls.cancel(RpcError(StatusCode.CANCELLED, "the client has closed the connection"))
        self.close()
        return False

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """One buffer for all connections: the selector loop fills it and calls buffer_updated in one go.

        asyncio's other way, data_received, gets a new object of 256 KiB for every read; that took more time
        than all the rest of a call.
        """
        return self._owner.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Handle what has arrived."""
        self._frames.feed(bytes(self._owner.buffer[:nbytes]))
        self._work()

    def pause_writing(self) -> None:
        """Stop reading: the client does not take its answers."""
        self._stalled = True
        self._stall = self._loop.call_later(self._owner.limits.stalled, self._check, self._taken())
        self._steer()

    def resume_writing(self) -> None:
        """Go on with what was left in pause_writing."""
        self._stalled = False
        if self._stall:
            self._stall.cancel()
        if not self._backlog:
            self._work()

    # Reading.

    def _work(self) -> None:
        """Handle the frames that have come; after a burst, leave the rest to the loop's next turn."""
        self._backlog = False
        self._corked = True
        for _ in range(_BURST):
            frame = None if self._stalled or self._transport.is_closing() else self._frames.next()
            if frame is None:
                break
            self._take(frame)
        else:
            self._backlog = True
            self._loop.call_soon(self._work)
        self._corked = False
        if self._out:
            self._flush()
        self._steer()

    def _steer(self) -> None:
        """Read on only if what was read before has been dealt with."""
        if self._stalled or self._backlog:
            self._transport.pause_reading()
        elif not self._transport.is_reading():
            self._transport.resume_reading()

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
            self._send(failure(stream, RpcError(StatusCode.RESOURCE_EXHAUSTED, text)))
            return
        try:
            request = Request.FromString(bytes(data))
        except DecodeError:
            self._refuse(stream, "the data is not a ttrpc request")
            return
        self.calls.open(stream, flags, request)

    def _refuse(self, stream: int, why: str) -> None:
        """Answer a frame that makes no sense, unless that would end a good call on the same stream."""
        # Loud once for each connection: what sends one bad frame may send a million.
        _log.log(logging.DEBUG if self._refused else logging.WARNING, "ttrpc: stream %d: %s", stream, why)
        self._refused = True
        if not self.calls.is_running(stream):
            self._send(failure(stream, RpcError(StatusCode.INVALID_ARGUMENT, why)))

    # Writing.

    def _send(self, frame: bytes) -> None:
        self._out.append(frame)
        self._out_size += len(frame)
        if not self._corked or self._out_size > _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        out = self._out
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._out_size = 0
        if self._transport.is_closing():
            return
        self._written += len(data)
        self._transport.write(data)
        if self._stalled and self._transport.get_write_buffer_size() > self._owner.limits.unread:
            self._drop("has left too many answers unread")

    def _taken(self) -> int:
        """Bytes that have left this process, so far."""
        return self._written - self._transport.get_write_buffer_size()

    def _check(self, taken: int) -> None:
        """Drop a client that has taken nothing since it was at `taken`."""
        if self._taken() == taken:
            self._drop("has read no answer for too long")
        else:
            self._stall = self._loop.call_later(self._owner.limits.stalled, self._check, self._taken())

    def _drop(self, why: str) -> None:
        _log.warning("ttrpc: dropped a client that %s", why)
        self._transport.abort()
