"""Owns connections that start as HTTP/1.1 and go on as something else (RFC 9110, section 7.8)."""

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

_SECONDS = 30


class UpgradeError(ConnectionError):
    """The server answered with something else than 101; the message holds the answer."""


class Connection:
    """A connection that has switched protocols; one thread may read while others send."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        address = (parts.hostname or "localhost", parts.port or 80)
        self._socket = socket.create_connection(address, timeout=_SECONDS)
        self._reader = self._socket.makefile("rb")
        self._sending = threading.Lock()
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            lines = [f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Connection: Upgrade"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            self.send("\r\n".join([*lines, "", ""]).encode())
            self.headers = self._switch()
            self._socket.settimeout(None)
        except BaseException:
            self.close()
            raise

    def send(self, data: bytes) -> None:
        """Send all of it, in one piece even if other threads send too."""
        with self._sending:
            self._socket.sendall(data)

    def exactly(self, count: int) -> bytes:
        """Read `count` bytes, waiting for them; raises EOFError at the end, the other side's or ours."""
        try:
            data = self._reader.read(count)
        except (OSError, ValueError) as error:  # reset, or closed meanwhile
            raise EOFError from error
        if len(data) < count:
            raise EOFError
        return data

    def close(self) -> None:
        """Leave without ceremony, which also ends what another thread is reading."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.close()
        self._socket.close()

    def _switch(self) -> dict[str, str]:
        """Read the answer; its headers, if it is the one hoped for."""
        status = self._reader.readline().decode().strip()
        headers: dict[str, str] = {}
        while line := self._reader.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        if status.split(" ")[1:2] != ["101"]:
            body = self._reader.read(int(headers.get("content-length") or 0)).decode(errors="replace")
            raise UpgradeError(f"{status}: {body.strip()}")
        return headers
