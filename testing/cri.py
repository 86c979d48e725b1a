"""Owns what a test says to containerd through the Container Runtime Interface, in the place of the kubelet.

`Cri.runtime` and `Cri.images` are the bare calls; the methods of `Cri` are what tests mostly mean by them. As
the kubelet does, they make the log folder, name logs `NAME/ATTEMPT.log` and repeat the pod's configuration
for every container. All of it may be called from several threads at once.
"""

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from testing.events import Events
from testing.protos import Stub, enum
from testing.streaming import Forward, Session, Wire

FILE = "cri.proto"
MAX_MESSAGE = 16 << 20
"""As the kubelet allows: the output of ExecSync comes in one message."""

POD_STATES = enum(FILE, "runtime.v1.PodSandboxState")
CONTAINER_STATES = enum(FILE, "runtime.v1.ContainerState")
_NODE = 2
_CONTAINER = 1


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod sandbox and what it was made from."""

    id: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The pod's name."""
        return str(self.config["metadata"]["name"])

    @property
    def logs(self) -> Path:
        """Where its containers' logs lie."""
        return Path(self.config["log_directory"])


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container of a pod."""

    id: str
    pod: Pod
    log: Path | None


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A volume: a file or folder of the host at a path of the container.

    `recursive` is what the kubelet makes of recursiveReadOnly; containerd refuses it where a handler lacks it.
    """

    source: Path
    target: str
    readonly: bool = False
    recursive: bool = False

    def message(self) -> dict[str, Any]:
        """The mount as CRI spells it."""
        return {
            "container_path": self.target,
            "host_path": str(self.source),
            "readonly": self.readonly,
            "recursive_read_only": self.recursive,
        }


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """A line of a container's log; a partial one goes on in its stream's next, or ended without a newline."""

    time: str
    stream: str
    partial: bool
    text: bytes


@dataclass(frozen=True, kw_only=True)
class ExecResult:
    """What ExecSync brought back."""

    stdout: bytes
    stderr: bytes
    exit_code: int


class Cri:
    """A client of one containerd, which need not run yet.

    `logs` is where pods' log folders are made, `cgroup` the parent of the pods' cgroups unless they name one.
    """

    def __init__(self, address: Path, *, logs: Path, cgroup: str = "", deadline: float = 60) -> None:
        self.address = address
        self._logs = logs
        self._cgroup = cgroup
        self._deadline = deadline
        # A restarted containerd is found again within half a second, not after gRPC's usual minutes.
        self._channel = grpc.insecure_channel(
            f"unix:{address}",
            options=[
                ("grpc.enable_http_proxy", 0),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.min_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 500),
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self.runtime = Stub(self._channel, "runtime.v1.RuntimeService", file=FILE, deadline=deadline)
        self.images = Stub(self._channel, "runtime.v1.ImageService", file=FILE, deadline=deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the client is of no use afterwards."""
        self._channel.close()

    def conditions(self) -> dict[str, bool]:
        """RuntimeReady, NetworkReady and the like."""
        return {condition.type: condition.status for condition in self.runtime.Status(deadline=5).status.conditions}

    def handlers(self) -> dict[str, Any]:
        """The RuntimeHandlerFeatures of each handler; the default one has an empty name too."""
        return {each.name: each.features for each in self.runtime.Status().runtime_handlers}

    def events(self) -> Events:
        """Follow the containers' events, as a context manager."""
        return Events(self.runtime.GetContainerEvents)

    # Pods

    def run_pod(
        self,
        name: str = "pod",
        *,
        handler: str = "wasm",
        namespace: str = "default",
        uid: str | None = None,
        attempt: int = 0,
        host_network: bool = False,
        hostname: str | None = None,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        dns: Mapping[str, Sequence[str]] | None = None,
        cgroup_parent: str | None = None,
        sysctls: Mapping[str, str] | None = None,
        resources: Mapping[str, Any] | None = None,
        deadline: float | None = None,
    ) -> Pod:
        """Run a pod sandbox and give it once it is ready.

        `dns` has `servers`, `searches` and `options`, `resources` are fields of LinuxContainerResources, for all its
        containers together. For `cgroup_parent` see Containerd.cgroup_parent.
        """
        uid = uid or str(uuid.uuid4())
        logs = self._logs / f"{namespace}_{name}_{uid}"
        logs.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "metadata": {"name": name, "uid": uid, "namespace": namespace, "attempt": attempt},
            "hostname": "" if host_network else hostname or name,
            "log_directory": str(logs),
            "labels": dict(labels or {}),
            "annotations": dict(annotations or {}),
            "linux": {
                "cgroup_parent": self._cgroup if cgroup_parent is None else cgroup_parent,
                "sysctls": dict(sysctls or {}),
                "resources": dict(resources or {}),
                "security_context": {"namespace_options": _namespaces(host_network=host_network)},
            },
        }
        if dns is not None:
            config["dns_config"] = {key: list(value) for key, value in dns.items()}
        answer = self.runtime.RunPodSandbox(config=config, runtime_handler=handler, deadline=deadline)
        return Pod(id=answer.pod_sandbox_id, config=config)

    def pod_status(self, pod: Pod, *, verbose: bool = False) -> Any:
        """The PodSandboxStatus; with `verbose` the whole answer, which also has `info`."""
        answer = self.runtime.PodSandboxStatus(pod_sandbox_id=pod.id, verbose=verbose)
        return answer if verbose else answer.status

    def pod_state(self, pod: Pod) -> str:
        """SANDBOX_READY or SANDBOX_NOTREADY."""
        return POD_STATES[self.pod_status(pod).state]

    def pods(self) -> list[Any]:
        """All pods that containerd knows."""
        return list(self.runtime.ListPodSandbox().items)

    def stop_pod(self, pod: Pod, *, deadline: float | None = None) -> None:
        """Stop a pod and its containers, without grace."""
        self.runtime.StopPodSandbox(pod_sandbox_id=pod.id, deadline=deadline)

    def remove_pod(self, pod: Pod, *, deadline: float | None = None) -> None:
        """Remove a pod and its containers, running or not."""
        self.runtime.RemovePodSandbox(pod_sandbox_id=pod.id, deadline=deadline)

    def discard(self, pod: Pod) -> None:
        """Stop and remove a pod."""
        self.stop_pod(pod)
        self.remove_pod(pod)

    def purge(self, timeout: float = 30) -> None:
        """Stop and remove every pod; raises grpc.RpcError at the first that will not go."""
        deadline = time.monotonic() + timeout
        for pod in self.pods():
            for call in (self.runtime.StopPodSandbox, self.runtime.RemovePodSandbox):
                call(pod_sandbox_id=pod.id, deadline=max(deadline - time.monotonic(), 0.1))

    def pod_stats(self, pod: Pod) -> Any:
        """The PodSandboxStats; containerd up to 2.3 needs the pod's cgroup for them."""
        return self.runtime.PodSandboxStats(pod_sandbox_id=pod.id).stats

    def all_pod_stats(self) -> list[Any]:
        """The PodSandboxStats of all ready pods; up to 2.3 all fail if the cgroup of one cannot be read."""
        return list(self.runtime.ListPodSandboxStats().stats)

    def port_forward(self, pod: Pod, port: int, *, wire: Wire = Wire.WEBSOCKET) -> Forward:
        """Connect to a port on the pod's localhost."""
        url = self.runtime.PortForward(pod_sandbox_id=pod.id, port=[port]).url
        return Forward(url, port, wire)

    # Containers

    def create(
        self,
        pod: Pod,
        image: str,
        *,
        name: str = "main",
        attempt: int = 0,
        command: Sequence[str] = (),
        args: Sequence[str] = (),
        envs: Mapping[str, str] | None = None,
        workdir: str = "",
        mounts: Iterable[Mount] = (),
        log: bool = True,
        stdin: bool = False,
        stdin_once: bool = False,
        tty: bool = False,
        resources: Mapping[str, Any] | None = None,
        security: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        deadline: float | None = None,
    ) -> Container:
        """Create a container of an imported image; `log` false leaves its output to no one.

        `resources` are fields of LinuxContainerResources, `security` of LinuxContainerSecurityContext.
        """
        log_path = f"{name}/{attempt}.log" if log else ""
        if log:
            (pod.logs / name).mkdir(exist_ok=True)
        network = pod.config["linux"]["security_context"]["namespace_options"]["network"]
        config = {
            "metadata": {"name": name, "attempt": attempt},
            "image": {"image": image},
            "command": list(command),
            "args": list(args),
            "working_dir": workdir,
            "envs": [{"key": key, "value": value} for key, value in (envs or {}).items()],
            "mounts": [mount.message() for mount in mounts],
            "labels": dict(labels or {}),
            "annotations": dict(annotations or {}),
            "log_path": log_path,
            "stdin": stdin,
            "stdin_once": stdin_once,
            "tty": tty,
            "linux": {
                "resources": dict(resources or {}),
                "security_context": {
                    "namespace_options": _namespaces(host_network=network == _NODE),
                    **(security or {}),
                },
            },
        }
        answer = self.runtime.CreateContainer(
            pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config, deadline=deadline
        )
        return Container(id=answer.container_id, pod=pod, log=pod.logs / log_path if log else None)

    def start(self, container: Container, *, deadline: float | None = None) -> None:
        """Start a created container."""
        self.runtime.StartContainer(container_id=container.id, deadline=deadline)

    def run(self, pod: Pod, image: str, **settings: Any) -> Container:
        """Create a container, with the settings of `create`, and start it."""
        container = self.create(pod, image, **settings)
        self.start(container)
        return container

    def status(self, container: Container) -> Any:
        """The ContainerStatus."""
        return self.runtime.ContainerStatus(container_id=container.id).status

    def info(self, container: Container) -> dict[str, Any]:
        """What only the verbose status tells, among it the spec that the runtime was given."""
        found: dict[str, Any] = json.loads(
            self.runtime.ContainerStatus(container_id=container.id, verbose=True).info["info"]
        )
        return found

    def state(self, container: Container) -> str:
        """CONTAINER_CREATED, _RUNNING, _EXITED or _UNKNOWN."""
        return CONTAINER_STATES[self.status(container).state]

    def containers(self) -> list[Any]:
        """All containers that containerd knows."""
        return list(self.runtime.ListContainers().containers)

    def wait_exit(self, container: Container, timeout: float = 30) -> Any:
        """Wait until a container has exited and give its status; its log is whole then. Raises TimeoutError.

        Asks again and again; where many wait at once, `events` costs less.
        """
        deadline = time.monotonic() + timeout
        pause = 0.002
        while True:
            status = self.status(container)
            if CONTAINER_STATES[status.state] == "CONTAINER_EXITED":
                return status
            if time.monotonic() > deadline:
                raise TimeoutError(f"{container.id} is {CONTAINER_STATES[status.state]} after {timeout} s")
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def stop(self, container: Container, grace: int = 0, *, deadline: float | None = None) -> None:
        """Stop a container: its stop signal, `grace` seconds, SIGKILL."""
        limit = deadline or self._deadline + grace
        self.runtime.StopContainer(container_id=container.id, timeout=grace, deadline=limit)

    def remove(self, container: Container) -> None:
        """Remove a container, running or not; its log stays."""
        self.runtime.RemoveContainer(container_id=container.id)

    def update(self, container: Container, **resources: Any) -> None:
        """Change limits in place: fields of LinuxContainerResources."""
        self.runtime.UpdateContainerResources(container_id=container.id, linux=resources)

    def stats(self, container: Container) -> Any:
        """The ContainerStats."""
        return self.runtime.ContainerStats(container_id=container.id).stats

    def all_stats(self) -> list[Any]:
        """The ContainerStats of all running containers, which fail all together."""
        return list(self.runtime.ListContainerStats().stats)

    # Output

    def log_lines(self, container: Container) -> list[LogLine]:
        """A container's log, as containerd has written it so far."""
        if container.log is None or not container.log.exists():
            return []
        whole, _, _ = container.log.read_bytes().rpartition(b"\n")  # the last may be half written
        return [_log_line(line) for line in whole.split(b"\n") if line]

    def output(self, container: Container, stream: str = "stdout") -> bytes:
        """What a container has written to one stream, put together from its log."""
        lines = [line for line in self.log_lines(container) if line.stream == stream]
        return b"".join(line.text + (b"" if line.partial else b"\n") for line in lines)

    def wait_output(self, container: Container, text: bytes, *, stream: str = "stdout", timeout: float = 30) -> bytes:
        """Wait until a container has written `text`, and give all it has written. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while text not in (found := self.output(container, stream)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{container.id} wrote {found[-200:]!r} to {stream}, not {text!r}")
            time.sleep(0.01)
        return found

    def reopen_log(self, container: Container) -> None:
        """Have containerd open the log anew, after it was moved away."""
        self.runtime.ReopenContainerLog(container_id=container.id)

    # Other programs, other streams

    def exec_sync(self, container: Container, command: Sequence[str], timeout: int = 30) -> ExecResult:
        """Run a command in a container and wait for it; containerd kills it after `timeout` seconds."""
        answer = self.runtime.ExecSync(
            container_id=container.id, cmd=list(command), timeout=timeout, deadline=timeout + 30
        )
        return ExecResult(stdout=answer.stdout, stderr=answer.stderr, exit_code=answer.exit_code)

    def exec(
        self,
        container: Container,
        command: Sequence[str],
        *,
        stdin: bool = False,
        tty: bool = False,
        wire: Wire = Wire.WEBSOCKET,
    ) -> Session:
        """Run a command in a container with its own streams; SPDY if its stdin shall end before it does."""
        answer = self.runtime.Exec(
            container_id=container.id, cmd=list(command), stdin=stdin, tty=tty, stdout=True, stderr=not tty
        )
        return Session(answer.url, wire, stdin=stdin, tty=tty)

    def attach(
        self,
        container: Container,
        *,
        stdin: bool = False,
        tty: bool = False,
        wire: Wire = Wire.WEBSOCKET,
    ) -> Session:
        """Attach to a running container's streams; SPDY if its stdin shall end before it does."""
        answer = self.runtime.Attach(container_id=container.id, stdin=stdin, tty=tty, stdout=True, stderr=not tty)
        return Session(answer.url, wire, stdin=stdin, tty=tty)

    # Images

    def image(self, reference: str) -> Any | None:
        """The Image of that name, or None."""
        answer = self.images.ImageStatus(image={"image": reference})
        return answer.image if answer.HasField("image") else None

    def image_names(self) -> list[str]:
        """The names of all images."""
        return [tag for image in self.images.ListImages().images for tag in image.repo_tags]

    def remove_image(self, reference: str) -> None:
        """Remove an image; fine if there is none."""
        self.images.RemoveImage(image={"image": reference})


def _namespaces(*, host_network: bool) -> dict[str, int]:
    """As the kubelet asks by default: a container has its own pid namespace, and shares the pod's others."""
    return {"network": _NODE if host_network else 0, "pid": _CONTAINER, "ipc": 0}


def _log_line(line: bytes) -> LogLine:
    """`TIME STREAM TAG[:TAG…] TEXT`, the tag P for a partial line and F for a full one."""
    when, stream, tags, text = line.split(b" ", 3)
    return LogLine(time=when.decode(), stream=stream.decode(), partial=tags.split(b":")[0] == b"P", text=text)
