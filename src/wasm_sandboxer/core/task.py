"""A container as containerd sees it: an init process and its execs in one root file system. Loop thread only.

Created in a worker thread (prepare), which reads the bundle, mounts, finds and compiles the module and opens the
streams; what each step acquires goes onto one exit stack, which deleting the container unwinds.
"""

import asyncio
import dataclasses
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wasm_sandboxer.bundle.annotations import with_annotations
from wasm_sandboxer.bundle.derive import derive_guest, with_process
from wasm_sandboxer.bundle.identity import identity_mounts
from wasm_sandboxer.bundle.rootfs import RootMount, add_volumes, is_systems, make_read_only, mount_root
from wasm_sandboxer.bundle.streams import StreamNames, Streams
from wasm_sandboxer.core.container import Container as Run
from wasm_sandboxer.core.events import Event, Topic
from wasm_sandboxer.core.homes import Homes
from wasm_sandboxer.core.housing import Ground, Housed, Surroundings, house
from wasm_sandboxer.core.identifiers import identifier
from wasm_sandboxer.core.observer import CONTAINER, EXEC
from wasm_sandboxer.core.tools import Tools
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.errors import AlreadyExists, NotFound, OutOfMemory, ResourceExhausted, WasmSandboxerError
from wasm_sandboxer.executor.words import explanation
from wasm_sandboxer.guest import Exit, Guest, Reason
from wasm_sandboxer.lifecycle import State
from wasm_sandboxer.linux import files
from wasm_sandboxer.linux.cgroup.protocol import Group
from wasm_sandboxer.spec import Process, Resources, Spec, parse
from wasm_sandboxer.units import format_size

_MOST_SPEC = 16 << 20  # bytes; far above what containerd's messages let through
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A container to create."""

    namespace: str
    id: str
    bundle: Path
    rootfs: tuple[RootMount, ...]
    streams: StreamNames


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a worker thread has made ready for the loop."""

    ground: Ground
    init: Housed
    undo: ExitStack


class TaskProcess:
    """The init process or an exec: one run of a guest with its streams."""

    def __init__(self, ident: str, run: Run, streams: Streams, undo: ExitStack | None = None) -> None:
        """`undo` closes what only its start takes."""
        self.id = ident
        self.run = run
        self.streams = streams
        self.undo = undo or ExitStack()
        self.begun = False  # from the moment it is told to start
        self.refused = False  # whoever started it was told that it cannot, and deletes it next
        self.started_at = 0.0
        self.exited_at = 0.0
        # Set when the exit may be told: for the init process that is after its execs have ended.
        self.exited: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """The guest's thread or process; the daemon itself before there is one, since containerd needs a number."""
        return self.run.pid or os.getpid()

    @property
    def state(self) -> State:
        """STOPPED only once the exit is told."""
        if self.run.state is State.STOPPED and not self.exited.done():
            return State.RUNNING
        return self.run.state


@dataclass
class Task:
    """A container of containerd's: the init process, execs, and what they stand on."""

    namespace: str
    id: str
    bundle: Path
    sandbox: str
    init: TaskProcess
    tools: Tools
    undo: ExitStack
    guest: Guest
    pool: MemoryPool
    homes: Homes | None = None
    ground: Ground | None = None  # None for one that a dead daemon left
    oom_count: int = 0  # guests that died of a limit on memory
    reserved: int = 0  # bytes of its pod's memory, for native commands
    most_processes: int | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    execs: dict[str, TaskProcess] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    created_at: float = field(default_factory=time.time)

    @property
    def group(self) -> Group | None:
        """The group of its guests on threads."""
        return self.homes.threads if self.homes is not None else None

    @property
    def charged(self) -> Group | None:
        """The group of its guests in processes, to which the kernel charges their memory."""
        return self.homes.processes if self.homes is not None else None

    def process(self, exec_id: str) -> TaskProcess:
        """The init process for an empty id, else that exec; raises NotFound."""
        if not exec_id:
            return self.init
        try:
            return self.execs[exec_id]
        except KeyError:
            raise NotFound(f"no exec {exec_id} in container {self.id}") from None

    @property
    def resources(self) -> Resources | None:
        """Its bounds; None for one that has ended."""
        return self.homes.resources if self.homes is not None and not self.init.run.exit.done() else None

    async def start(self, exec_id: str) -> int:
        """Start a process; its thread's id. The start event goes out before the exit event can."""
        process = self.process(exec_id)
        if exec_id:
            self.init.run.state.require("exec", f"container {self.id}")
        process.run.state.require("start", f"container {process.run.id}")
        self._require_room()
        self._reserve(process.run.reserves)
        process.streams.begin()
        process.begun = True
        process.streams.on_interrupt(lambda number: self._interrupt(process, number))
        observer, kind, asked = self.tools.observer, self._kind(process), time.perf_counter()
        try:
            await process.run.start()
        except OutOfMemory as error:
            # A probe that cannot be started has no result, and a program that memory ends has one.
            if not exec_id:
                process.refused = True
                observer.start_failed(kind)
                raise
            process.streams.explain(explanation(process.run.guest.argv[0], str(error)))
        except BaseException:
            process.refused = True
            observer.start_failed(kind)
            raise
        finally:
            process.undo.close()
            process.run.exit.add_done_callback(lambda _: self._ended(process))
        process.started_at = time.time()
        observer.started(kind, time.perf_counter() - asked)
        if exec_id:
            self._publish(Topic.EXEC_STARTED, exec_id=exec_id, pid=process.pid)
        else:
            self._publish(Topic.START, pid=process.pid)
        return process.pid

    async def kill(self, exec_id: str, number: int, *, everyone: bool = False) -> None:
        """Send a signal to a process, or to all of the container; raises NotFound for one that has ended.

        containerd takes that for done; any other error fails its StopContainer and RemovePodSandbox.
        """
        process = self.process(exec_id)
        if process.run.state is State.STOPPED:
            raise NotFound(f"container {process.run.id} has ended already")
        created = process.run.state is State.CREATED
        await process.run.kill(number)
        if everyone and not exec_id:
            for other in list(self.execs.values()):
                if other.run.state in (State.RUNNING, State.PAUSED):
                    await other.run.kill(number)
        if created and process.run.exit.done():
            self._ended(process)

    async def add_exec(self, exec_id: str, process: Process, names: StreamNames) -> None:
        """Make another process ready in this container; what its spec names is found as for the first."""
        identifier("exec id", exec_id)
        self.init.run.state.require("exec", f"container {self.id}")
        if exec_id in self.execs:
            raise AlreadyExists(f"exec {exec_id} exists in container {self.id}")
        assert self.ground is not None  # it is running
        guest = with_process(self.guest, process)
        housed = await self.tools.workers.run(house, self.tools, self.ground, guest, process, names)
        if exec_id in self.execs or self.init.run.state is not State.RUNNING:
            housed.streams.close()
            housed.undo.close()
            self.init.run.state.require("exec", f"container {self.id}")
            raise AlreadyExists(f"exec {exec_id} exists in container {self.id}")
        run = housed.run(f"{self.id}/{exec_id}", self.pool)
        self.execs[exec_id] = TaskProcess(exec_id, run, housed.streams, housed.undo)
        self._publish(Topic.EXEC_ADDED, exec_id=exec_id)

    async def pause(self) -> None:
        """Hold every process of the container."""
        await self.init.run.pause()
        for process in list(self.execs.values()):
            if process.begun and process.run.state in (State.CREATED, State.RUNNING):
                await process.run.pause()
        self._publish(Topic.PAUSED)

    async def resume(self) -> None:
        """Let them go on."""
        await self.init.run.resume()
        for process in list(self.execs.values()):
            if process.begun and process.run.state in (State.CREATED, State.PAUSED):
                await process.run.resume()
        self._publish(Topic.RESUMED)

    async def update(self, resources: Resources) -> None:
        """Change limits, at once, all or none. Memory that guests have is not taken from them: they get no more."""
        self.init.run.state.require("update", f"container {self.id}")
        if resources.memory is not None:
            for each in (self.init, *self.execs.values()):
                each.run.require_room_for(resources.most_memory)
        if self.homes is not None:
            await self.tools.workers.run(self.homes.change, resources)
        if resources.pids is not None:
            self.most_processes = resources.pids
        if resources.memory is not None:
            self.pool.limit = resources.most_memory
            limits = dataclasses.replace(self.guest.limits, memory=resources.most_memory)
            self.guest = dataclasses.replace(self.guest, limits=limits)

    async def delete_exec(self, exec_id: str) -> TaskProcess:
        """Forget an exec that has not started or has ended."""
        process = self.process(exec_id)
        process.state.require("delete", f"exec {exec_id} of container {self.id}")
        await self._end_unstarted(process)
        process.streams.close()
        process.undo.close()
        self.execs.pop(exec_id, None)
        return process

    async def delete(self) -> TaskProcess:
        """Unmount and close everything; the container is gone from here on."""
        self.init.state.require("delete", f"container {self.id}")
        await self._end_unstarted(self.init)
        for process in (*self.execs.values(), self.init):
            process.streams.close()
            process.undo.close()
        self.execs.clear()
        await self.tools.workers.run(self.undo.close)
        end = self.init.exited.result() if self.init.exited.done() else None
        self._publish(
            Topic.DELETE,
            pid=self.init.pid,
            exit_status=end.code & 0xFF if end is not None else 0,
            exited_at=self.init.exited_at,
        )
        return self.init

    def let_go(self) -> None:
        """Remove the groups and the shared page of one that has ended, which tells on what it used; in a worker."""
        if self.homes is not None:
            self.homes.end()
        self.pool.close()

    async def end(self) -> None:
        """Kill what runs and wait for it: for a sandbox that stops."""
        with suppress(WasmSandboxerError):
            await self.kill("", signal.SIGKILL, everyone=True)
        await asyncio.wait([self.init.exited])

    def _require_room(self) -> None:
        """Raise ResourceExhausted if as many processes run as may.

        Not by the kernel's pids controller: a guest has one thread, which enters its group only once it is there,
        and what the kernel would refuse is a thread of the engine's own that a call of the guest's gives birth to.
        """
        running = sum(1 for each in (self.init, *self.execs.values()) if each.begun and not each.run.exit.done())
        if self.most_processes is not None and 0 < self.most_processes <= running:
            raise ResourceExhausted(
                f"container {self.id} runs {running} processes, and its limit is {self.most_processes} (pids)"
            )

    def _reserve(self, size: int) -> None:
        """Keep the memory for a native command in the pod's pool, once for all of the container's.

        They have the container's limit together, by its control group. Raises ResourceExhausted.
        """
        pod = self.ground.around.pool if self.ground is not None else None
        if not size or self.reserved or pod is None:
            return
        if not pod.reserve(size):
            raise ResourceExhausted(
                f"container {self.id} may take {format_size(size)} of memory, its limit, and {pod.what} limit is "
                f"{format_size(pod.limit or 0)}, of which {format_size(pod.used)} are in use"
            )
        self.reserved = size

    def _give_back(self) -> None:
        if self.reserved and self.ground is not None and self.ground.around.pool is not None:
            self.ground.around.pool.give_back(self.reserved)
            self.reserved = 0

    async def _end_unstarted(self, process: TaskProcess) -> None:
        """Let go whoever waits for a process that is deleted before it ran, or while it is starting."""
        if process.run.state is State.CREATED:
            await self.kill("" if process is self.init else process.id, signal.SIGKILL)
            await asyncio.wait([process.exited])

    def _interrupt(self, process: TaskProcess, number: int) -> None:
        async def kill() -> None:
            with suppress(WasmSandboxerError):
                await process.run.kill(number)

        task = asyncio.ensure_future(kill())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _ended(self, process: TaskProcess) -> None:
        """A guest has ended: close its outputs, then tell; the init process takes its execs with it.

        Where it was not stopped, its readers first have what it wrote.
        """
        if process.exited_at:
            return
        process.exited_at = time.time()
        process.streams.guest_ended()
        others = [] if process is not self.init else [each for each in self.execs.values() if not each.exited.done()]
        stopped = process.refused or process.run.exit.result().reason is Reason.STOPPED
        if not others and (stopped or not process.streams.unread()):
            self._tell(process)
            return

        async def settle() -> None:
            if others:
                await self._end_execs(others)
            if not stopped:
                await process.streams.drained()

        asyncio.ensure_future(settle()).add_done_callback(lambda _: self._tell(process))

    async def _end_execs(self, others: list[TaskProcess]) -> None:
        for each in others:
            with suppress(WasmSandboxerError):
                await each.run.kill(signal.SIGKILL)
            if not each.begun:  # else its end comes by itself, and has not come yet if it is starting
                self._ended(each)
        await asyncio.wait([each.exited for each in others])

    def _tell(self, process: TaskProcess) -> None:
        end = process.run.exit.result()
        if end.reason is Reason.OUT_OF_MEMORY and not process.refused:
            self.oom_count += 1
            if process is self.init:
                self._publish(Topic.OOM)
        if process is self.init:
            self._give_back()
        self.tools.observer.ended(self._kind(process), end.reason)
        process.exited.set_result(end)
        _log.log(
            logging.INFO if process is self.init or end.reason is not Reason.EXITED else logging.DEBUG,
            "container %s%s ended: %s with code %d%s",
            self.id,
            f" exec {process.id}" if process is not self.init else "",
            end.reason,
            end.code,
            f" ({end.message.splitlines()[0]})" if end.message else "",
        )
        self._publish(
            Topic.EXIT,
            id=process.id,
            pid=process.pid,
            exit_status=end.code & 0xFF,
            exited_at=process.exited_at,
        )

    def _kind(self, process: TaskProcess) -> str:
        return CONTAINER if process is self.init else EXEC

    def _publish(self, topic: Topic, **details: Any) -> None:
        self.tools.publish(Event(topic=topic, namespace=self.namespace, container=self.id, details=details))


def prepare(
    request: Request,
    tools: Tools,
    surroundings: Callable[[Request, Spec], Surroundings],
    record: Callable[[Request, Spec, ExitStack], None],
) -> Prepared:
    """Everything that a container needs before it can start; in a worker thread.

    Raises a domain error that says what is wrong; nothing is left then.
    """
    with ExitStack() as undo:
        spec = _read_spec(request.bundle)
        record(request, spec, undo)
        root = mount_root(request.rootfs, request.bundle, spec.root, undo)
        around = surroundings(request, spec)
        if around.identity is not None:
            _add_identity(root, around.identity, spec, undo)
        volumes = add_volumes(root, [each for each in spec.mounts if not is_systems(each)], undo)
        if spec.root_read_only:
            make_read_only(root)
        guest = derive_guest(spec, root, volumes, network=around.network, default_memory=tools.default_memory)
        guest = dataclasses.replace(guest, isolation=tools.isolation)
        guest = with_annotations(guest, {**around.annotations, **spec.annotations}, plugins=tools.plugins)
        homes = Homes(
            tools.groups,
            tools.process_groups,
            namespace=request.namespace,
            ident=request.id,
            sandbox=around.group,
            path=spec.cgroups_path,
            resources=spec.resources,
        )
        undo.callback(homes.close)
        pool = MemoryPool("its", guest.limits.memory, around.pool or tools.pool)
        undo.callback(pool.close)
        ground = Ground(
            ident=request.id,
            namespace=request.namespace,
            spec=dataclasses.replace(spec, mounts=()),  # kept for its execs
            root=root,
            around=around,
            homes=homes,
            pool=pool,
        )
        init = house(tools, ground, guest, spec.process, request.streams)
        undo.callback(init.streams.close)
        undo.callback(init.undo.close)
        return Prepared(ground=ground, init=init, undo=undo.pop_all())


def _add_identity(root: Path, files: Path, spec: Spec, undo: ExitStack) -> None:
    """Mount a pod's files before any volume, so that nothing of them is made in one; most guests never look."""
    try:
        add_volumes(root, identity_mounts(files, spec.mounts), undo)
    except WasmSandboxerError as error:  # an image with something odd in its /etc
        _log.info("a container does without its pod's files: %s", error)


def dead_task(namespace: str, ident: str, record: Mapping[str, Any], tools: Tools) -> Task:
    """The container of a record that a dead daemon left: it has ended, and can be asked about and deleted."""
    end = Exit(code=255, reason=Reason.FAILED, message="the daemon that ran it died")
    run = Run.ended(ident, end)
    names = StreamNames(**record["streams"])
    process = TaskProcess(ident, run, ClosedStreams(names))
    process.exited_at = time.time()
    process.exited.set_result(end)
    guest = Guest(module=Path(), argv=("",))
    pool = MemoryPool("its", None, tools.pool)
    bundle = Path(record["bundle"])
    return Task(namespace, ident, bundle, record["sandbox"], process, tools, ExitStack(), guest, pool)


class ClosedStreams(Streams):
    """The streams of a process that ended with the daemon that held them."""

    def __init__(self, names: StreamNames) -> None:
        super().__init__(StreamNames(), "", "")
        self.names = names


def _read_spec(bundle: Path) -> Spec:
    try:
        data = files.read(f"{bundle}/config.json", _MOST_SPEC)
    except OSError as error:
        raise NotFound(f"{bundle}/config.json: {error.strerror}") from None
    return parse(data)
