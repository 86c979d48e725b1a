"""What a handler of ours needs to know of a call, whatever transport brought it; and what its log line names."""

import logging
from typing import Any, Protocol

from wasm_sandboxer.errors import InvalidArgument
from wasm_sandboxer.rpc.ttrpc.status import RpcError, StatusCode

_NAMESPACE_KEYS = ("containerd-namespace-ttrpc", "containerd-namespace")
# Asked often, or told by nobody: of interest only to who debugs.
_QUIET = frozenset({"State", "Status", "Platform", "Pids", "Connect", "Stats", "Metrics", "Wait", "List"})
# Part of the ordinary course of a container's end.
_EXPECTED = frozenset({StatusCode.NOT_FOUND, StatusCode.CANCELLED, StatusCode.FAILED_PRECONDITION})
_log = logging.getLogger("wasm_sandboxer.rpc")


class Context(Protocol):
    """A call: ttrpc's Call, or the like made from gRPC's context."""

    service: str
    method: str
    request: Any

    @property
    def metadata(self) -> Any:
        """Keys in lower case to values."""


def namespace_of(context: Context) -> str:
    """Containerd's namespace; raises InvalidArgument without one."""
    for key in _NAMESPACE_KEYS:
        if value := context.metadata.get(key):
            return str(value)
    raise InvalidArgument(f"the call names no namespace: metadata {_NAMESPACE_KEYS[1]} is missing")


def log_call(context: Context, error: RpcError | None, seconds: float) -> None:
    """One line for each call: what, on whom, how it ended, how long it took."""
    level = logging.DEBUG if context.method in _QUIET else logging.INFO
    if error is not None and error.code not in _EXPECTED:
        level = logging.WARNING
    if not _log.isEnabledFor(level):
        return
    request = context.request
    fields = {
        "rpc": context.method,
        "namespace": next((context.metadata[key] for key in _NAMESPACE_KEYS if key in context.metadata), ""),
        "sandbox": getattr(request, "sandbox_id", ""),
        "container": getattr(request, "id", ""),
        "exec": getattr(request, "exec_id", ""),
        "outcome": "ok" if error is None else error.code.name.lower(),
        "ms": round(seconds * 1000, 2),
    }
    message = "" if error is None else f": {error.message}"
    shown = {name: value for name, value in fields.items() if value != ""}
    _log.log(level, "%s %s%s", context.method, shown["outcome"], message, extra={"fields": shown})
