"""Messages to domain values and back; pure."""

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from wasm_sandboxer.api import cri_pb2, sandbox_pb2, task_events_pb2, task_pb2, task_types_pb2, types_pb2, typeurl
from wasm_sandboxer.bundle.rootfs import RootMount
from wasm_sandboxer.bundle.streams import StreamNames
from wasm_sandboxer.core.events import Event, Topic
from wasm_sandboxer.core.sandbox import SandboxRecord
from wasm_sandboxer.core.task import Request, TaskProcess
from wasm_sandboxer.errors import InvalidArgument
from wasm_sandboxer.lifecycle import State
from wasm_sandboxer.spec import Resources

STATES = {
    State.CREATED: task_types_pb2.CREATED,
    State.RUNNING: task_types_pb2.RUNNING,
    State.PAUSED: task_types_pb2.PAUSED,
    State.STOPPED: task_types_pb2.STOPPED,
}
_UPDATED = "updated-resources"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_EVENTS: dict[Topic, type[Message]] = {
    Topic.CREATE: task_events_pb2.TaskCreate,
    Topic.START: task_events_pb2.TaskStart,
    Topic.EXIT: task_events_pb2.TaskExit,
    Topic.DELETE: task_events_pb2.TaskDelete,
    Topic.OOM: task_events_pb2.TaskOOM,
    Topic.EXEC_ADDED: task_events_pb2.TaskExecAdded,
    Topic.EXEC_STARTED: task_events_pb2.TaskExecStarted,
    Topic.PAUSED: task_events_pb2.TaskPaused,
    Topic.RESUMED: task_events_pb2.TaskResumed,
}


def timestamp(seconds: float) -> Timestamp | None:
    """Seconds since the epoch as a message; None for 0, which means never."""
    if not seconds:
        return None
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def platform_message() -> types_pb2.Platform:
    """What containerd shall take us for: Linux on this machine, since it refuses wasi."""
    machine = platform.machine()
    return types_pb2.Platform(os="linux", architecture=_MACHINES.get(machine, machine))


def sandbox_record(request: sandbox_pb2.ControllerCreateRequest, namespace: str) -> SandboxRecord:
    """The sandbox that Controller.Create describes; raises InvalidArgument."""
    pod = cri_pb2.PodSandboxConfig()
    if request.HasField("options") and typeurl.holds(request.options, cri_pb2.PodSandboxConfig):
        try:
            pod = typeurl.unpack(request.options, cri_pb2.PodSandboxConfig)
        except ValueError as error:
            raise InvalidArgument(f"sandbox {request.sandbox_id}: options: {error}") from None
    metadata = _metadata(request.sandbox)
    return SandboxRecord(
        namespace=namespace,
        id=request.sandbox_id,
        netns_path=request.netns_path,
        cgroup_parent=pod.linux.cgroup_parent,
        name=pod.metadata.name,
        resources=_known(_resources(pod.linux.resources)),
        hostname=pod.hostname,
        addresses=_addresses(metadata),
        dns=_dns(pod),
        handler=_text(metadata, "RuntimeHandler"),
        labels=dict(request.sandbox.labels),
        annotations={**pod.annotations, **request.annotations},
        sysctls=dict(pod.linux.sysctls),
    )


def updated_resources(request: sandbox_pb2.ControllerUpdateRequest) -> Resources | None:
    """The pod's new bounds, which containerd from 2.3 on sends as an extension; None where they are not what changed.

    Raises InvalidArgument. Source: UpdatePodSandboxResources in containerd's internal/cri/server.
    """
    extension = request.sandbox.extensions.get(_UPDATED)
    if "extensions" not in request.fields or extension is None:
        return None
    given = cri_pb2.LinuxContainerResources()
    try:
        json_format.ParseDict(json.loads(extension.value)["Resources"] or {}, given, ignore_unknown_fields=True)
    except (ValueError, KeyError, TypeError, AttributeError, json_format.ParseError) as error:
        raise InvalidArgument(f"sandbox {request.sandbox_id}: its extension {_UPDATED}: {error!r}") from None
    return _resources(given)


def _resources(given: cri_pb2.LinuxContainerResources) -> Resources:
    """The pod's own bounds, which the kubelet puts on all its containers together."""
    return Resources(
        memory=given.memory_limit_in_bytes or None,
        cpu_shares=given.cpu_shares or None,
        cpu_quota=given.cpu_quota or None,
        cpu_period=given.cpu_period or None,
        cpus=given.cpuset_cpus or None,
        mems=given.cpuset_mems or None,
    )


def _known(resources: Resources) -> dict[str, Any]:
    return {name: value for name, value in asdict(resources).items() if value is not None}


def _dns(pod: cri_pb2.PodSandboxConfig) -> dict[str, list[str]] | None:
    """The pod's own DNS; None where it has the host's."""
    if not pod.HasField("dns_config"):
        return None
    dns = pod.dns_config
    return {"servers": list(dns.servers), "searches": list(dns.searches), "options": list(dns.options)}


def _metadata(sandbox: types_pb2.Sandbox) -> dict[str, Any]:
    """What containerd's CRI keeps of the sandbox; empty for a sandbox of others."""
    try:
        metadata = json.loads(sandbox.extensions["metadata"].value)["Metadata"]
    except (ValueError, KeyError, TypeError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _addresses(metadata: dict[str, Any]) -> list[str]:
    """The pod's addresses: none on the host's network."""
    more = metadata.get("AdditionalIPs")
    found = [metadata.get("IP"), *(more if isinstance(more, list) else ())]
    return [each for each in found if isinstance(each, str) and each]


def _text(metadata: dict[str, Any], name: str) -> str:
    value = metadata.get(name)
    return value if isinstance(value, str) else ""


def task_request(request: task_pb2.CreateTaskRequest, namespace: str) -> Request:
    """The container that Task.Create describes; raises InvalidArgument."""
    if request.checkpoint:
        raise InvalidArgument(f"container {request.id}: a guest cannot be restored from a checkpoint")
    if not request.bundle.startswith("/"):
        raise InvalidArgument(f"container {request.id}: the bundle's path must be absolute, not {request.bundle!r}")
    return Request(
        namespace=namespace,
        id=request.id,
        bundle=Path(request.bundle),
        rootfs=tuple(
            RootMount(kind=each.type, source=each.source, target=each.target, options=tuple(each.options))
            for each in request.rootfs
        ),
        streams=stream_names(request),
    )


def stream_names(request: task_pb2.CreateTaskRequest | task_pb2.ExecProcessRequest) -> StreamNames:
    """The streams of a process, as given."""
    return StreamNames(stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, terminal=request.terminal)


def state_response(task_id: str, exec_id: str, bundle: Path, process: TaskProcess) -> task_pb2.StateResponse:
    """What State answers; the streams exactly as they were given."""
    names = process.streams.names
    response = task_pb2.StateResponse(
        id=task_id,
        exec_id=exec_id,
        bundle=str(bundle),
        pid=process.pid,
        status=STATES[process.state],
        stdin=names.stdin,
        stdout=names.stdout,
        stderr=names.stderr,
        terminal=names.terminal,
    )
    if process.exited.done():
        response.exit_status = exit_status(process)
        response.exited_at.CopyFrom(timestamp(process.exited_at) or Timestamp())
    return response


def exit_status(process: TaskProcess) -> int:
    """The exit code of a process that has ended, as eight bits; 0 of one that never ran."""
    return process.exited.result().code & 0xFF if process.exited.done() else 0


def event_message(event: Event) -> Message:
    """The message of an event."""
    details = dict(event.details)
    if "exited_at" in details:
        details["exited_at"] = timestamp(details["exited_at"])
    if event.topic is Topic.CREATE:
        names: StreamNames = details["io"]
        details["io"] = task_events_pb2.TaskIO(
            stdin=names.stdin, stdout=names.stdout, stderr=names.stderr, terminal=names.terminal
        )
        details["rootfs"] = [
            types_pb2.Mount(type=each.kind, source=each.source, target=each.target, options=each.options)
            for each in details["rootfs"]
        ]
    return _EVENTS[event.topic](container_id=event.container, **details)
