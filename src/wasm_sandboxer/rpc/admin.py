"""The daemon's own service: what its command line shows."""

import os
import time

from wasm_sandboxer import __version__
from wasm_sandboxer.api import admin_pb2 as pb
from wasm_sandboxer.core.sandbox import Sandbox
from wasm_sandboxer.core.sandboxer import Sandboxer
from wasm_sandboxer.core.task import Task
from wasm_sandboxer.core.usage import sandbox_usage, task_usage
from wasm_sandboxer.rpc.call import Context
from wasm_sandboxer.rpc.convert import exit_status, timestamp

_NAME = "io.kubernetes.cri.container-name"  # annotations that CRI gives its containers
_IMAGE = "io.kubernetes.cri.image-name"
_POD = "io.kubernetes.cri.sandbox-name"


class Admin:
    """The handlers, by the names of the RPCs."""

    def __init__(self, sandboxer: Sandboxer) -> None:
        self._sandboxer = sandboxer
        self._started_at = time.time()

    def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:
        """Everything there is, of all namespaces."""
        del request, context
        return pb.ListResponse(
            daemon=pb.Daemon(version=__version__, pid=os.getpid(), started_at=timestamp(self._started_at)),
            sandboxes=[_sandbox(sandbox) for sandbox in self._sandboxer.sandboxes()],
            containers=[_container(task) for task in self._sandboxer.tasks()],
        )


def _sandbox(sandbox: Sandbox) -> pb.Sandbox:
    usage, memory = sandbox_usage(sandbox)
    return pb.Sandbox(
        namespace=sandbox.record.namespace,
        id=sandbox.id,
        name=sandbox.record.name,
        handler=sandbox.record.handler,
        ready=sandbox.ready,
        created_at=timestamp(sandbox.record.created_at),
        netns=sandbox.record.netns_path,
        cpu_usec=usage.cpu,
        memory=memory.used,
        memory_resident=memory.resident,
        memory_limit=memory.limit or 0,
        threads=usage.pids,
        containers=len(sandbox.tasks),
        memory_kills=memory.kills,
    )


def _container(task: Task) -> pb.Container:
    process = task.init
    usage, memory = task_usage(task)
    end = process.exited.result() if process.exited.done() else None
    function = f"#{task.guest.function}" if task.guest.function else ""
    return pb.Container(
        namespace=task.namespace,
        id=task.id,
        sandbox=task.sandbox,
        pod=task.annotations.get(_POD, ""),
        name=task.annotations.get(_NAME, ""),
        image=task.annotations.get(_IMAGE, ""),
        module=f"{task.guest.argv[0]}{function}",
        args=task.guest.argv[1:],
        state=process.state,
        pid=process.run.pid,
        created_at=timestamp(task.created_at),
        started_at=timestamp(process.started_at),
        exited_at=timestamp(process.exited_at),
        exit_status=exit_status(process),
        reason=end.reason if end is not None else "",
        message=end.message if end is not None else "",
        cpu_usec=usage.cpu,
        memory=memory.used,
        memory_resident=memory.resident,
        memory_peak=memory.peak,
        memory_limit=memory.limit or 0,
        memory_kills=memory.kills,
        threads=usage.pids,
        execs=sum(1 for each in task.execs.values() if not each.exited.done()),
        bundle=str(task.bundle),
        preopens=[
            pb.Preopen(guest=each.guest, host=str(each.source or each.host), writable=each.writable)
            for each in task.guest.preopens
        ],
    )
