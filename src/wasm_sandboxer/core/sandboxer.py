"""The registry of sandboxes and containers, and their life from create to delete. Loop thread only.

Everything is keyed by containerd's namespace and the id. What containerd will count on is recorded on disk before
it is answered for, so that a daemon that replaces this one knows it: a sandbox once it is started, since containerd
gives up one whose start fails without a word; a container once it is created.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wasm_sandboxer.bundle.rootfs import root_of, unmount_all
from wasm_sandboxer.core.equipment import Equipment
from wasm_sandboxer.core.events import Event, Topic
from wasm_sandboxer.core.housing import Surroundings
from wasm_sandboxer.core.identifiers import identifier
from wasm_sandboxer.core.records import Records
from wasm_sandboxer.core.resizing import raised
from wasm_sandboxer.core.sandbox import Sandbox, SandboxRecord, SandboxView
from wasm_sandboxer.core.task import Request, Task, TaskProcess, dead_task, prepare
from wasm_sandboxer.core.tools import Tools
from wasm_sandboxer.core.usage import charged_usage
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    WasmSandboxerError,
)
from wasm_sandboxer.guest import Network
from wasm_sandboxer.linux.cgroup.host import Version
from wasm_sandboxer.spec import SANDBOX_ID, Resources, Spec

_log = logging.getLogger(__name__)
_NONSENSE = (TypeError, KeyError, AttributeError, ValueError, InvalidArgument)  # what comes of an odd record
Key = tuple[str, str]


class Sandboxer:
    """All sandboxes and containers of the node."""

    def __init__(self, tools: Tools, records: Records, folder: Path) -> None:
        """`folder` is where each sandbox has a folder of files of its own."""
        self._tools = tools
        self._records = records
        self._equipment = Equipment(tools.groups, folder)
        self._sandboxes: dict[Key, Sandbox] = {}
        self._tasks: dict[Key, Task] = {}
        self._creating: dict[Key, asyncio.Future[None]] = {}
        self._ending = False

    @property
    def cgroup_version(self) -> Version:
        """Whose metrics describe this host."""
        return self._tools.groups.version

    def cpu_time(self) -> float | None:
        """Seconds of CPU of all sandboxes there ever were, where the kernel counts that."""
        return self._tools.groups.cpu_time()

    # ---- sandboxes ----

    def create_sandbox(self, record: SandboxRecord) -> None:
        """Register a sandbox that is not started yet, nor recorded; raises AlreadyExists."""
        key = (identifier("namespace", record.namespace), identifier("sandbox id", record.id))
        self._require_not_ending()
        if key in self._sandboxes:
            raise AlreadyExists(f"sandbox {record.id} exists")
        record.identity().check()
        self._sandboxes[key] = self._new_sandbox(record)

    async def start_sandbox(self, namespace: str, ident: str) -> Sandbox:
        """Make it READY; raises FailedPrecondition for one that was stopped.

        One that never started is gone if it cannot: containerd does not come back for it.
        """
        sandbox = self.sandbox(namespace, ident)
        async with self._turn(sandbox):
            if sandbox.stopping:
                raise FailedPrecondition(f"cannot start sandbox {ident}: it is stopped")
            try:
                sandbox.group = await self._tools.workers.run(self._equipment.make, sandbox.record)
                record = dataclasses.replace(sandbox.record, started=True)
                self._keep(record)
            except BaseException:
                if not sandbox.record.started:
                    await self._remove(sandbox)
                raise
            sandbox.record = record
            sandbox.show()
        return sandbox

    async def stop_sandbox(self, namespace: str, ident: str) -> None:
        """End its containers and make it NOTREADY; idempotent, after a failure too."""
        sandbox = self.sandbox(namespace, ident)
        await sandbox.end_tasks()  # out of turn: whoever asks again has them killed again
        async with self._turn(sandbox):
            if not sandbox.stopped.done():
                now = time.time()
                self._keep(dataclasses.replace(sandbox.record, exited_at=now))  # before anybody is told
                sandbox.end(now)
            await self._let_go(sandbox)

    async def remove_sandbox(self, namespace: str, ident: str) -> None:
        """Stop it, delete what containerd left in it, forget it."""
        sandbox = self.sandbox(namespace, ident)
        await sandbox.end_tasks()
        async with self._turn(sandbox):
            await self._remove(sandbox)

    async def update_sandbox(self, namespace: str, ident: str, resources: Resources) -> None:
        """Change what its containers may have together; raises a domain error, and all is as it was."""
        sandbox = self.sandbox(namespace, ident)
        async with self._turn(sandbox):
            await self._bound(sandbox, Resources(**sandbox.record.resources).updated(resources))

    def sandbox(self, namespace: str, ident: str) -> Sandbox:
        """The sandbox; raises NotFound. The look-up is for any thread, its answer for the loop's."""
        try:
            return self._sandboxes[namespace, ident]
        except KeyError:
            raise NotFound(f"no sandbox {ident}") from None

    def view(self, namespace: str, ident: str) -> SandboxView:
        """How the sandbox is, for any thread; raises NotFound."""
        return self.sandbox(namespace, ident).view

    def sandboxes(self) -> list[Sandbox]:
        """All of them."""
        return list(self._sandboxes.values())

    # ---- containers ----

    async def create_task(self, request: Request) -> Task:
        """Make a container ready to start; raises a domain error that says why it cannot be. Nothing is left then.

        It takes the place of one that died with another daemon: containerd gives those up, and not always by Delete.
        """
        key = (identifier("namespace", request.namespace), identifier("container id", request.id))
        left = self._tasks.get(key)
        if key in self._creating or (left is not None and left.ground is not None):
            raise AlreadyExists(f"container {request.id} exists")
        self._require_not_ending()
        self._creating[key] = asyncio.get_running_loop().create_future()
        try:
            if left is not None:
                await self._drop(left)
            task = await self._create(request)
        finally:
            self._creating.pop(key).set_result(None)
        self._tasks[key] = task
        sandbox = self._sandboxes.get((request.namespace, task.sandbox))
        if sandbox is not None:
            sandbox.tasks[task.id] = task
            sandbox.show()
        self._tools.publish(
            Event(
                topic=Topic.CREATE,
                namespace=request.namespace,
                container=request.id,
                details={
                    "bundle": str(request.bundle), "rootfs": request.rootfs, "io": request.streams,
                    "pid": task.init.pid,
                },
            )
        )  # fmt: skip
        return task

    async def update_task(self, namespace: str, ident: str, resources: Resources) -> None:
        """Change a container's limits, and its pod's where they would not let it have that; all or none of it."""
        task = self.task(namespace, ident)
        sandbox = self._sandboxes.get((namespace, task.sandbox))
        before = task.resources
        if sandbox is None or before is None:
            await task.update(resources)
            return
        async with self._turn(sandbox):
            others = [each.resources for each in sandbox.tasks.values() if each is not task]
            pod = sandbox.record.resources
            more = raised(Resources(**pod), [each for each in others if each], before, before.updated(resources))
            await self._bound(sandbox, more)
            try:
                await task.update(resources)
            except BaseException:
                await self._bound(sandbox, Resources(**pod))
                raise

    async def delete_task(self, namespace: str, ident: str) -> TaskProcess:
        """Take a container down that has ended or never ran; raises NotFound, FailedPrecondition.

        One that is being created is waited for: a caller that gave its creation up asks for this.
        """
        if creating := self._creating.get((namespace, ident)):
            await asyncio.wait([creating])
        task = self.task(namespace, ident)
        async with task.lock:
            if not self._is_there(task):
                raise NotFound(f"no container {ident}")
            used = charged_usage(task)
            process = await task.delete()
            del self._tasks[namespace, ident]
        sandbox = self._sandboxes.get((namespace, task.sandbox))
        if sandbox is not None and sandbox.tasks.pop(ident, None) is not None:
            sandbox.past_oom_count += task.oom_count
            sandbox.past_cpu += used.cpu
            sandbox.show()
        return process

    async def discard(self, namespace: str, ident: str) -> None:
        """End a container that containerd has dropped and delete it; nothing for one that is gone."""
        if creating := self._creating.get((namespace, ident)):
            await asyncio.wait([creating])
        task = self._tasks.get((namespace, ident))
        if task is None:
            return
        _log.warning("container %s is ended and deleted: containerd has dropped it", ident)
        await task.end()
        with suppress(NotFound):  # a Delete was on its way
            await self.delete_task(namespace, ident)

    def has(self, namespace: str, ident: str) -> bool:
        """Whether there is such a container, or one is being made."""
        return (namespace, ident) in self._tasks or (namespace, ident) in self._creating

    def task(self, namespace: str, ident: str) -> Task:
        """The container; raises NotFound."""
        try:
            return self._tasks[namespace, ident]
        except KeyError:
            raise NotFound(f"no container {ident}") from None

    def tasks(self) -> list[Task]:
        """All of them."""
        return list(self._tasks.values())

    def threads(self) -> set[int]:
        """The threads that guests run on."""
        return {
            each.run.pid
            for task in self._tasks.values()
            for each in (task.init, *task.execs.values())
            if not each.run.exit.done()
        }

    # ---- the daemon's own life ----

    async def recover(self) -> None:
        """Take over what a daemon that died has left: its sandboxes stay, its containers have ended."""
        for kind, recover in (("sandboxes", self._recover_sandbox), ("containers", self._recover_task)):
            for namespace, ident, record in self._records.all(kind):
                try:
                    await recover(namespace, ident, record)
                except _NONSENSE as error:  # another version's, perhaps
                    _log.warning(
                        "the record of %s/%s in %s makes no sense and is removed: %r", namespace, ident, kind, error
                    )
                    self._records.remove(kind, namespace, ident)
        ready = [sandbox for sandbox in self._sandboxes.values() if sandbox.ready]
        await self._tools.workers.run(self._equipment.forget, [sandbox.record for sandbox in ready])
        for sandbox in ready:
            try:
                sandbox.group = await self._tools.workers.run(self._equipment.make, sandbox.record)
            except (WasmSandboxerError, *_NONSENSE) as error:
                _log.warning("sandbox %s is not whole any more: %s", sandbox.id, error)
        if self._sandboxes or self._tasks:
            _log.info("recovered %d sandboxes and %d dead containers", len(self._sandboxes), len(self._tasks))

    async def end_all(self) -> None:
        """End every guest and unmount everything, keeping the sandboxes' records: for a daemon that stops."""
        self._ending = True  # what is being created is refused when it is ready, and undone
        creating = list(self._creating.values())
        await asyncio.gather(*(self._end(task) for task in self._tasks.values()))
        if creating:
            await asyncio.wait(creating)

    @asynccontextmanager
    async def _turn(self, sandbox: Sandbox) -> AsyncIterator[None]:
        """Change a sandbox while nobody else does; raises NotFound if it is gone when its turn comes."""
        async with sandbox.lock:
            if self._sandboxes.get((sandbox.record.namespace, sandbox.id)) is not sandbox:
                raise NotFound(f"no sandbox {sandbox.id}")
            yield

    async def _remove(self, sandbox: Sandbox) -> None:
        """Without a record of its end: that may be what there is no room for."""
        namespace, ident = sandbox.record.namespace, sandbox.id
        await sandbox.end_tasks()
        sandbox.end(time.time())
        for task in list(sandbox.tasks.values()):
            with suppress(NotFound):  # containerd may be doing the same
                await self.delete_task(namespace, task.id)
        await self._let_go(sandbox)
        self._records.remove("sandboxes", namespace, ident)
        del self._sandboxes[namespace, ident]

    async def _let_go(self, sandbox: Sandbox) -> None:
        """Remove what a sandbox that is stopped, and containers of it that are not deleted, have on the host.

        It may stay so for days: of a finished job it does as long as the job's pod is kept. What was used is told on.
        """
        for task in list(sandbox.tasks.values()):
            await self._tools.workers.run(task.let_go)
        await self._tools.workers.run(self._equipment.remove, sandbox.record, sandbox.group)
        sandbox.pool.close()

    async def _bound(self, sandbox: Sandbox, resources: Resources) -> None:
        """Have other bounds hold for a sandbox whose turn it is, and be recorded; nothing, if those hold already."""
        if resources == Resources(**sandbox.record.resources):
            return
        given = {name: value for name, value in asdict(resources).items() if value is not None}
        record = dataclasses.replace(sandbox.record, resources=given)
        run = self._tools.workers.run
        group = sandbox.group if sandbox.ready else None  # that of one that is stopped is gone
        put_back = await run(self._equipment.bound, record, group, resources) if group else None
        if record.started:
            try:
                self._keep(record)
            except BaseException:
                if put_back is not None:
                    await run(put_back)
                raise
        sandbox.record = record
        sandbox.pool.limit = resources.most_memory
        sandbox.show()

    async def _end(self, task: Task) -> None:
        await task.end()
        async with task.lock:
            if self._is_there(task):
                with suppress(OSError):
                    await self._tools.workers.run(task.undo.close)

    async def _drop(self, task: Task) -> None:
        """Forget a dead one without a word: containerd has told of its end when it gave it up."""
        async with task.lock:
            if self._is_there(task):
                await self._tools.workers.run(task.undo.close)
                del self._tasks[task.namespace, task.id]
        sandbox = self._sandboxes.get((task.namespace, task.sandbox))
        if sandbox is not None and sandbox.tasks.get(task.id) is task:
            del sandbox.tasks[task.id]
            sandbox.show()

    def _is_there(self, task: Task) -> bool:
        """Whether nobody has deleted it; for who holds its lock."""
        return self._tasks.get((task.namespace, task.id)) is task

    async def _create(self, request: Request) -> Task:
        prepared = await self._tools.workers.run(prepare, request, self._tools, self._surroundings, self._record)
        ground, init = prepared.ground, prepared.init
        sandbox_id = ground.spec.annotations.get(SANDBOX_ID, "")
        try:  # nothing is awaited between this and its being known: no sandbox stops in between
            self._require_not_ending()
            self._require_same_sandbox(request, sandbox_id, ground.around)
        except BaseException:
            await self._tools.workers.run(prepared.undo.close)
            raise
        return Task(
            namespace=request.namespace,
            id=request.id,
            bundle=request.bundle,
            sandbox=sandbox_id,
            init=TaskProcess(request.id, init.run(request.id, ground.pool), init.streams, init.undo),
            tools=self._tools,
            undo=prepared.undo,
            guest=init.guest,
            homes=ground.homes,
            ground=ground,
            pool=ground.pool,
            most_processes=ground.spec.resources.pids,
            annotations=ground.spec.annotations,
        )

    def _record(self, request: Request, spec: Spec, undo: ExitStack) -> None:
        """Before anything is mounted, so that a daemon that dies in the midst leaves nothing that is not known."""
        record = {
            "bundle": str(request.bundle),
            "sandbox": spec.annotations.get(SANDBOX_ID, ""),
            "streams": asdict(request.streams),
            "cgroup": spec.cgroups_path,
        }
        undo.callback(self._records.remove, "containers", request.namespace, request.id)
        self._records.put("containers", request.namespace, request.id, record)

    def _require_not_ending(self) -> None:
        if self._ending:
            raise Unavailable("the daemon is stopping")

    def _require_same_sandbox(self, request: Request, sandbox_id: str, around: Surroundings) -> None:
        """Raise FailedPrecondition unless it is still in what it was prepared for: each sandbox has its own pool."""
        sandbox = self._sandboxes.get((request.namespace, sandbox_id))
        if (sandbox.pool if sandbox is not None else None) is not around.pool:
            raise FailedPrecondition(
                f"cannot create container {request.id}: its sandbox {sandbox_id} was removed or made anew meanwhile"
            )
        if sandbox is not None:
            self._require_not_stopping(request, sandbox)

    def _require_not_stopping(self, request: Request, sandbox: Sandbox) -> None:
        if sandbox.stopping:
            raise FailedPrecondition(f"cannot create container {request.id}: sandbox {sandbox.id} is stopped")

    def _surroundings(self, request: Request, spec: Spec) -> Surroundings:
        """What a guest on a thread has of a network is the host's, where the pod has that; in a worker thread."""
        sandbox = self._sandboxes.get((request.namespace, spec.annotations.get(SANDBOX_ID, "")))
        if sandbox is None:
            return Surroundings(netns=spec.netns)
        self._require_not_stopping(request, sandbox)
        return Surroundings(
            network=Network.NONE if sandbox.record.netns_path else Network.HOST,
            netns=sandbox.record.netns_path,
            annotations=sandbox.record.annotations,
            group=sandbox.group,
            pool=sandbox.pool,
            identity=self._equipment.files_of(sandbox.record),
        )

    async def _recover_sandbox(self, namespace: str, ident: str, record: Mapping[str, Any]) -> None:
        known = SandboxRecord(**record)
        known.identity().check()
        self._sandboxes[namespace, ident] = self._new_sandbox(known)

    async def _recover_task(self, namespace: str, ident: str, record: Mapping[str, Any]) -> None:
        bundle = Path(record["bundle"])
        await self._tools.workers.run(unmount_all, root_of(bundle))
        if record["cgroup"]:
            await self._tools.workers.run(self._tools.process_groups.forget, record["cgroup"])
        if not await self._tools.workers.run(bundle.exists):  # containerd has given it up, and told of its end
            self._records.remove("containers", namespace, ident)
            return
        task = dead_task(namespace, ident, record, self._tools)
        task.undo.callback(self._records.remove, "containers", namespace, ident)
        self._tasks[namespace, ident] = task
        sandbox = self._sandboxes.get((namespace, task.sandbox))
        if sandbox is not None:
            sandbox.tasks[ident] = task
            sandbox.show()
        details = {"id": ident, "pid": task.init.pid, "exit_status": 255, "exited_at": task.init.exited_at}
        self._tools.publish(Event(topic=Topic.EXIT, namespace=namespace, container=ident, details=details))

    def _new_sandbox(self, record: SandboxRecord) -> Sandbox:
        limit = Resources(**record.resources).most_memory
        return Sandbox(record, MemoryPool("its pod's", limit, self._tools.pool))

    def _keep(self, record: SandboxRecord) -> None:
        self._records.put("sandboxes", record.namespace, record.id, record.as_json())
