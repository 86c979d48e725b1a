"""Asking the running daemon, over its ttrpc socket."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from wasm_sandboxer.api import admin_pb2
from wasm_sandboxer.api.services import ADMIN, SERVICES
from wasm_sandboxer.config import RUN
from wasm_sandboxer.errors import InvalidArgument, NotFound, Unavailable, WasmSandboxerError
from wasm_sandboxer.rpc.ttrpc import RpcError, TtrpcClient

_F = TypeVar("_F", bound=Callable[..., Any])
_TIMEOUT = 10.0


def address_option(function: _F) -> _F:
    """--address, which says where the daemon is."""
    return click.option(
        "--address", type=click.Path(path_type=Path), default=RUN / "task.sock", show_default=True,
        envvar="WASM_SANDBOXER_TASK_SOCKET", help="The daemon's ttrpc socket.",
    )(function)  # fmt: skip


def ask(address: Path, service: str, method: str, request: Any, namespace: str = "") -> Any:
    """The daemon's answer; raises Unavailable if none is there, or the error it answers with."""
    return asyncio.run(_ask(address, service, method, request, namespace))


def listing(address: Path) -> admin_pb2.ListResponse:
    """Everything the daemon has."""
    answer: admin_pb2.ListResponse = ask(address, ADMIN, "List", admin_pb2.ListRequest())
    return answer


def find(containers: Any, wanted: str) -> admin_pb2.Container:
    """The container of this id or name, or the only one whose id begins so; raises NotFound, InvalidArgument."""
    exact = [each for each in containers if wanted in (each.id, each.name)]
    matches = exact or [each for each in containers if each.id.startswith(wanted)]
    if not matches:
        raise NotFound(f"no container {wanted!r}; `wasm-sandboxer ps --all` lists them")
    if len(matches) > 1:
        raise InvalidArgument(f"{wanted!r} is the id or name of {len(matches)} containers; give more of the id")
    container: admin_pb2.Container = matches[0]
    return container


async def _ask(address: Path, service: str, method: str, request: Any, namespace: str) -> Any:
    response = SERVICES[service][method].response
    try:
        async with await TtrpcClient.connect(address) as client:
            metadata = {"containerd-namespace-ttrpc": namespace} if namespace else {}
            return await client.call(service, method, request, response, timeout=_TIMEOUT, metadata=metadata)
    except PermissionError:
        raise Unavailable(f"you may not talk to the daemon at {address}: you are user {os.geteuid()}") from None
    except OSError as error:
        raise Unavailable(
            f"no daemon answers at {address} ({error.strerror}); is `wasm-sandboxer serve` up?"
        ) from None
    except RpcError as error:
        raise WasmSandboxerError(error.message) from None
