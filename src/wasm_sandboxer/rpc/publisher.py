"""Sending events to containerd, in order, again and again until it takes them."""

import asyncio
import logging
from pathlib import Path

from google.protobuf.empty_pb2 import Empty

from wasm_sandboxer.api import events_pb2, types_pb2, typeurl
from wasm_sandboxer.core.events import Event, EventQueue
from wasm_sandboxer.rpc.convert import event_message, timestamp
from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode, TtrpcClient

# containerd's event service for shims: the message is that of the gRPC one's Forward.
_SERVICE = "containerd.services.events.ttrpc.v1.Events"
_TIMEOUT = 5.0
# What the event itself is refused for, so that sending it again is no use.
_NEVER = frozenset({StatusCode.INVALID_ARGUMENT, StatusCode.FAILED_PRECONDITION, StatusCode.OUT_OF_RANGE})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_log = logging.getLogger(__name__)


class Publisher:
    """Empties the queue towards containerd's ttrpc socket, beside its gRPC one."""

    def __init__(self, queue: EventQueue, containerd: Path) -> None:
        self._queue = queue
        self._address = containerd.with_name(f"{containerd.name}.ttrpc")
        self._client: TtrpcClient | None = None

    async def run(self) -> None:
        """Send until cancelled."""
        pause = _FIRST_PAUSE
        while True:
            event = await self._queue.first()
            try:
                await self._send(event)
            except (OSError, RpcError) as error:
                if isinstance(error, RpcError) and error.code in _NEVER:
                    _log.error("containerd refuses the event %s of %s: %s", event.topic, event.container, error)
                    self._queue.done(event)
                    continue
                if pause == _FIRST_PAUSE:
                    _log.info("containerd takes no events at %s (%s); they wait", self._address, error)
                await self._drop_client()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            except Exception:  # noqa: BLE001  # a bug of ours, which must not keep all later events
                _log.exception("the event %s of %s cannot be sent", event.topic, event.container)
                self._queue.done(event)
            else:
                self._queue.done(event)
                pause = _FIRST_PAUSE

    async def _send(self, event: Event) -> None:
        if self._client is None:
            self._client = await TtrpcClient.connect(self._address)
        envelope = types_pb2.Envelope(
            timestamp=timestamp(event.time),
            namespace=event.namespace,
            topic=event.topic,
            event=typeurl.pack(event_message(event)),
        )
        request = events_pb2.ForwardRequest(envelope=envelope)
        metadata = {"containerd-namespace-ttrpc": event.namespace}
        await self._client.call(_SERVICE, "Forward", request, Empty, timeout=_TIMEOUT, metadata=metadata)

    async def _drop_client(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None
