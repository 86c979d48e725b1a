"""A gRPC server on a Unix socket: one thread takes calls in, the event loop or that thread itself answers them.

Every pod holds an open Wait, so a call that waits costs no thread.
"""

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from wasm_sandboxer.linux import syscall
from wasm_sandboxer.rpc.grpc.call import GrpcCall, message_of, was_cancelled
from wasm_sandboxer.rpc.grpc.core import core
from wasm_sandboxer.rpc.transport.call import Limits, Observe, Services, Translate
from wasm_sandboxer.rpc.transport.dispatch import Dispatcher
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode

__all__ = ["GrpcServer"]

_MOST_BYTES = 16 << 20  # containerd's own bound on messages
# Calls in progress: one for each sandbox of the node, and what is asked besides. A guess, far above both.
_MOST_CALLS = 65536
_OPTIONS = (
    (b"grpc.max_receive_message_length", _MOST_BYTES),
    (b"grpc.max_send_message_length", _MOST_BYTES),
    # Calls that have come and are not taken in yet; above 1,000, the default, the core throws dice. After a restart
    # containerd sends a Wait for every sandbox at once.
    (b"grpc.server.max_pending_requests", _MOST_CALLS),
    (b"grpc.server.max_pending_requests_hard_limit", _MOST_CALLS),
    # Pings to find out how far away the client is.
    (b"grpc.http2.bdp_probe", 0),
)
# Seconds for what was cancelled to end; at most the grace period.
_LAST = 1.0
_log = logging.getLogger(__name__)


class GrpcServer:
    """Serves the given methods. All its methods are for the event loop's thread.

    A method that is marked so is answered in the server's own thread. `observe` and `translate` are as for
    transport.Server, and are called in either thread.
    """

    def __init__(self, services: Services, *, observe: Observe, translate: Translate) -> None:
        self.services = services
        self.observe = observe
        self.translate = translate
        self.limits = Limits(calls=_MOST_CALLS)
        self.stopping = False
        self._loop = asyncio.get_running_loop()
        self._in_loop = Dispatcher(self, self)
        self._in_thread = Dispatcher(self, self)
        self._routes = {
            f"/{service}/{name}".encode(): (service, name, method.any_thread)
            for service, methods in services.items()
            for name, method in methods.items()
        }
        self._calls: dict[int, GrpcCall] = {}  # those not answered yet; each is put in and taken out in one step
        self._numbers = itertools.count(1)
        self._queue = core.CompletionQueue()
        self._core = core.Server(_OPTIONS, False)
        self._core.register_completion_queue(self._queue)
        self._thread = threading.Thread(target=self._work, name="grpc", daemon=True)
        self._drained: asyncio.Future[None] = self._loop.create_future()

    def bind(self, path: Path) -> None:
        """Listen on a Unix socket that is not there yet; raises OSError."""
        if not self._core.add_http2_port(f"unix:{path}".encode()):
            raise OSError(f"grpc cannot listen on {path}")

    def start(self) -> None:
        """Serve."""
        self._core.start()
        self._request()
        self._thread.start()

    async def stop(self, grace: float) -> None:
        """Accept nothing more, let calls that do more than wait end for `grace` seconds, cancel the rest and close.

        Returns within `grace` and two seconds, or within three times `grace` if that is less. Once only.
        """
        if self.stopping:
            return
        last = min(_LAST, grace)
        self.stopping = True
        self._core.shutdown(self._queue, self._shut_down)
        await self._settle(grace, waiting=False)
        self._in_loop.cancel(RpcError(StatusCode.UNAVAILABLE, "the server is stopping"))
        await self._settle(last)
        self._core.cancel_all_calls()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._drained), last)
            self._queue.shutdown()
            await asyncio.to_thread(self._thread.join, last)
            self._core.destroy()

    async def _settle(self, seconds: float, *, waiting: bool = True) -> None:
        """Wait until no handler runs; not `waiting`, but for those that only wait."""
        if tasks := self._in_loop.tasks(waiting=waiting):
            await asyncio.wait(tasks, timeout=seconds)

    # ---- answers, from the dispatchers ----

    def succeed(self, stream: int, response: Message) -> None:
        """See Answers."""
        payload = response.SerializeToString()
        if (call := self._calls.pop(stream, None)) is not None:
            call.succeed(payload)

    def fail(self, stream: int, error: RpcError) -> None:
        """See Answers."""
        if (call := self._calls.pop(stream, None)) is not None:
            call.fail(error)

    # ---- the server's thread ----

    def _work(self) -> None:
        """Have each thing that the core reports dealt with by its tag."""
        syscall.set_thread_name("grpc")
        done = core.CompletionType.queue_shutdown
        while True:
            event = self._queue.poll()
            if event.completion_type == done:
                return
            try:
                event.tag(event)
            except Exception:  # noqa: BLE001  # a bug of ours, which must not end all other calls
                _log.exception("gRPC: a call failed")
            event = None  # what it holds must not live until the next one comes

    def _request(self) -> None:
        with suppress(ValueError):  # the server is stopping
            self._core.request_call(self._queue, self._queue, self._accept)

    def _accept(self, event: Any) -> None:
        if not event.success:  # the server is stopping, and this stands for no call
            return
        self._request()
        call = GrpcCall(event)
        call.read(partial(self._receive, call))

    def _receive(self, call: GrpcCall, event: Any) -> None:
        payload = message_of(event)
        if payload is None:
            call.fail(RpcError(StatusCode.INVALID_ARGUMENT, "the call came without a request"))
            return
        stream = next(self._numbers)
        self._calls[stream] = call
        metadata = {key: value for key, value in call.metadata if isinstance(value, str)}
        service, method, any_thread = self._routes.get(call.path) or _unknown(call.path)
        if any_thread:
            self._in_thread.open(stream, service, method, payload, metadata)
        else:
            call.watch(partial(self._closed, stream))
            self._tell_loop(self._in_loop.open, stream, service, method, payload, metadata)

    def _closed(self, stream: int, event: Any) -> None:
        if was_cancelled(event):
            self._tell_loop(self._abandon, stream)

    def _shut_down(self, _event: Any) -> None:
        self._tell_loop(self._drained.set_result, None)

    def _tell_loop(self, callback: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(callback, *arguments)

    # ---- on the loop ----

    def _abandon(self, stream: int) -> None:
        """The client has gone, or its time was up."""
        self._calls.pop(stream, None)
        self._in_loop.abandon(stream, RpcError(StatusCode.CANCELLED, "the client has gone"))


def _unknown(path: bytes) -> tuple[str, str, bool]:
    """The service and method that were asked for, for the dispatcher to refuse."""
    service, _, method = path.decode("utf-8", "replace").removeprefix("/").rpartition("/")
    return service, method, False
