import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from wasm_sandboxer.rpc.grpc import GrpcServer, frames, hpack, messages
from wasm_sandboxer.rpc.grpc.frames import PREFACE, Frame, encode
from wasm_sandboxer.rpc.transport.call import Method

SERVICE = "test.v1.Strings"
FIELDS = {":method": "POST", ":scheme": "http", ":path": f"/{SERVICE}/echo", "content-type": "application/grpc"}


def body(text: str) -> bytes:
    return messages.pack(StringValue(value=text).SerializeToString())


def data(stream: int, whole: bytes) -> bytes:
    """A request's body in frames, the last of which ends the stream."""
    pieces = [whole[at : at + frames.MAX_PAYLOAD] for at in range(0, len(whole), frames.MAX_PAYLOAD)]
    flags = [0] * (len(pieces) - 1) + [frames.END_STREAM]
    return b"".join(encode(frames.DATA, flag, stream, piece) for flag, piece in zip(flags, pieces, strict=True))


class Raw:
    """A client that sends whatever frames a test wants sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.decoder = hpack.Decoder()

    def send(self, *pieces: bytes) -> None:
        self.writer.write(b"".join(pieces))

    def begin(self, settings: bytes = b"") -> None:
        self.send(PREFACE, encode(frames.SETTINGS, 0, 0, settings))

    def headers(self, stream: int, flags: int = frames.END_HEADERS, **changes: str | None) -> bytes:
        fields = {**FIELDS, **{name.replace("_", "-").replace("p-", ":"): text for name, text in changes.items()}}
        block = b"".join(hpack.literal(name, text) for name, text in fields.items() if text is not None)
        return encode(frames.HEADERS, flags, stream, block)

    def request(self, stream: int, text: str = "", **changes: str | None) -> bytes:
        return self.headers(stream, **changes) + data(stream, body(text))

    async def frame(self) -> Frame | None:
        """The next frame, or None if the server has closed the connection."""
        try:
            header = await self.reader.readexactly(9)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        payload = await self.reader.readexactly(int.from_bytes(header[:3], "big"))
        return Frame(header[3], header[4], int.from_bytes(header[5:], "big"), payload)

    async def until(self, kind: int, stream: int | None = None, *, flags: int = 0) -> Frame:
        """The next frame of a kind; those before it are passed over."""
        while frame := await self.frame():
            if frame.kind == frames.HEADERS:
                self.fields = dict(self.decoder.decode(frame.payload))
            if frame.kind == kind and stream in {None, frame.stream} and frame.flags & flags == flags:
                return frame
        raise AssertionError("the server has closed the connection")

    async def trailers(self, stream: int) -> dict[str, str]:
        """The header fields that end a stream."""
        await self.until(frames.HEADERS, stream, flags=frames.END_STREAM)
        return self.fields

    async def goodbye(self) -> tuple[int, str]:
        """Why the server ends the connection, which it does."""
        frame = await self.until(frames.GOAWAY)
        while await self.frame():
            pass
        return int.from_bytes(frame.payload[4:8], "big"), frame.payload[8:].decode()


@dataclass
class Served:
    """A running server and ways to talk to it."""

    server: GrpcServer
    path: str
    channels: list[Any] = field(default_factory=list)
    raws: list[Raw] = field(default_factory=list)

    def channel(self) -> Any:
        """A client of grpcio's."""
        most = messages.MAX_MESSAGE + 1000
        channel = grpc.aio.insecure_channel(
            f"unix:{self.path}",
            [
                ("grpc.max_receive_message_length", most),
                ("grpc.max_send_message_length", most),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self.channels.append(channel)
        return channel

    def call(self, channel: Any, method: str, text: str = "", *, service: str = SERVICE, **options: Any) -> Any:
        serialize, read = StringValue.SerializeToString, StringValue.FromString
        callable_ = channel.unary_unary(
            f"/{service}/{method}", request_serializer=serialize, response_deserializer=read
        )
        return callable_(StringValue(value=text), **options)

    async def raw(self) -> Raw:
        raw = Raw(*await asyncio.open_unix_connection(self.path))
        self.raws.append(raw)
        return raw

    async def begun(self, settings: bytes = b"") -> Raw:
        raw = await self.raw()
        raw.begin(settings)
        return raw


Serve = Callable[..., contextlib.AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(folder: Path) -> Serve:
    """Serves handlers of strings, given by name; `echo` is always there."""

    @contextlib.asynccontextmanager
    async def served(handlers: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Served]:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(folder / "g"))
        handlers = {"echo": lambda request, _: request, **(handlers or {})}
        methods = {name: Method(StringValue, StringValue, handler) for name, handler in handlers.items()}
        server = GrpcServer({SERVICE: methods}, **options)
        await server.start(listening)
        result = Served(server, str(folder / "g"))
        try:
            yield result
        finally:
            for channel in result.channels:
                await channel.close()
            for raw in result.raws:
                raw.writer.transport.abort()
            await server.stop(0)
            await asyncio.sleep(0)

    return served
