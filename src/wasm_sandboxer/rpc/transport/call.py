"""What the transport and its users say to each other: methods, the context of one call, the hooks.

Values only; server.py and dispatch.py act on them.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from google.protobuf.message import Message

from wasm_sandboxer.rpc.transport.status import RpcError

__all__ = ["Call", "Handler", "Limits", "Method", "Observe", "Services", "Translate"]


class Call:
    """One call, as its handler and the observer see it."""

    __slots__ = ("deadline", "metadata", "method", "request", "sandbox", "service", "timeout")

    def __init__(self, service: str, method: str, metadata: Mapping[str, str]) -> None:
        self.service = service
        self.method = method
        self.metadata = metadata
        """Keys in lower case; of a key that was sent several times, the first value."""
        self.request: Message | None = None
        """The method's request, once it could be read."""
        self.sandbox = ""
        """The sandbox it is about, where its request does not say that: the handler's to set, for the observer."""
        self.timeout: float | None = None
        """Seconds the client grants, from the call's arrival."""
        self.deadline: float | None = None
        """When they are over, by the event loop's clock. The handler is cancelled then, unless it goes to the end."""


Handler: TypeAlias = Callable[[Any, Call], Awaitable[Message] | Message]
"""Given the request and its call; answers, or returns something to await that will.

A plain function is the faster of the two: it costs no task. It runs in the event loop, so it must not block.
"""

Observe: TypeAlias = Callable[[Call, RpcError | None, float], None]
"""Called once for each call when it ends: the call, its error or None, and its duration in seconds."""

Translate: TypeAlias = Callable[[Exception], RpcError | None]
"""Makes an error of the caller's own into the one to answer with; None if it does not know it."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method that the server offers."""

    request: type[Message]
    response: type[Message]
    handler: Handler
    any_thread: bool = False
    """The handler is a plain function that only reads what any thread may read."""
    to_the_end: bool = False
    """The handler is not cancelled when its client has gone or its time is up: what it began shall be whole."""
    waits: bool = False
    """The handler only waits, perhaps for what never comes: a server that stops does not wait for it."""


Services: TypeAlias = Mapping[str, Mapping[str, Method]]
"""By the service's full name, then by the method's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one connection may ask for. The defaults are guesses, far above what containerd does."""

    calls: int = 4096
    """Calls in progress; more are answered with RESOURCE_EXHAUSTED."""
    unread: int = 16 << 20
    """Bytes of answers that the client has not read; with more it is dropped."""
    stalled: float = 60.0
    """Seconds in which the client has read nothing at all of what waits for it; then it is dropped."""
