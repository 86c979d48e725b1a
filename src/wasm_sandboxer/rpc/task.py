"""containerd's Task v3: each handler translates, calls the core, translates back, and holds nothing.

A plain function answers at once and costs no task; it must not wait. A coroutine may.
"""

import asyncio
import os
from contextlib import suppress
from typing import Any

from google.protobuf.empty_pb2 import Empty

from wasm_sandboxer import __version__
from wasm_sandboxer.api import task_pb2 as pb
from wasm_sandboxer.api import task_types_pb2, typeurl
from wasm_sandboxer.core.sandboxer import Sandboxer
from wasm_sandboxer.core.task import Task as DomainTask
from wasm_sandboxer.core.task import TaskProcess
from wasm_sandboxer.core.usage import task_usage
from wasm_sandboxer.errors import InvalidArgument, NotFound, Unsupported
from wasm_sandboxer.rpc.call import Context, namespace_of, to_the_end
from wasm_sandboxer.rpc.convert import exit_status, state_response, stream_names, task_request, timestamp
from wasm_sandboxer.rpc.dropped import Dropped
from wasm_sandboxer.rpc.metrics import metrics_message
from wasm_sandboxer.spec import parse_process, parse_resources


class Task:
    """The handlers, by the names of the RPCs."""

    def __init__(self, sandboxer: Sandboxer, dropped: Dropped) -> None:
        self._sandboxer = sandboxer
        self._dropped = dropped

    @to_the_end
    async def Create(self, request: pb.CreateTaskRequest, context: Context) -> pb.CreateTaskResponse:
        """Make a container ready."""
        await self._dropped.settle(namespace_of(context), request.id)
        task = await self._sandboxer.create_task(task_request(request, namespace_of(context)))
        context.sandbox = task.sandbox
        return pb.CreateTaskResponse(pid=task.init.pid)

    @to_the_end
    async def Start(self, request: pb.StartRequest, context: Context) -> pb.StartResponse:
        """Start its first process, or an exec."""
        return pb.StartResponse(pid=await self._task(request, context).start(request.exec_id))

    @to_the_end
    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:
        """Take it down."""
        if request.exec_id:
            process = await self._task(request, context).delete_exec(request.exec_id)
        else:
            with suppress(NotFound):  # it may be in the making, and is waited for
                self._task(request, context)
            process = await self._sandboxer.delete_task(namespace_of(context), request.id)
        return pb.DeleteResponse(
            pid=process.pid, exit_status=exit_status(process), exited_at=timestamp(process.exited_at)
        )

    @to_the_end
    async def Exec(self, request: pb.ExecProcessRequest, context: Context) -> Empty:
        """Make another process ready in it."""
        if not typeurl.holds(request.spec, typeurl.PROCESS):
            raise InvalidArgument(f"exec {request.exec_id}: the spec is {request.spec.type_url!r}, no process")
        process = parse_process(request.spec.value)
        await self._task(request, context).add_exec(request.exec_id, process, stream_names(request))
        return Empty()

    async def Wait(self, request: pb.WaitRequest, context: Context) -> pb.WaitResponse:
        """Return when a process has ended; any number may wait."""
        process = self._process(request, context)
        await asyncio.shield(process.exited)
        return pb.WaitResponse(exit_status=exit_status(process), exited_at=timestamp(process.exited_at))

    @to_the_end
    async def Kill(self, request: pb.KillRequest, context: Context) -> Empty:
        """Send a signal."""
        await self._task(request, context).kill(request.exec_id, request.signal, everyone=request.all)
        return Empty()

    @to_the_end
    async def Pause(self, request: pb.PauseRequest, context: Context) -> Empty:
        """Hold it."""
        await self._task(request, context).pause()
        return Empty()

    @to_the_end
    async def Resume(self, request: pb.ResumeRequest, context: Context) -> Empty:
        """Let it go on."""
        await self._task(request, context).resume()
        return Empty()

    def State(self, request: pb.StateRequest, context: Context) -> pb.StateResponse:
        """How a process is."""
        task = self._task(request, context)
        return state_response(task.id, request.exec_id, task.bundle, task.process(request.exec_id))

    def Pids(self, request: pb.PidsRequest, context: Context) -> pb.PidsResponse:
        """At least one for every container that exists, or containerd deletes it at its next start."""
        task = self._task(request, context)
        processes = [task.init, *(each for each in task.execs.values() if each.run.pid)]
        return pb.PidsResponse(processes=[task_types_pb2.ProcessInfo(pid=each.pid) for each in processes])

    def Connect(self, request: pb.ConnectRequest, context: Context) -> pb.ConnectResponse:
        """Who serves the container."""
        task = self._task(request, context)
        return pb.ConnectResponse(shim_pid=os.getpid(), task_pid=task.init.pid, version=__version__)

    def ResizePty(self, request: pb.ResizePtyRequest, context: Context) -> Empty:
        """Tell a terminal its size."""
        self._process(request, context).streams.resize(request.width, request.height)
        return Empty()

    def CloseIO(self, request: pb.CloseIORequest, context: Context) -> Empty:
        """Let a process come to the end of its input."""
        process = self._process(request, context)
        if request.stdin:
            process.streams.close_stdin()
        return Empty()

    @to_the_end
    async def Update(self, request: pb.UpdateTaskRequest, context: Context) -> Empty:
        """Change limits, at once."""
        if request.resources.type_url and not typeurl.holds(request.resources, typeurl.LINUX_RESOURCES):
            raise InvalidArgument(f"container {request.id}: {request.resources.type_url!r} are no Linux resources")
        namespace = namespace_of(context)
        self._sandboxer.task(namespace, request.id)  # whether there is one, before what is asked of it
        if request.resources.value:
            await self._sandboxer.update_task(namespace, request.id, parse_resources(request.resources.value))
        return Empty()

    def Stats(self, request: pb.StatsRequest, context: Context) -> pb.StatsResponse:
        """What the container uses, as far as the engine and its threads know."""
        usage, memory = task_usage(self._task(request, context))
        return pb.StatsResponse(stats=metrics_message(self._sandboxer.cgroup_version, usage, memory))

    def Checkpoint(self, request: pb.CheckpointTaskRequest, context: Context) -> Empty:
        """Never: no engine here can write a running instance down."""
        self._task(request, context)
        raise Unsupported(
            f"cannot checkpoint container {request.id}: no engine here can save a running WebAssembly instance"
        )

    def Shutdown(self, request: pb.ShutdownRequest, context: Context) -> Empty:
        """Meant for a shim of one container's own; this daemon serves the others still."""
        del request, context
        return Empty()

    def _task(self, request: Any, context: Context) -> DomainTask:
        task = self._sandboxer.task(namespace_of(context), request.id)
        context.sandbox = task.sandbox
        return task

    def _process(self, request: Any, context: Context) -> TaskProcess:
        return self._task(request, context).process(request.exec_id)
