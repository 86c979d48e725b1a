"""A server on a Unix socket, whatever its wire: accepts connections, and stops gracefully.

Owns the listening socket once it is given, and the connections. Knows no service of ours, and neither makes
nor removes socket files: whose they are and what mode they have is the daemon's matter.
"""

import asyncio
import socket
import sys
from typing import Any

from wasm_sandboxer.rpc.transport.call import Call, Limits, Observe, Services, Translate
from wasm_sandboxer.rpc.transport.connection import Connection
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode

__all__ = ["Server"]

# The most the kernel grants by default. After a restart containerd dials once for every task, all at the same
# time, and on a Unix socket a full queue is an error for the dialling side, not a delay.
_QUEUE = 4096
# Bytes read from a connection in one turn of the loop.
_BUFFER = 64 << 10
# Seconds for cancelled handlers to end, and then for clients to read their last answers; at most the grace period.
_LAST = 1.0


class Server:
    """Serves the given methods on connections of a kind. All its methods are for the event loop's thread.

    `observe` is called once for each call that ends; `translate` makes errors of the caller's own into RPC
    errors (what it does not know is logged and becomes INTERNAL).
    """

    connection: type[Connection]
    """What its connections speak."""

    def __init__(
        self,
        services: Services,
        *,
        observe: Observe | None = None,
        translate: Translate | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.services = services
        self.observe = observe or _ignore
        self.translate = translate or _unknown
        self.limits = limits or Limits()
        self.stopping = False
        self.connections: set[Connection] = set()
        self.buffer = memoryview(bytearray(_BUFFER))
        self._listener: asyncio.AbstractServer | None = None

    async def start(self, listening: socket.socket) -> None:
        """Accept connections on a bound Unix stream socket, which from now on is the server's."""
        loop = asyncio.get_running_loop()
        # From 3.13 on, asyncio would remove the socket's file when the server is closed.
        keep: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        self._listener = await loop.create_unix_server(
            lambda: self.connection(self), sock=listening, backlog=_QUEUE, **keep
        )

    async def stop(self, grace: float) -> None:
        """Accept nothing more, let calls that do more than wait end for `grace` seconds, cancel the rest and close.

        New calls are answered with UNAVAILABLE meanwhile. Returns within `grace` and two seconds, or within three
        times `grace` if that is less.
        """
        last = min(_LAST, grace)
        self.stopping = True
        if self._listener:
            self._listener.close()
        for connection in self.connections:
            connection.say_goodbye()
        await self._settle(grace, waiting=False)
        for connection in self.connections:
            connection.calls.cancel(RpcError(StatusCode.UNAVAILABLE, "the server is stopping"))
        await self._settle(last)
        await self._close(last)

    async def _settle(self, seconds: float, *, waiting: bool = True) -> None:
        """Wait until no handler runs; not `waiting`, but for those that only wait."""
        tasks = [task for connection in self.connections for task in connection.calls.tasks(waiting=waiting)]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    async def _close(self, seconds: float) -> None:
        """Close every connection, by force those whose clients do not read."""
        connections = list(self.connections)
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait([connection.lost for connection in connections], timeout=seconds)
        for connection in list(self.connections):
            connection.abort()
            await connection.lost


def _ignore(call: Call, error: RpcError | None, seconds: float) -> None:
    """Observe nothing."""


def _unknown(error: Exception) -> RpcError | None:  # noqa: ARG001
    """Know no error."""
    return None
