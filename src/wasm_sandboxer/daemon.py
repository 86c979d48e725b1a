"""The daemon: wiring, sockets, signals, readiness, the orderly end. Holds no state of its own."""

import asyncio
import fcntl
import hashlib
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasm_sandboxer import logs
from wasm_sandboxer.config import RUN, Config
from wasm_sandboxer.core.events import EventQueue
from wasm_sandboxer.core.groups import Groups
from wasm_sandboxer.core.observer import Nobody
from wasm_sandboxer.core.process_groups import ProcessGroups
from wasm_sandboxer.core.records import Records
from wasm_sandboxer.core.sandboxer import Sandboxer
from wasm_sandboxer.core.strays import Strays
from wasm_sandboxer.core.tools import Tools
from wasm_sandboxer.core.workers import Workers
from wasm_sandboxer.engine.choosing import ChoosingEngine
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.protocol import Engine, LoadObserver
from wasm_sandboxer.engine.source import CompileBounds
from wasm_sandboxer.engine.store import ModuleStore
from wasm_sandboxer.engine.wasmedge.engine import WasmEdgeEngine
from wasm_sandboxer.engine.wasmtime.engine import ENGINE_THREAD, WasmtimeEngine, store_key
from wasm_sandboxer.errors import FailedPrecondition, Unavailable
from wasm_sandboxer.executor.assignment import RUNTIME
from wasm_sandboxer.executor.process import ProcessExecutor
from wasm_sandboxer.executor.thread import ThreadExecutor
from wasm_sandboxer.forking.client import ForkServer
from wasm_sandboxer.linux import systemd
from wasm_sandboxer.linux.cgroup.host import detect, find_hierarchies
from wasm_sandboxer.rpc.admin import Admin
from wasm_sandboxer.rpc.call import log_call
from wasm_sandboxer.rpc.controller import Controller
from wasm_sandboxer.rpc.dropped import Dropped, fifo_of
from wasm_sandboxer.rpc.publisher import Publisher
from wasm_sandboxer.rpc.scrape import ScrapeServer
from wasm_sandboxer.rpc.sockets import check_paths, sockets, task_address
from wasm_sandboxer.rpc.task import Task
from wasm_sandboxer.rpc.transport.call import Call, Observe
from wasm_sandboxer.rpc.transport.status import RpcError
from wasm_sandboxer.units import parse_address

if TYPE_CHECKING:
    from wasm_sandboxer.rpc.exporter import Exporter, Figures

_FORK_SERVER = "wasm_sandboxer.forkserver"
_FEW_DESCRIPTORS = 16384
_GLANCE = 0.2  # seconds; the shim shares a lock for a moment to see whether a daemon lives
_log = logging.getLogger(__name__)
MakeEngine = Callable[[Config, ForkServer, LoadObserver | None], Engine]


def make_engine(config: Config, forks: ForkServer, observe: LoadObserver | None = None) -> Engine:
    """The engines over the node's module store, compiling in the fork server's children."""
    store = ModuleStore(config.root, store_key(), capacity=config.store_size)
    bounds = CompileBounds(memory=config.compile_memory, seconds=config.compile_timeout)
    wasmtime = WasmtimeEngine(store, bounds=bounds, runner=forks, observe=observe)
    wasmtime.warm_up()
    own = wasmtime.own_code()  # open as long as the daemon lives
    forks.preload(RUNTIME, b"", tuple(held.fd for held in own))
    wasmedge = partial(
        WasmEdgeEngine,
        config.root,
        forks,
        binary=config.wasmedge if config.wasmedge != Path() else None,
        bounds=bounds,
        capacity=config.store_size,
        observe=observe,
    )
    return ChoosingEngine(wasmtime, wasmedge, config.engine, observe)


async def serve(config: Config, reload: Callable[[], Config], make: MakeEngine = make_engine) -> None:
    """Run until SIGTERM or SIGINT; raises FailedPrecondition if another daemon has the sockets.

    `reload` reads the configuration again, for SIGHUP.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(_only_daemon(config))
        _take_descriptors()
        forks = ForkServer(_FORK_SERVER)
        forks.start()
        stack.callback(forks.stop)
        workers = Workers(config.workers)
        stack.callback(workers.stop, config.shutdown_timeout * 0.1)
        _prefer_this_process(config.nice)
        groups = Groups(detect(), group_name(config.state), lenient=config.lenient_limits)
        stack.callback(groups.close)
        process_groups = ProcessGroups(find_hierarchies(), lenient=config.lenient_limits)
        for problem in (*groups.problems, *process_groups.problems):
            _log.warning("limits: %s", problem)
        queue = EventQueue(config.event_queue)
        exporter = _exporter(config)
        pool = MemoryPool("the node's", config.node_memory or _most_memory(), threads_only=True)
        tools = Tools(
            engine=make(config, forks, exporter.loaded if exporter else None),
            threads=ThreadExecutor(nice=0),
            processes=ProcessExecutor(forks),
            workers=workers,
            publish=queue.add,
            groups=groups,
            process_groups=process_groups,
            pool=pool,
            default_memory=config.default_memory,
            isolation=config.isolation,
            component_threads=config.component_threads,
            host_network=_own_network(stack),
            plugins=config.wasmedge_plugins if config.wasmedge_plugins != Path() else None,
            observer=exporter or Nobody(),
        )
        sandboxer = Sandboxer(tools, Records(config.state / "records"), config.state / "sandboxes")
        await sandboxer.recover()
        publishing = asyncio.create_task(Publisher(queue, config.containerd).run())
        stack.callback(publishing.cancel)
        strays = Strays(groups, workers, ENGINE_THREAD, sandboxer.threads)
        stack.callback(asyncio.create_task(strays.run()).cancel)
        stop = _stop_signal(reload)
        if exporter is not None:
            await _serve_metrics(config, exporter, lambda: exporter.figures(sandboxer, pool, len(queue)), stack)
        controller = Controller(sandboxer, task_address(config))
        dropped = Dropped(fifo_of(config.task_listen), sandboxer)
        stack.callback(dropped.close)
        task = Task(sandboxer, dropped)
        async with sockets(config, controller, task, Admin(sandboxer), observe=_observe(exporter)):
            systemd.notify("READY=1")
            _log.info("ready: controller at %s, tasks at %s", config.listen, config.task_listen)
            await _watch(stop)
            systemd.notify("STOPPING=1")
            _log.info("stopping: %d containers", len(sandboxer.tasks()))
            await _within(config.shutdown_timeout * 0.5, sandboxer.end_all())
        await _within(config.shutdown_timeout * 0.1, queue.drained())
    _log.info("stopped")


def _own_network(stack: AsyncExitStack) -> int:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _exporter(config: Config) -> "Exporter | None":
    if not config.metrics_listen:
        return None
    from wasm_sandboxer.rpc.exporter import Exporter  # noqa: PLC0415  # start-up time of daemons that tell nobody

    return Exporter()


def _observe(exporter: "Exporter | None") -> Observe:
    """What is told of every call that was answered."""
    if exporter is None:
        return log_call

    def observe(call: Call, error: RpcError | None, seconds: float) -> None:
        log_call(call, error, seconds)
        exporter.answered(call, error, seconds)

    return observe


async def _serve_metrics(
    config: Config, exporter: "Exporter", look: "Callable[[], Figures]", stack: AsyncExitStack
) -> None:
    server = ScrapeServer(lambda: exporter.text(look()), exporter.content_type)
    stack.push_async_callback(server.stop)
    await server.start(*parse_address(config.metrics_listen))


def _only_daemon(config: Config) -> ExitStack:
    """The folders, 0700, and the locks that say all this is ours; undone when the daemon ends."""
    check_paths(config)
    with ExitStack() as undo:
        for folder in {config.state, config.listen.parent, config.task_listen.parent}:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if folder == config.state:
                    folder.chmod(0o700)
            except OSError as error:
                raise Unavailable(f"cannot make the folder {folder}: {error.strerror}") from None
        _lock(config.listen, f"another daemon serves {config.listen}; stop it or choose other sockets", undo)
        _lock(
            config.task_listen, f"another daemon serves {config.task_listen}; stop it or choose other sockets", undo
        )
        _lock(config.state / "state", f"another daemon keeps its state in {config.state}", undo)
        return undo.pop_all()


def _lock(path: Path, taken: str, undo: ExitStack) -> None:
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"cannot open {path}.lock: {error.strerror}") from None
    undo.callback(os.close, lock)
    deadline = time.monotonic() + _GLANCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise FailedPrecondition(taken) from None
            time.sleep(0.005)
        else:
            return


def _most_memory() -> int:
    """What all guests may have if nobody says: the system and the daemon itself keep the rest."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 9 // 10


def group_name(state: Path) -> str:
    """The control group of a daemon that keeps its state there: tests' and benchmarks' have groups of their own."""
    if state == RUN:
        return "wasm-sandboxer"
    return f"wasm-sandboxer-{hashlib.sha256(os.fsencode(state)).hexdigest()[:8]}"


def _take_descriptors() -> None:
    """Have as many descriptors as this process may: those of all its guests are among them."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most < _FEW_DESCRIPTORS:
        _log.warning("only %d files can be open in all guests and the daemon together (LimitNOFILE=)", most)


def _prefer_this_process(nice: int) -> None:
    """Let the daemon's threads run before guests'; guests are started with their own priority."""
    if nice:
        with suppress(OSError):  # not privileged: guests and daemon share what there is
            os.setpriority(os.PRIO_PROCESS, 0, nice)


def _stop_signal(reload: Callable[[], Config]) -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload_level, reload)
    return stop


def _reload_level(reload: Callable[[], Config]) -> None:
    try:
        level = reload().log_level
    except Exception as error:  # noqa: BLE001  # a configuration that got broken meanwhile stops nothing
        _log.warning("the configuration is not read again: %s", error)
    else:
        logs.set_level(level)
        _log.info("log level is %s", level)


async def _watch(stop: asyncio.Event) -> None:
    """Wait for the end, telling systemd meanwhile that the loop turns."""
    interval = systemd.watchdog_interval()
    while not stop.is_set():
        systemd.notify("WATCHDOG=1")
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), interval / 3 if interval else None)


async def _within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    try:
        await asyncio.wait_for(work, seconds)
    except TimeoutError:
        _log.warning("it takes longer than %.1f s and is left undone", seconds)
