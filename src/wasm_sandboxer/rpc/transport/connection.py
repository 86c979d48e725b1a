"""One client's connection, whatever its wire: bytes in, answers out, and how much of either.

Everything happens in the event loop's thread. A connection harms no other: it handles a bounded number of
frames in one turn of the loop, it stops reading from a client that does not read, and it drops one that goes
too far. What the bytes mean is for the wires' own classes.
"""

import asyncio
import logging
from abc import abstractmethod
from typing import Protocol, cast

from google.protobuf.message import Message

from wasm_sandboxer.rpc.transport.dispatch import Dispatcher, Offer
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode

__all__ = ["Connection", "Owner"]

_log = logging.getLogger(__name__)

# Frames handled before the loop sees to other connections: about a millisecond's worth.
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
        "_backlog", "_corked", "_loop", "_out", "_out_size", "_owner", "_stall", "_stalled", "_transport",
        "_written", "calls", "lost",
    )  # fmt: skip

    wire: str
    """What this kind of connection speaks, for the log."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._out: list[bytes] = []
        self._out_size = 0
        self._corked = False
        self._backlog = False  # frames wait for the loop's next turn
        self._stalled = False  # the client does not read
        self._stall: asyncio.TimerHandle | None = None
        self._written = 0
        self.calls = Dispatcher(owner, self)
        self.lost = self._loop.create_future()

    # What a wire does.

    @abstractmethod
    def succeed(self, stream: int, response: Message) -> None:
        """Send a response; RpcError if that cannot be, and then nothing was sent."""

    @abstractmethod
    def fail(self, stream: int, error: RpcError) -> None:
        """Send an error in a response's place."""

    @abstractmethod
    def _feed(self, data: bytes) -> None:
        """Take what has arrived."""

    @abstractmethod
    def _step(self) -> bool:
        """Handle the next frame of what has arrived; False if there is no whole one."""

    def _greet(self) -> None:
        """Begin; the transport is there."""

    def say_goodbye(self) -> None:
        """Tell the client that nothing more will be taken, where the wire has words for it."""

    # What the server calls.

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
        else:
            self._greet()

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
        self._feed(bytes(self._owner.buffer[:nbytes]))
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
            if self._stalled or self._transport.is_closing() or not self._step():
                break
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
        _log.warning("%s: dropped a client that %s", self.wire, why)
        self._transport.abort()
