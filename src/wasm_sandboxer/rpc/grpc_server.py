"""The gRPC socket: handlers that know no transport, served by grpc.aio.

Every pod holds an open Wait, so no call may cost a thread.
"""

import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from wasm_sandboxer.api.services import SERVICES
from wasm_sandboxer.rpc.call import Context
from wasm_sandboxer.rpc.errors import translate
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode

_MOST_BYTES = 16 << 20  # containerd's own bound on messages
_log = logging.getLogger(__name__)
_CODES = {code.value[0]: code for code in grpc.StatusCode}


Observe: TypeAlias = Callable[[Context, RpcError | None, float], None]


class GrpcCall:
    """A gRPC call as our handlers see it."""

    __slots__ = ("_context", "method", "request", "service")

    def __init__(self, service: str, method: str, request: Message, context: Any) -> None:
        self.service = service
        self.method = method
        self.request = request
        self._context = context

    @property
    def metadata(self) -> dict[str, str]:
        """Keys in lower case to values."""
        return {key: value for key, value in self._context.invocation_metadata() if isinstance(value, str)}


def make_server(handlers: dict[str, Any], observe: Observe) -> grpc.aio.Server:
    """A server for these services, by their full names; bind and start it. `observe` is told of every call."""
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", _MOST_BYTES), ("grpc.max_send_message_length", _MOST_BYTES)]
    )
    for service, handler in handlers.items():
        methods = {
            method: grpc.unary_unary_rpc_method_handler(
                _serve(service, method, getattr(handler, method), observe),
                request_deserializer=rpc.request.FromString,
                response_serializer=rpc.response.SerializeToString,
            )
            for method, rpc in SERVICES[service].items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    return server


def _serve(
    service: str, method: str, handler: Callable[..., Any], observe: Observe
) -> Callable[[Message, Any], Awaitable[Message]]:
    async def serve(request: Message, context: Any) -> Message:
        begun = time.perf_counter()
        call = GrpcCall(service, method, request, context)
        error: RpcError | None = None
        try:
            response = handler(request, call)
            if inspect.isawaitable(response):
                response = await response
        except Exception as failure:  # noqa: BLE001  # translated, or logged as the bug that it is
            error = failure if isinstance(failure, RpcError) else translate(failure)
            if error is None:
                _log.exception("%s failed", method)
                error = RpcError(StatusCode.INTERNAL, f"internal error: {type(failure).__name__}: {failure}")
        except BaseException:
            error = RpcError(StatusCode.CANCELLED, "the client has gone")
            raise
        finally:
            observe(call, error, time.perf_counter() - begun)
        if error is not None:
            await context.abort(_CODES[error.code.value], error.message)
        result: Message = response
        return result

    return serve
