"""What happens to containers, for containerd's event stream; and the queue that keeps it while nobody listens."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

_log = logging.getLogger(__name__)


class Topic(StrEnum):
    """Kinds of events, by containerd's topics."""

    CREATE = "/tasks/create"
    START = "/tasks/start"
    EXIT = "/tasks/exit"
    DELETE = "/tasks/delete"
    OOM = "/tasks/oom"
    EXEC_ADDED = "/tasks/exec-added"
    EXEC_STARTED = "/tasks/exec-started"
    PAUSED = "/tasks/paused"
    RESUMED = "/tasks/resumed"


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a container; `details` are the fields of the topic's message."""

    topic: Topic
    namespace: str
    container: str
    details: Mapping[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)


class EventQueue:
    """Events in their order, until they are sent; loop thread only. Adding never waits."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._events: deque[Event] = deque()
        self._added = asyncio.Event()
        self._emptied = asyncio.Event()
        self._lost = 0

    def add(self, event: Event) -> None:
        """Append an event; with too many, the oldest goes, which is logged once per stretch."""
        if len(self._events) >= self._most:
            self._events.popleft()
            if not self._lost:
                _log.error("more than %d events wait for containerd: the oldest are dropped", self._most)
            self._lost += 1
        self._events.append(event)
        self._added.set()

    async def first(self) -> Event:
        """The oldest event, which stays until done() is called."""
        while not self._events:
            self._added.clear()
            await self._added.wait()
        return self._events[0]

    def done(self, event: Event) -> None:
        """The oldest event was sent."""
        if self._events and self._events[0] is event:
            self._events.popleft()
        if not self._events:
            self._emptied.set()
        if self._lost:
            _log.error("%d events were dropped before containerd could be reached", self._lost)
            self._lost = 0

    async def drained(self) -> None:
        """Wait until everything has been sent."""
        while self._events:
            self._emptied.clear()
            await self._emptied.wait()

    def __len__(self) -> int:
        return len(self._events)
