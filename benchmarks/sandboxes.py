"""Sandboxes with bounds, and guests in them, at the sockets of a daemon without a containerd; needs root.

What the kernel has counted is read from its own files, by the groups that the daemon says it makes.
"""

import asyncio
import functools
import itertools
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.node import Daemon
from benchmarks.task_client import NAMESPACE, Bundles, TaskClient
from wasm_sandboxer.api import cri_pb2, sandbox_pb2, typeurl
from wasm_sandboxer.api.services import CONTROLLER, SERVICES
from wasm_sandboxer.core.identifiers import joined
from wasm_sandboxer.daemon import group_name
from wasm_sandboxer.linux.cgroup.host import Host, detect
from wasm_sandboxer.linux.cgroup.protocol import Group, GroupLimits, Usage

PERIOD = 100_000
_METADATA = (("containerd-namespace", NAMESPACE),)


@dataclass(frozen=True)
class Guest:
    """A guest that runs: its container's id, the group the kernel counts it in, and its output, if it has one."""

    id: str
    group: Group
    stdout: str

    def usage(self) -> Usage:
        """What the kernel has counted."""
        return self.group.usage()


class Sandboxes:
    """Makes sandboxes and guests in one daemon."""

    def __init__(self, daemon: Daemon, bundles: Bundles, tasks: TaskClient, channel: grpc.aio.Channel) -> None:
        self.daemon = daemon
        self.tasks = tasks
        self.bundles = bundles
        self._channel = channel
        self._host: Host = detect()
        self._numbers = itertools.count(1)
        self._made: list[str] = []

    @functools.cached_property
    def root(self) -> Group:
        """The group that holds all others of the daemon."""
        return self._host.root(group_name(self.daemon.state))

    async def sandbox(self, **resources: Any) -> str:
        """A sandbox that is started; `resources` are CRI's LinuxContainerResources of the whole pod."""
        name = f"s{next(self._numbers)}"
        pod = cri_pb2.PodSandboxConfig(
            metadata=cri_pb2.PodSandboxMetadata(name=name),
            linux=cri_pb2.LinuxPodSandboxConfig(resources=cri_pb2.LinuxContainerResources(**resources)),
        )
        await self._control("Create", sandbox_pb2.ControllerCreateRequest(sandbox_id=name, options=typeurl.pack(pod)))
        await self._control("Start", sandbox_pb2.ControllerStartRequest(sandbox_id=name))
        self._made.append(name)
        return name

    async def guest(
        self, sandbox: str, *args: str, resources: Mapping[str, Any] | None = None, **options: Any
    ) -> Guest:
        """A guest that runs in it; `resources` are the spec's.

        It has an ordinary share in its sandbox. With the least there is, the kernel takes seconds to know the
        sandbox's load on each processor, and one of two that compete may get nothing meanwhile (Linux 6.18).
        """
        given = dict(resources or {})
        given["cpu"] = {"shares": 1024, **given.get("cpu", {})}
        bundle = self.bundles.make(*args, sandbox=sandbox, resources=given, **options)
        await self.tasks.create(bundle)
        await self.tasks.start(bundle.id)
        return Guest(bundle.id, self.root.child(joined(NAMESPACE, sandbox)).child(bundle.id), bundle.stdout)

    async def remove(self, sandbox: str) -> None:
        """End a sandbox with all its guests."""
        self._made.remove(sandbox)
        await self._control("Stop", sandbox_pb2.ControllerStopRequest(sandbox_id=sandbox))
        await self._control("Shutdown", sandbox_pb2.ControllerShutdownRequest(sandbox_id=sandbox))

    async def remove_all(self) -> None:
        """End them all."""
        for sandbox in list(self._made):
            await self.remove(sandbox)

    async def _control(self, method: str, request: Any) -> Any:
        call: Any = self._channel.unary_unary(
            f"/{CONTROLLER}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=SERVICES[CONTROLLER][method].response.FromString,
        )
        return await call(request, metadata=_METADATA, timeout=60)


@asynccontextmanager
async def sandboxes(daemon: Daemon, folder: Path) -> AsyncIterator[Sandboxes]:
    """Sandboxes in a running daemon, all removed in the end; bundles lie in a new `folder`."""
    async with AsyncExitStack() as stack:
        bundles = Bundles(folder)
        stack.callback(bundles.close)
        tasks = await stack.enter_async_context(await TaskClient.connect(daemon.task_listen))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"unix:{daemon.listen}"))
        made = Sandboxes(daemon, bundles, tasks, channel)
        # So many shares for all guests together that what else runs here takes little of their processor.
        made.root.apply(GroupLimits(shares=20 * 1024))
        stack.push_async_callback(made.remove_all)
        yield made


@dataclass(frozen=True, kw_only=True)
class Shares:
    """What guests got of one processor in the same stretch of time."""

    wall: float
    cpu: tuple[float, ...]

    @property
    def percent(self) -> tuple[float, ...]:
        """Of a processor."""
        return tuple(100 * each / self.wall for each in self.cpu)


async def measure(guests: list[Guest], seconds: float) -> Shares:
    """What each gets, from now on for so long, as the kernel counts it."""
    begun, before = time.monotonic(), [guest.usage() for guest in guests]
    await asyncio.sleep(seconds)
    after = [guest.usage() for guest in guests]
    wall = time.monotonic() - begun
    pairs = list(zip(before, after, strict=True))
    return Shares(
        wall=wall,
        cpu=tuple((new.cpu - old.cpu) / 1e6 for old, new in pairs),
    )
