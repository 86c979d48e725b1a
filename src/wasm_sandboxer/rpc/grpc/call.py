"""One call on grpcio's core: its request is read, its answer sent, its end reported. Knows no handler.

Each step is a batch of operations whose completion the queue reports by calling the batch's tag.
"""

from collections.abc import Callable
from typing import Any

from wasm_sandboxer.rpc.grpc.core import core
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode

__all__ = ["GrpcCall", "message_of", "was_cancelled"]

_NO_METADATA: tuple[()] = ()
# Bytes of an error's message. It travels as a header, some bytes as three, and clients take 8 KiB of headers.
_LONGEST = 2 << 10


class GrpcCall:
    """A call that has come. Any thread, one after another."""

    __slots__ = ("_core", "metadata", "path")

    def __init__(self, event: Any) -> None:
        """`event` is the core's, of a requested call."""
        self._core = event.call
        self.path: bytes = event.call_details.method
        self.metadata: tuple[tuple[str, Any], ...] = event.invocation_metadata

    def read(self, received: Callable[[Any], None]) -> None:
        """Have the request read; `message_of` takes it from the event that `received` is given."""
        self._core.start_server_batch((core.ReceiveMessageOperation(0),), received)

    def watch(self, closed: Callable[[Any], None]) -> None:
        """Have the call's end reported; `was_cancelled` tells from the event how it came."""
        self._core.start_server_batch((core.ReceiveCloseOnServerOperation(0),), closed)

    def succeed(self, payload: bytes) -> None:
        """Send the response, and with it the end."""
        self._core.start_server_batch(
            (
                core.SendInitialMetadataOperation(_NO_METADATA, 0),
                core.SendMessageOperation(payload, 0),
                core.SendStatusFromServerOperation(_NO_METADATA, core.StatusCode.ok, b"", 0),
            ),
            _sent,
        )

    def fail(self, error: RpcError) -> None:
        """Send an error in a response's place."""
        # A path that is not UTF-8 may have come into the text as surrogates.
        text = error.message[:_LONGEST].encode("utf-8", "backslashreplace")
        details = text[:_LONGEST].decode("utf-8", "ignore").encode()
        self._core.start_server_batch(
            (
                core.SendInitialMetadataOperation(_NO_METADATA, 0),
                core.SendStatusFromServerOperation(
                    # An error whose code is OK is a mistake, but must not read as success.
                    _NO_METADATA, int(error.code or StatusCode.UNKNOWN), details, 0
                ),
            ),
            _sent,
        )  # fmt: skip


def message_of(event: Any) -> bytes | None:
    """What `read` brought: the request, or None if the client sent none or has gone."""
    message: bytes | None = event.batch_operations[0].message()
    return message


def was_cancelled(event: Any) -> bool:
    """Whether what `watch` reported is that the client has gone or its time was up."""
    return bool(event.batch_operations[0].cancelled())


def _sent(_event: Any) -> None:
    """The answer is on its way, or nobody is there to take it."""
