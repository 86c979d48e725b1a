"""Calls to the daemon's sockets: the same methods over ttrpc and gRPC, blocking or in the background."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from tests.support.cli import PATIENCE
from wasm_sandboxer.api.services import CONTROLLER, SERVICES, TASK
from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode, TtrpcClient

_CODES = {code: StatusCode(code.value[0]) for code in grpc.StatusCode}
_KEYS = {"ttrpc": "containerd-namespace-ttrpc", "grpc": "containerd-namespace"}


class Client:
    """One connection. A method is called by its name with its request's fields; RpcError says how it failed.

    `client.Start(id="a")` waits for the answer, `client.begin("Wait", id="a")` gives a future of it.
    """

    def __init__(self, path: Path, wire: str = "ttrpc", *, namespace: str = "test", service: str = TASK) -> None:
        self.wire = wire
        self.service = service
        self.metadata: dict[str, str] = {_KEYS[wire]: namespace} if namespace else {}
        self._path = path
        self._connection: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rpc-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method not in SERVICES[self.service]:
            raise AttributeError(method)
        return lambda **fields: self.begin(method, **fields).result(PATIENCE)

    def begin(
        self, method: str, *, metadata: Mapping[str, str] | None = None, timeout: float | None = None, **fields: Any
    ) -> "Future[Any]":
        """Call in the background."""
        request = SERVICES[self.service][method].request(**fields)
        call = self._ttrpc if self.wire == "ttrpc" else self._grpc
        given = self.metadata if metadata is None else metadata
        return asyncio.run_coroutine_threadsafe(call(method, request, given, timeout), self._loop)

    def close(self) -> None:
        """Leave, whatever calls are in progress."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(PATIENCE)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE)
            self._loop.close()

    async def _ttrpc(self, method: str, request: Any, metadata: Mapping[str, str], limit: float | None) -> Any:
        if self._connection is None:
            self._connection = asyncio.ensure_future(TtrpcClient.connect(self._path))
        client = await self._connection
        response = SERVICES[self.service][method].response
        return await client.call(self.service, method, request, response, metadata=metadata, timeout=limit)

    async def _grpc(self, method: str, request: Any, metadata: Mapping[str, str], limit: float | None) -> Any:
        if self._connection is None:
            self._connection = grpc.aio.insecure_channel(
                f"unix:{self._path}", [("grpc.use_local_subchannel_pool", 1)]
            )
        response = SERVICES[self.service][method].response
        call = self._connection.unary_unary(
            f"/{self.service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            return await call(request, metadata=tuple(metadata.items()), timeout=limit)
        except grpc.aio.AioRpcError as error:
            raise RpcError(_CODES[error.code()], error.details() or "") from None

    async def _close(self) -> None:
        if isinstance(self._connection, asyncio.Future):
            await (await self._connection).close()
        elif self._connection is not None:
            await self._connection.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def controller(path: Path, namespace: str = "test") -> Client:
    """A client of the Sandbox Controller."""
    return Client(path, "grpc", namespace=namespace, service=CONTROLLER)
