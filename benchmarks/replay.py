"""A pod's calls, as containerd makes them, from a client that does nothing else: what a pod costs a daemon by itself.

Between two calls of containerd's, containerd has the processor and its caches, and the daemon is asleep. Here each
call follows upon the answer to the one before, so that what is left is the daemon's own work.
"""

import asyncio
from types import TracebackType
from typing import Any, Self

import grpc

from benchmarks.node import Daemon
from benchmarks.task_client import NAMESPACE, Bundle, Bundles, TaskClient
from wasm_sandboxer.api.services import CONTROLLER, SERVICES
from wasm_sandboxer.errors import WasmSandboxerError
from wasm_sandboxer.rpc.ttrpc import RpcError

_METADATA = (("containerd-namespace", NAMESPACE),)


class Replay:
    """Plays pods to one daemon; a context manager."""

    def __init__(self, daemon: Daemon, bundles: Bundles) -> None:
        self._daemon = daemon
        self._bundles = bundles
        self._made = 0

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(f"unix:{self._daemon.listen}")
        self._tasks = await TaskClient.connect(self._daemon.task_listen)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._tasks.__aexit__(kind, error, trace)
        await self._channel.close()

    def bundle(self) -> tuple[str, Bundle]:
        """A sandbox's id, and the bundle of a container in it."""
        self._made += 1
        name = f"replay{self._made}"
        return name, self._bundles.make("/hello.wasm", overlay=True, fifos=True, sandbox=name)

    async def pod(self, sandbox: str, bundle: Bundle) -> None:
        """A pod from its creation to its removal, in the order that containerd 2.1 asks."""
        tasks = self._tasks
        await self._ask("Create", sandbox)
        await self._ask("Start", sandbox)
        waiting = asyncio.ensure_future(self._ask("Wait", sandbox))
        await self._statuses(sandbox, 3)
        await self._ask("Platform", sandbox)
        await self._statuses(sandbox, 1)
        ident = await tasks.create(bundle)
        for _ in range(2):
            await tasks.connect_task(ident)
        ended = asyncio.ensure_future(tasks.wait(ident))
        await tasks.start(ident)
        await tasks.state(ident)
        await ended
        await tasks.state(ident)
        try:
            await tasks.kill(ident)
        except RpcError:  # it has ended, as containerd is told too
            pass
        else:
            raise WasmSandboxerError(f"{ident} should have ended")
        await tasks.connect_task(ident)
        await self._statuses(sandbox, 1)
        await tasks.wait(ident)
        await tasks.state(ident)
        await tasks.delete(ident)
        await self._statuses(sandbox, 1)
        await self._ask("Stop", sandbox)
        await waiting
        await self._statuses(sandbox, 2)
        await self._ask("Shutdown", sandbox)

    async def _statuses(self, sandbox: str, count: int) -> None:
        for _ in range(count):
            await self._ask("Status", sandbox)

    async def _ask(self, method: str, sandbox: str) -> Any:
        rpc = SERVICES[CONTROLLER][method]
        call = self._channel.unary_unary(
            f"/{CONTROLLER}/{method}",
            request_serializer=rpc.request.SerializeToString,
            response_deserializer=rpc.response.FromString,
        )
        return await call(rpc.request(sandbox_id=sandbox), metadata=_METADATA)
