import asyncio
import contextlib
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue

from wasm_sandboxer.api.ttrpc_pb2 import KeyValue, Request, Response
from wasm_sandboxer.rpc.ttrpc import Method, TtrpcClient, TtrpcServer
from wasm_sandboxer.rpc.ttrpc.frames import REQUEST, FrameReader, encode

SERVICE = "test.v1.Strings"


class Raw:
    """A client that sends whatever bytes a test wants sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.frames = reader, writer, FrameReader()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def request(self, stream: int, method: str, text: str = "", *, flags: int = 0, **fields: Any) -> None:
        self.send(encode(stream, REQUEST, envelope(method, text, **fields), flags))

    async def frame(self) -> Any:
        """The next frame from the server, or None if it has closed the connection."""
        while not (frame := self.frames.next()):
            data = await self.reader.read(1 << 16)
            if not data:
                return None
            self.frames.feed(data)
        return frame

    async def answer(self) -> tuple[int, Response]:
        """The next answer: its stream and what it holds."""
        frame = await self.frame()
        assert frame is not None, "the server has closed the connection"
        return frame.stream, Response.FromString(frame.data)

    def close(self) -> None:
        self.writer.transport.abort()


def envelope(
    method: str,
    text: str = "",
    *,
    service: str = SERVICE,
    payload: bytes | None = None,
    timeout: float = 0,
    metadata: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """What a request frame carries."""
    return Request(
        service=service,
        method=method,
        payload=StringValue(value=text).SerializeToString() if payload is None else payload,
        timeout_nano=int(timeout * 1e9),
        metadata=[KeyValue(key=key, value=value) for key, value in metadata],
    ).SerializeToString()


@dataclass
class Served:
    """A running server and ways to talk to it."""

    server: TtrpcServer
    path: str
    open: list[Any] = field(default_factory=list)

    async def client(self) -> TtrpcClient:
        client = await TtrpcClient.connect(self.path)
        self.open.append(client)
        return client

    async def raw(self) -> Raw:
        raw = Raw(*await asyncio.open_unix_connection(self.path))
        self.open.append(raw)
        return raw

    async def call(self, client: TtrpcClient, method: str, text: str = "", **options: Any) -> str:
        answer = await client.call(SERVICE, method, StringValue(value=text), StringValue, **options)
        return answer.value


Serve = Callable[..., contextlib.AbstractAsyncContextManager[Served]]


@pytest.fixture
def folder() -> Any:
    # Not tmp_path: a socket's path must be shorter than 108 bytes.
    path = Path(tempfile.mkdtemp(prefix="ttrpc-"))
    yield path
    while path.exists():
        with contextlib.suppress(FileNotFoundError):  # gRPC's core removes its sockets in its own time
            shutil.rmtree(path)


@pytest.fixture
def serve(folder: Path) -> Serve:
    """Serves handlers of strings, given by name; `echo` is always there."""

    @contextlib.asynccontextmanager
    async def served(
        handlers: dict[str, Any] | None = None,
        response: type[Message] = StringValue,
        *,
        waiting: tuple[str, ...] = (),
        **options: Any,
    ) -> AsyncIterator[Served]:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(folder / "s"))
        handlers = {"echo": lambda request, _: request, **(handlers or {})}
        methods = {
            name: Method(StringValue, response, handler, waits=name in waiting) for name, handler in handlers.items()
        }
        server = TtrpcServer({SERVICE: methods}, **options)
        await server.start(listening)
        result = Served(server, str(folder / "s"))
        try:
            yield result
        finally:
            await server.stop(0)
            for end in result.open:
                if isinstance(end, TtrpcClient):
                    await end.close()
                else:
                    end.close()
            await asyncio.sleep(0)

    return served


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Waits until a condition holds."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  # nothing in the code under test would tell
                await asyncio.sleep(0.001)

    return wait


@pytest.fixture
def request_data() -> Callable[..., bytes]:
    return envelope
