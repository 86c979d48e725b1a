"""What containerd asks, answered with as little as will do: `python -m benchmarks.bare` with serve's options.

The floor below the floor: the daemon's own sockets and events, and behind them nothing: no mount, no group, no
record, no stream, no thread. A container has ended as soon as it is started. What a pod costs here is what Python
takes for containerd's calls.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from google.protobuf.empty_pb2 import Empty

from benchmarks.null import configured
from wasm_sandboxer.api import sandbox_pb2, task_pb2, task_types_pb2
from wasm_sandboxer.config import Config
from wasm_sandboxer.core.events import Event, EventQueue, Topic
from wasm_sandboxer.errors import NotFound, Unsupported
from wasm_sandboxer.rpc.call import Context, log_call, namespace_of
from wasm_sandboxer.rpc.convert import platform_message, timestamp
from wasm_sandboxer.rpc.publisher import Publisher
from wasm_sandboxer.rpc.sockets import sockets, task_address


class Unasked:
    """Handlers of what containerd does not ask for a pod that starts, ends and is removed."""

    def __getattr__(self, name: str) -> Callable[[Any, Context], Any]:
        def refuse(request: Any, context: Context) -> Any:
            del request, context
            raise Unsupported(f"{name} is not what this is for")

        return refuse


class Controller(Unasked):
    """Sandboxes are names, and whether they were stopped."""

    FROM_ANY_THREAD = frozenset({"Platform", "Status"})

    def __init__(self, task_address: str) -> None:
        self._address = task_address
        self._stopped: dict[str, asyncio.Future[None]] = {}

    def Create(self, request: Any, context: Context) -> sandbox_pb2.ControllerCreateResponse:
        del context
        self._stopped[request.sandbox_id] = asyncio.get_running_loop().create_future()
        return sandbox_pb2.ControllerCreateResponse(sandbox_id=request.sandbox_id)

    def Start(self, request: Any, context: Context) -> sandbox_pb2.ControllerStartResponse:
        del context
        return sandbox_pb2.ControllerStartResponse(
            sandbox_id=request.sandbox_id, created_at=timestamp(time.time()), address=self._address, version=3
        )

    def Platform(self, request: Any, context: Context) -> sandbox_pb2.ControllerPlatformResponse:
        del request, context
        return sandbox_pb2.ControllerPlatformResponse(platform=platform_message())

    def Status(self, request: Any, context: Context) -> sandbox_pb2.ControllerStatusResponse:
        del context
        return sandbox_pb2.ControllerStatusResponse(
            sandbox_id=request.sandbox_id,
            state="SANDBOX_NOTREADY" if self._find(request).done() else "SANDBOX_READY",
            created_at=timestamp(time.time()),
            address=self._address,
            version=3,
        )

    async def Wait(self, request: Any, context: Context) -> sandbox_pb2.ControllerWaitResponse:
        del context
        await asyncio.shield(self._find(request))
        return sandbox_pb2.ControllerWaitResponse(exited_at=timestamp(time.time()))

    def Stop(self, request: Any, context: Context) -> sandbox_pb2.ControllerStopResponse:
        del context
        stopped = self._find(request)
        if not stopped.done():
            stopped.set_result(None)
        return sandbox_pb2.ControllerStopResponse()

    def Shutdown(self, request: Any, context: Context) -> sandbox_pb2.ControllerShutdownResponse:
        del context
        self._stopped.pop(request.sandbox_id, None)
        return sandbox_pb2.ControllerShutdownResponse()

    def _find(self, request: Any) -> "asyncio.Future[None]":
        try:
            return self._stopped[request.sandbox_id]
        except KeyError:
            raise NotFound(f"no sandbox {request.sandbox_id}") from None


class Task(Unasked):
    """Containers are names, and whether they were started."""

    def __init__(self, queue: EventQueue) -> None:
        self._queue = queue
        self._ended: dict[str, asyncio.Future[float]] = {}

    def Create(self, request: Any, context: Context) -> task_pb2.CreateTaskResponse:
        self._ended[request.id] = asyncio.get_running_loop().create_future()
        self._tell(Topic.CREATE, request, context, bundle=request.bundle, pid=os.getpid())
        return task_pb2.CreateTaskResponse(pid=os.getpid())

    def Start(self, request: Any, context: Context) -> task_pb2.StartResponse:
        now = time.time()
        self._find(request).set_result(now)
        self._tell(Topic.START, request, context, pid=os.getpid())
        self._tell(Topic.EXIT, request, context, id=request.id, pid=os.getpid(), exit_status=0, exited_at=now)
        return task_pb2.StartResponse(pid=os.getpid())

    def State(self, request: Any, context: Context) -> task_pb2.StateResponse:
        del context
        ended = self._find(request).done()
        status = task_types_pb2.STOPPED if ended else task_types_pb2.CREATED
        return task_pb2.StateResponse(id=request.id, pid=os.getpid(), status=status, exited_at=timestamp(time.time()))

    async def Wait(self, request: Any, context: Context) -> task_pb2.WaitResponse:
        del context
        return task_pb2.WaitResponse(exited_at=timestamp(await asyncio.shield(self._find(request))))

    def Connect(self, request: Any, context: Context) -> task_pb2.ConnectResponse:
        del request, context
        return task_pb2.ConnectResponse(shim_pid=os.getpid(), task_pid=os.getpid())

    def Kill(self, request: Any, context: Context) -> Empty:
        del context
        raise NotFound(f"container {request.id} has ended already")

    def Delete(self, request: Any, context: Context) -> task_pb2.DeleteResponse:
        now = time.time()
        self._find(request)
        del self._ended[request.id]
        self._tell(Topic.DELETE, request, context, pid=os.getpid(), exit_status=0, exited_at=now)
        return task_pb2.DeleteResponse(pid=os.getpid(), exited_at=timestamp(now))

    def _find(self, request: Any) -> "asyncio.Future[float]":
        try:
            return self._ended[request.id]
        except KeyError:
            raise NotFound(f"no container {request.id}") from None

    def _tell(self, topic: Topic, request: Any, context: Context, **details: Any) -> None:
        namespace = namespace_of(context)
        self._queue.add(Event(topic=topic, namespace=namespace, container=request.id, details=details))


async def _serve(config: Config) -> None:
    queue = EventQueue(config.event_queue)
    publishing = asyncio.create_task(Publisher(queue, config.containerd).run())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    for path in (config.listen, config.task_listen):
        path.parent.mkdir(parents=True, exist_ok=True)
    async with sockets(config, Controller(task_address(config)), Task(queue), Unasked(), observe=log_call):
        await stop.wait()
    publishing.cancel()


def main() -> None:
    asyncio.run(_serve(configured(__doc__)))


if __name__ == "__main__":
    main()
