"""Where Prometheus asks: as much of HTTP/1.1 as a scrape takes, on the loop. Knows no metric.

A client is harmless however it behaves: it has a few seconds to ask and to read, few are served at once, and the
loop never waits for any of them.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus

from wasm_sandboxer.errors import Unavailable

PATH = "/metrics"
_MOST_HEAD = 8 << 10  # bytes of a request
_MOST_CLIENTS = 16
_ASKING, _READING = 5.0, 10.0  # seconds that a client may take
_log = logging.getLogger(__name__)


class ScrapeServer:
    """Serves one text at PATH."""

    def __init__(self, text: Callable[[], Awaitable[bytes]], content_type: str) -> None:
        self._text = text
        self._content_type = content_type
        self._clients: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen; raises Unavailable that names the address."""
        try:
            self._server = await asyncio.start_server(self._accept, host, port, limit=_MOST_HEAD)
        except OSError as error:
            raise Unavailable(f"cannot serve metrics at {host}:{port}: {error.strerror or error}") from None
        _log.info("metrics at %s", ", ".join(_url(each) for each in self._server.sockets))

    async def stop(self) -> None:
        """Let go of the address and of whoever is connected."""
        if self._server is not None:
            self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= _MOST_CLIENTS:
            writer.transport.abort()
            return
        client = asyncio.ensure_future(self._serve(reader, writer))
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_ASKING):
                answer = await self._answer(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            writer.close()
            async with asyncio.timeout(_READING):
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # it has gone, is too slow, or sends something else
        except Exception:  # noqa: BLE001  # a bug of ours, which is the log's and not the loop's
            _log.exception("metrics cannot be told")
        finally:
            writer.transport.abort()

    async def _answer(self, head: bytes) -> bytes:
        method, target = _request_line(head)
        if method not in {"GET", "HEAD"}:
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, b"", "text/plain")
        if target.partition("?")[0] != PATH:
            return _response(HTTPStatus.NOT_FOUND, f"metrics are at {PATH}\n".encode(), "text/plain")
        text = await self._text()
        return _response(HTTPStatus.OK, text, self._content_type, body=method == "GET")


def _request_line(head: bytes) -> tuple[str, str]:
    """Method and target; empty where there are none."""
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    return (words[0], words[1]) if len(words) == 3 else ("", "")


def _response(status: HTTPStatus, text: bytes, content_type: str, *, body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (text if body else b"")


def _url(listening: socket.socket) -> str:
    host, port = "", 0
    with suppress(OSError):
        host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}{PATH}" if ":" in host else f"http://{host}:{port}{PATH}"
