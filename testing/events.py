"""Owns the waiting for containers' events: what the kubelet hears of starts and exits without asking."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc

from testing.protos import enum

KINDS = enum("cri.proto", "runtime.v1.ContainerEventType")


class Events:
    """Follows containerd's events in a thread, from entering on; ends with the stream, be it by a restart.

    containerd makes the same events whether or not somebody listens, so following them costs a benchmark
    little.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._changed = threading.Condition()
        self._seen: dict[tuple[str, str], Any] = {}
        self._ended: Exception | None = None

    def __enter__(self) -> Self:
        self._stream = self._call()
        self._thread = threading.Thread(target=self._follow, name="cri-events", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.cancel()
        self._thread.join(10)

    @property
    def seen(self) -> list[tuple[str, str]]:
        """The events so far, in order: a kind (STARTED and so on) and the id of a container or pod."""
        with self._changed:
            return list(self._seen)

    def wait(self, kind: str, container: str, timeout: float = 30) -> Any:
        """Wait for CREATED, STARTED, STOPPED or DELETED of a container or pod, be it seen or yet to come."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while (kind, container) not in self._seen:
                if self._ended is not None:
                    raise ConnectionError(f"no {kind} of {container}: the events ended") from self._ended
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"no {kind} of {container} in {timeout} s")
            return self._seen[kind, container]

    def _follow(self) -> None:
        try:
            for event in self._stream:
                kind = KINDS[event.container_event_type].removeprefix("CONTAINER_").removesuffix("_EVENT")
                with self._changed:
                    self._seen[kind, event.container_id] = event
                    self._changed.notify_all()
        except grpc.RpcError as error:
            self._end(error)
        else:
            self._end(ConnectionError("the stream ended"))

    def _end(self, error: Exception) -> None:
        with self._changed:
            self._ended = error
            self._changed.notify_all()
