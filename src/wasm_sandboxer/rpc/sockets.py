"""The daemon's two sockets: sandboxes by gRPC, containers by ttrpc and, for who prefers it, by gRPC too."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from wasm_sandboxer.api.services import ADMIN, CONTROLLER, SERVICES, TASK
from wasm_sandboxer.config import Config
from wasm_sandboxer.errors import FailedPrecondition, InvalidArgument, Unavailable
from wasm_sandboxer.rpc.call import method_of
from wasm_sandboxer.rpc.errors import translate
from wasm_sandboxer.rpc.grpc import GrpcServer
from wasm_sandboxer.rpc.transport.call import Observe
from wasm_sandboxer.rpc.ttrpc import Method, TtrpcServer

_LONGEST_SOCKET = 107  # unix(7)


def task_address(config: Config) -> str:
    """Where containerd is told to create containers."""
    return f"ttrpc+unix://{config.task_listen}"


def check_paths(config: Config) -> None:
    """Raise InvalidArgument for paths that cannot be those of sockets."""
    if config.listen == config.task_listen:
        raise InvalidArgument(f"listen and task_listen are both {config.listen}; each needs a socket of its own")
    for path in (config.listen, config.task_listen):
        if len(os.fsencode(path)) > _LONGEST_SOCKET:
            raise InvalidArgument(f"{path} is too long for a socket: at most {_LONGEST_SOCKET} bytes, unix(7)")


@asynccontextmanager
async def sockets(config: Config, controller: Any, task: Any, admin: Any, *, observe: Observe) -> AsyncIterator[None]:
    """Both sockets, bound and served by these handlers; on the way out calls get a short while to end.

    The folders must be the caller's alone: what a dead daemon left in the sockets' places is removed. Raises
    Unavailable, FailedPrecondition.
    """
    tasks = _methods(TASK, task)
    sandboxes = _methods(CONTROLLER, controller, controller.FROM_ANY_THREAD)
    ttrpc = TtrpcServer({TASK: tasks, ADMIN: _methods(ADMIN, admin)}, observe=observe, translate=translate)
    grpc = GrpcServer({CONTROLLER: sandboxes, TASK: tasks}, observe=observe, translate=translate)
    async with AsyncExitStack() as undo:
        listening = _bind(config.task_listen, undo)
        _bind_grpc(grpc, config.listen, undo)
        await ttrpc.start(listening)
        grpc.start()
        undo.push_async_callback(_stop, ttrpc, grpc, config.shutdown_timeout * 0.1)
        yield


async def _stop(ttrpc: TtrpcServer, grpc: GrpcServer, grace: float) -> None:
    await asyncio.gather(ttrpc.stop(grace), grpc.stop(grace))  # the first may take three times the grace period


def _methods(service: str, handlers: Any, any_thread: frozenset[str] = frozenset()) -> dict[str, Method]:
    """A service's methods, by its handlers of the same names."""
    return {
        name: method_of(rpc, getattr(handlers, name), any_thread=name in any_thread)
        for name, rpc in SERVICES[service].items()
    }


def _bind(path: Path, undo: AsyncExitStack) -> socket.socket:
    _clear(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    undo.callback(listening.close)
    try:
        with _private():
            listening.bind(str(path))
    except OSError as error:
        raise Unavailable(f"cannot listen on {path}: {error.strerror}") from None
    undo.callback(path.unlink, missing_ok=True)
    return listening


def _bind_grpc(grpc: GrpcServer, path: Path, undo: AsyncExitStack) -> None:
    _clear(path)
    try:
        with _private():
            grpc.bind(path)
    except OSError:
        raise Unavailable(f"cannot listen on {path}") from None
    undo.callback(path.unlink, missing_ok=True)


@contextmanager
def _private() -> Iterator[None]:
    """Files made meanwhile are their owner's alone."""
    mask = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(mask)


def _clear(path: Path) -> None:
    """Remove a socket that a dead daemon left: the lock says that none lives."""
    if path.is_socket():
        path.unlink()
    elif path.exists():
        raise FailedPrecondition(f"{path} is in the way of a socket and is none itself")
