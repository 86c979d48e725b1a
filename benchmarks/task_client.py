"""The Task service from its socket, without containerd: bundles made by hand, and the calls that containerd makes."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from google.protobuf.message import Message

from benchmarks.guests import example
from wasm_sandboxer.api import admin_pb2, cgroups_v1_pb2, cgroups_v2_pb2, task_pb2, types_pb2, typeurl
from wasm_sandboxer.api.services import ADMIN, SERVICES, TASK
from wasm_sandboxer.linux import mount
from wasm_sandboxer.rpc.ttrpc import TtrpcClient
from wasm_sandboxer.spec import SANDBOX_ID

NAMESPACE = "bench"
_METADATA = {"containerd-namespace-ttrpc": NAMESPACE}
_EMPTY = ("proc", "sysfs", "mqueue", "devpts", "cgroup")


class Bundle:
    """A bundle of its own id; `fifos` gives it streams that nobody need read, or that whoever opens them reads."""

    def __init__(
        self,
        folder: Path,
        image: Path,
        args: list[str],
        *,
        overlay: bool = False,
        fifos: bool = False,
        stdin: bool = False,
        sandbox: str = "",
        resources: Mapping[str, Any] | None = None,
        isolation: str = "",
        linux: Mapping[str, Any] | None = None,
    ) -> None:
        """`resources` are the spec's own (linux.resources); a `sandbox` is one that has been started.

        `isolation` is thread or process, `linux` more of the spec's fields of that name.
        """
        self.folder = folder
        self.id = folder.name
        folder.mkdir()
        spec = _spec(args, "rootfs" if overlay else str(image), sandbox, resources or {"cpu": {"shares": 2}})
        spec["linux"] |= linux or {}
        if isolation:
            spec["annotations"]["wasm-sandboxer.io/isolation"] = isolation
        (folder / "config.json").write_text(json.dumps(spec))
        self.rootfs: list[types_pb2.Mount] = []
        if overlay:
            for name in ("rootfs", "upper", "work"):
                (folder / name).mkdir()
            options = [f"lowerdir={image}", f"upperdir={folder}/upper", f"workdir={folder}/work"]
            self.rootfs.append(types_pb2.Mount(type="overlay", source="overlay", options=options))
        self.stdout, self.stderr = (str(folder / name) if fifos else "" for name in ("stdout", "stderr"))
        self.stdin = str(folder / "stdin") if stdin else ""
        for path in filter(None, (self.stdin, self.stdout, self.stderr)):
            os.mkfifo(path)


class Bundles:
    """Bundles of one image, on a tmpfs of their own, which overlays take where the machine's own root is one."""

    def __init__(self, folder: Path, prefix: str = "b") -> None:
        """Mount it; close() unmounts. Ids are the prefix and a number."""
        self._folder = folder
        self._prefix = prefix
        folder.mkdir()
        mount.mount("tmpfs", folder, "tmpfs")
        self._image = folder / "image"
        self._image.mkdir()
        for name in ("hello", "sleep", "spin"):
            (self._image / f"{name}.wasm").write_bytes(example(name).read_bytes())
        self._made = 0

    def add(self, name: str, data: bytes) -> None:
        """Put another file into the image."""
        (self._image / name).write_bytes(data)

    def make(self, *args: str, **options: Any) -> Bundle:
        """A new bundle that runs these arguments, the module first; `options` are Bundle's."""
        self._made += 1
        return Bundle(self._folder / f"{self._prefix}{self._made}", self._image, list(args), **options)

    def close(self) -> None:
        """Remove everything."""
        mount.unmount(self._folder, mount.MNT_DETACH)


def _spec(args: list[str], root: str, sandbox: str, resources: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json much as CRI writes it."""
    annotations = {"io.kubernetes.cri.container-type": "container"}
    if sandbox:
        annotations[SANDBOX_ID] = sandbox
    return {
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=bench"],
            "cwd": "/",
            "capabilities": {each: ["CAP_CHOWN", "CAP_KILL"] for each in ("bounding", "effective", "permitted")},
        },
        "root": {"path": root},
        "mounts": [{"destination": f"/{kind}", "type": kind, "source": kind, "options": []} for kind in _EMPTY],
        "annotations": annotations,
        "linux": {"resources": dict(resources), "maskedPaths": ["/proc/kcore"], "namespaces": []},
    }


class TaskClient:
    """The calls, over one connection."""

    def __init__(self, client: TtrpcClient) -> None:
        self._client = client

    @classmethod
    async def connect(cls, socket: Path) -> Self:
        """Dial a daemon's ttrpc socket."""
        return cls(await TtrpcClient.connect(socket))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def create(self, bundle: Bundle) -> str:
        """Make the container of a bundle; its id."""
        request = task_pb2.CreateTaskRequest(
            id=bundle.id,
            bundle=str(bundle.folder),
            rootfs=bundle.rootfs,
            stdin=bundle.stdin,
            stdout=bundle.stdout,
            stderr=bundle.stderr,
        )
        await self._call("Create", request)
        return bundle.id

    async def start(self, ident: str) -> None:
        """Start its guest."""
        await self._call("Start", task_pb2.StartRequest(id=ident))

    async def wait(self, ident: str) -> int:
        """Its exit code, once it has ended."""
        return int((await self._call("Wait", task_pb2.WaitRequest(id=ident))).exit_status)

    async def kill(self, ident: str, signal: int = 9) -> None:
        """Send a signal."""
        await self._call("Kill", task_pb2.KillRequest(id=ident, signal=signal))

    async def delete(self, ident: str) -> None:
        """Take it down."""
        await self._call("Delete", task_pb2.DeleteRequest(id=ident))

    async def cpu(self, ident: str) -> float:
        """Seconds of CPU of the guest, as its control group counts them."""
        stats = await self.stats(ident)
        if typeurl.holds(stats, cgroups_v1_pb2.Metrics):
            return typeurl.unpack(stats, cgroups_v1_pb2.Metrics).cpu.usage.total / 1e9
        return typeurl.unpack(stats, cgroups_v2_pb2.Metrics).cpu.usage_usec / 1e6

    async def stats(self, ident: str) -> Any:
        """What it uses, as it comes."""
        return (await self._call("Stats", task_pb2.StatsRequest(id=ident))).stats

    async def connect_task(self, ident: str) -> int:
        """Who serves it: the daemon's process."""
        return int((await self._call("Connect", task_pb2.ConnectRequest(id=ident))).shim_pid)

    async def state(self, ident: str) -> int:
        """Its state's number."""
        return int((await self._call("State", task_pb2.StateRequest(id=ident))).status)

    async def pid(self, ident: str) -> int:
        """Its thread."""
        return int((await self._call("State", task_pb2.StateRequest(id=ident))).pid)

    async def pause(self, ident: str) -> None:
        """Hold it."""
        await self._call("Pause", task_pb2.PauseRequest(id=ident))

    async def resume(self, ident: str) -> None:
        """Let it go on."""
        await self._call("Resume", task_pb2.ResumeRequest(id=ident))

    async def list(self) -> admin_pb2.ListResponse:
        """Everything the daemon has."""
        answer: admin_pb2.ListResponse = await self._call("List", admin_pb2.ListRequest(), ADMIN)
        return answer

    async def _call(self, method: str, request: Message, service: str = TASK) -> Any:
        response = SERVICES[service][method].response
        return await self._client.call(service, method, request, response, metadata=_METADATA)
