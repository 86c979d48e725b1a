"""What a handler of ours needs to know of a call, whatever transport brought it; and what its log line names."""

import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from wasm_sandboxer.api.services import Rpc
from wasm_sandboxer.errors import InvalidArgument
from wasm_sandboxer.rpc.transport.call import Method
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode

_NAMESPACE_KEYS = ("containerd-namespace-ttrpc", "containerd-namespace")
# Asked often, or told by nobody: of interest only to who debugs, also where the daemon's own end cuts them off.
# And so are execs, which are probes as a rule.
_QUIET = frozenset({"State", "Status", "Platform", "Pids", "Connect", "Stats", "Metrics", "Wait", "List"})
# Part of the ordinary course of a container's end.
_EXPECTED = frozenset({StatusCode.NOT_FOUND, StatusCode.CANCELLED, StatusCode.FAILED_PRECONDITION})
_log = logging.getLogger("wasm_sandboxer.rpc")
_Handler = TypeVar("_Handler", bound=Callable[..., Coroutine[Any, Any, Any]])


class Context(Protocol):
    """A call: ttrpc's Call, or the like made from gRPC's context."""

    service: str
    method: str
    request: Any
    sandbox: str

    @property
    def metadata(self) -> Any:
        """Keys in lower case to values."""


def namespace_of(context: Context) -> str:
    """Containerd's namespace; raises InvalidArgument without one."""
    for key in _NAMESPACE_KEYS:
        if value := context.metadata.get(key):
            return str(value)
    raise InvalidArgument(f"the call names no namespace: metadata {_NAMESPACE_KEYS[1]} is missing")


def to_the_end(handler: _Handler) -> _Handler:
    """Let a handler that changes something run to its end even if its client has gone or lost patience.

    What it has begun is then whole, and containerd's next call finds it: after a failed Create it sends Delete.
    """
    vars(handler)["to_the_end"] = True
    return handler


def only_waits(handler: _Handler) -> _Handler:
    """Have a server that stops not wait for a handler that does nothing else."""
    vars(handler)["only_waits"] = True
    return handler


def method_of(rpc: Rpc, handler: Callable[..., Any], *, any_thread: bool = False) -> Method:
    """A handler as the method that a transport serves."""
    return Method(
        rpc.request,
        rpc.response,
        handler,
        any_thread=any_thread,
        to_the_end=getattr(handler, "to_the_end", False),
        waits=getattr(handler, "only_waits", False),
    )


def log_call(context: Context, error: RpcError | None, seconds: float) -> None:
    """One line for each call: what, on whom, how it ended, how long it took."""
    request = context.request
    quiet = context.method in _QUIET or bool(getattr(request, "exec_id", ""))
    level = logging.DEBUG if quiet else logging.INFO
    cut_off = error is not None and error.code is StatusCode.UNAVAILABLE and context.method in _QUIET
    if error is not None and error.code not in _EXPECTED and not cut_off:
        level = logging.WARNING
    if not _log.isEnabledFor(level):
        return
    fields = {
        "rpc": context.method,
        "namespace": next((context.metadata[key] for key in _NAMESPACE_KEYS if key in context.metadata), ""),
        "sandbox": getattr(request, "sandbox_id", "") or context.sandbox,
        "container": getattr(request, "id", ""),
        "exec": getattr(request, "exec_id", ""),
        "outcome": "ok" if error is None else error.code.name.lower(),
        "ms": round(seconds * 1000, 2),
    }
    message = "" if error is None else f": {error.message}"
    shown = {name: value for name, value in fields.items() if value != ""}
    _log.log(level, "%s %s%s", context.method, shown["outcome"], message, extra={"fields": shown})
