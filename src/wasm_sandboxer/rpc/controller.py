"""containerd's Sandbox Controller: each handler translates, calls the core, translates back, and holds nothing."""

import asyncio
import os
import time
from typing import Any

from wasm_sandboxer.api import sandbox_pb2 as pb
from wasm_sandboxer.api import types_pb2
from wasm_sandboxer.core.sandbox import Sandbox, SandboxView
from wasm_sandboxer.core.sandboxer import Sandboxer
from wasm_sandboxer.core.usage import sandbox_usage
from wasm_sandboxer.rpc.call import Context, namespace_of, only_waits, to_the_end
from wasm_sandboxer.rpc.convert import platform_message, sandbox_record, timestamp, updated_resources
from wasm_sandboxer.rpc.metrics import metrics_message

TASK_VERSION = 3
READY, NOT_READY = "SANDBOX_READY", "SANDBOX_NOTREADY"


class Controller:
    """The handlers, by the names of the RPCs."""

    FROM_ANY_THREAD = frozenset({"Platform", "Status"})
    """Those that only read; containerd calls them ten times for a pod."""

    def __init__(self, sandboxer: Sandboxer, task_address: str) -> None:
        self._sandboxer = sandboxer
        self._task_address = task_address

    def Create(self, request: pb.ControllerCreateRequest, context: Context) -> pb.ControllerCreateResponse:
        """Register a sandbox."""
        self._sandboxer.create_sandbox(sandbox_record(request, namespace_of(context)))
        return pb.ControllerCreateResponse(sandbox_id=request.sandbox_id)

    @to_the_end
    async def Start(self, request: pb.ControllerStartRequest, context: Context) -> pb.ControllerStartResponse:
        """Make it ready, and say where its containers are created."""
        sandbox = await self._sandboxer.start_sandbox(namespace_of(context), request.sandbox_id)
        return pb.ControllerStartResponse(
            sandbox_id=sandbox.id,
            created_at=timestamp(sandbox.record.created_at),
            labels=sandbox.record.labels,
            address=self._task_address,
            version=TASK_VERSION,
        )

    def Platform(self, request: pb.ControllerPlatformRequest, context: Context) -> pb.ControllerPlatformResponse:
        """Which images fit."""
        self._view(request, context)
        return pb.ControllerPlatformResponse(platform=platform_message())

    def Status(self, request: pb.ControllerStatusRequest, context: Context) -> pb.ControllerStatusResponse:
        """How the sandbox is; never waits."""
        view = self._view(request, context)
        record = view.record
        response = pb.ControllerStatusResponse(
            sandbox_id=record.id,
            state=READY if view.ready else NOT_READY,
            created_at=timestamp(record.created_at),
            exited_at=timestamp(record.exited_at),
            address=self._task_address,
            version=TASK_VERSION,
        )
        if request.verbose:
            response.info.update(
                daemon_pid=str(os.getpid()),
                containers=",".join(sorted(view.containers)),
                netns=record.netns_path,
                handler=record.handler,
            )
        return response

    @only_waits
    async def Wait(self, request: pb.ControllerWaitRequest, context: Context) -> pb.ControllerWaitResponse:
        """Return when the sandbox was stopped."""
        sandbox = self._sandbox(request, context)
        await asyncio.shield(sandbox.stopped)
        return pb.ControllerWaitResponse(exit_status=0, exited_at=timestamp(sandbox.record.exited_at))

    @to_the_end
    async def Stop(self, request: pb.ControllerStopRequest, context: Context) -> pb.ControllerStopResponse:
        """End its containers: a guest has no handler that a grace period would serve."""
        await self._sandboxer.stop_sandbox(namespace_of(context), request.sandbox_id)
        return pb.ControllerStopResponse()

    @to_the_end
    async def Shutdown(
        self, request: pb.ControllerShutdownRequest, context: Context
    ) -> pb.ControllerShutdownResponse:
        """Forget it."""
        await self._sandboxer.remove_sandbox(namespace_of(context), request.sandbox_id)
        return pb.ControllerShutdownResponse()

    def Metrics(self, request: pb.ControllerMetricsRequest, context: Context) -> pb.ControllerMetricsResponse:
        """What the sandbox uses; asked by containerd from 2.4 on, which looks at the host's groups before."""
        sandbox = self._sandbox(request, context)
        usage, memory = sandbox_usage(sandbox)
        data = metrics_message(self._sandboxer.cgroup_version, usage, memory)
        return pb.ControllerMetricsResponse(
            metrics=types_pb2.Metric(timestamp=timestamp(time.time()), id=sandbox.id, data=data)
        )

    @to_the_end
    async def Update(self, request: pb.ControllerUpdateRequest, context: Context) -> pb.ControllerUpdateResponse:
        """Take over what changed of the pod: its bounds, and nothing else that is kept here."""
        self._sandbox(request, context)
        if (resources := updated_resources(request)) is not None:
            await self._sandboxer.update_sandbox(namespace_of(context), request.sandbox_id, resources)
        return pb.ControllerUpdateResponse()

    def _sandbox(self, request: Any, context: Context) -> Sandbox:
        return self._sandboxer.sandbox(namespace_of(context), request.sandbox_id)

    def _view(self, request: Any, context: Context) -> SandboxView:
        return self._sandboxer.view(namespace_of(context), request.sandbox_id)
