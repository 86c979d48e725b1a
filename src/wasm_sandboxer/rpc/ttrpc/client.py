"""A ttrpc client on a Unix socket, for the command line, tests and benchmarks.

One connection, any number of calls at once, all in the event loop's thread. Does not reconnect: a client
whose connection has ended answers every call with UNAVAILABLE.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from wasm_sandboxer.api.ttrpc_pb2 import KeyValue, Request, Response
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode
from wasm_sandboxer.rpc.ttrpc.frames import MAX_DATA, REQUEST, RESPONSE, FrameReader, encode

__all__ = ["TtrpcClient"]

_M = TypeVar("_M", bound=Message)


class TtrpcClient:
    """One connection to a ttrpc server. Make it with `connect`."""

    def __init__(self, wire: "_Wire") -> None:
        self._wire = wire

    @classmethod
    async def connect(cls, path: str | Path) -> Self:
        """Dial the socket at `path`; OSError if nobody listens there."""
        _, wire = await asyncio.get_running_loop().create_unix_connection(_Wire, str(path))
        return cls(wire)

    async def call(
        self,
        service: str,
        method: str,
        request: Message,
        response_class: type[_M],
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # it goes over the wire too
        metadata: Mapping[str, str] | None = None,
    ) -> _M:
        """Make one call. RpcError says how it failed: refused, too late, or the connection has ended.

        The server knows `timeout`, in seconds, too, and gives the call up then. It does not learn of a
        cancellation: ttrpc has no message for it.
        """
        envelope = Request(
            service=service,
            method=method,
            payload=request.SerializeToString(),
            timeout_nano=0 if timeout is None else max(1, round(timeout * 1e9)),
            metadata=[KeyValue(key=key, value=value) for key, value in (metadata or {}).items()],
        )
        data = await self._wire.exchange(envelope.SerializeToString(), timeout)
        try:
            response = Response.FromString(data)
            if response.status.code:
                raise RpcError(StatusCode(response.status.code), response.status.message)
            return response_class.FromString(response.payload)
        except DecodeError as error:
            raise RpcError(StatusCode.INTERNAL, f"{service}/{method}: the answer makes no sense") from error

    async def close(self) -> None:
        """Close the connection; calls in progress fail with UNAVAILABLE."""
        await self._wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Wire(asyncio.BufferedProtocol):
    """The client's end of a connection: frames out, each one's answer back."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._frames = FrameReader()
        # Ours to fill again and again; data_received would get 256 KiB for every read.
        self._buffer = memoryview(bytearray(64 << 10))
        self._stream = 1  # the next one's id
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._lost = self._loop.create_future()

    async def exchange(self, data: bytes, timeout: float | None) -> bytes:  # noqa: ASYNC109  # see call
        """Send a request's data and wait for its response's."""
        if len(data) > MAX_DATA:
            text = f"the request is {len(data)} bytes long, and at most {MAX_DATA} can be sent"
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, text)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        timer = None if timeout is None else self._loop.call_later(timeout, _expire, answer, timeout)
        try:
            return await self._ask(data, answer)
        finally:
            if timer:
                timer.cancel()

    async def _ask(self, data: bytes, answer: "asyncio.Future[bytes]") -> bytes:
        if self._transport.is_closing():
            raise RpcError(StatusCode.UNAVAILABLE, "the connection is closed")
        stream = self._stream
        self._stream += 2
        self._waiting[stream] = answer
        try:
            self._transport.write(encode(stream, REQUEST, data))
            return await answer
        finally:
            del self._waiting[stream]

    async def close(self) -> None:
        """Close and wait until that is done."""
        self._transport.abort()
        await asyncio.shield(self._lost)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        for answer in self._waiting.values():
            if not answer.done():
                text = f"the connection has ended: {exc}" if exc else "the connection has ended"
                answer.set_exception(RpcError(StatusCode.UNAVAILABLE, text))
        self._lost.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._frames.feed(bytes(self._buffer[:nbytes]))
        while frame := self._frames.next():
            answer = self._waiting.get(frame.stream)
            # Nobody waits for an answer that comes after its time, and other kinds mean nothing to us.
            if answer is None or answer.done() or frame.kind != RESPONSE:
                continue
            if frame.data is None:
                text = f"the answer is longer than {MAX_DATA} bytes"
                answer.set_exception(RpcError(StatusCode.RESOURCE_EXHAUSTED, text))
            else:
                answer.set_result(bytes(frame.data))


def _expire(answer: "asyncio.Future[bytes]", timeout: float) -> None:
    if not answer.done():
        text = f"no answer within {timeout:g} s"
        answer.set_exception(RpcError(StatusCode.DEADLINE_EXCEEDED, text))
