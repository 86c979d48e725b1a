"""Getting a container's process ready: its module, its streams, and what it runs on; in a worker thread."""

import dataclasses
import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from wasm_sandboxer.bundle.annotations import ISOLATION
from wasm_sandboxer.bundle.derive import open_module
from wasm_sandboxer.bundle.home import with_home
from wasm_sandboxer.bundle.streams import StreamNames, Streams
from wasm_sandboxer.choices import Isolation
from wasm_sandboxer.core.container import Container as Run
from wasm_sandboxer.core.homes import Homes
from wasm_sandboxer.core.isolation import confine, isolation_of, not_honoured
from wasm_sandboxer.core.tools import Tools
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.protocol import Engine, Kind, Program
from wasm_sandboxer.errors import InvalidArgument, NotFound, WasmSandboxerError
from wasm_sandboxer.executor.protocol import Executor
from wasm_sandboxer.guest import Guest, Network
from wasm_sandboxer.linux.cgroup.protocol import Group, Place
from wasm_sandboxer.spec import SANDBOX_ID, Process, Spec

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a container's sandbox gives it: a network, a group and a pool to be in (None: the daemon's own).

    `network` is what a guest on a thread has of it, `netns` the namespace of one in a process: a path, empty for the
    host's, None for none at all. `identity` is the folder of its files for /etc, `annotations` are the pod's.
    """

    network: Network = Network.NONE
    netns: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    group: Group | None = None
    identity: Path | None = None
    pool: MemoryPool | None = None


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What all processes of a container stand on."""

    ident: str
    namespace: str
    spec: Spec
    root: Path
    around: Surroundings
    homes: Homes
    pool: MemoryPool


@dataclass(frozen=True, kw_only=True)
class Housed:
    """A process of a container, ready to be run: what is run, by whom, where.

    `undo` closes what its start takes, `streams` are its owner's to close.
    """

    guest: Guest
    program: Program
    streams: Streams
    executor: Executor
    undo: ExitStack
    place: Place | None = None
    charged: bool = False  # the kernel counts its memory to a group of its own

    def run(self, name: str, pool: MemoryPool) -> Run:
        """The run, not begun."""
        return Run(
            name,
            self.program,
            self.guest,
            self.streams.stdio,
            self.executor,
            place=self.place,
            pool=pool,
            charged=self.charged,
        )


def house(tools: Tools, ground: Ground, guest: Guest, process: Process, names: StreamNames) -> Housed:
    """Find a guest's module and get ready what it takes to run it, on a thread or in a process; in a worker thread.

    Raises a domain error; nothing is left then but a group of the container's.
    """
    with ExitStack() as undo, ExitStack() as opened:
        program = _load(tools.engine, guest, process)
        guest = with_home(guest, process.user.uid)
        isolation = isolation_of(program, guest)
        in_process = isolation is Isolation.PROCESS
        if in_process:
            guest = dataclasses.replace(guest, network=_network_of_process(ground))
        else:
            _require_thread_allowed(tools, program, guest)
            guest = dataclasses.replace(guest, network=ground.around.network)
        _check(program, guest)
        streams = Streams(names, ground.ident, ground.namespace, hold_stdin=SANDBOX_ID in ground.spec.annotations)
        undo.callback(streams.close)
        _tell_what_is_not_honoured(ground, process, isolation)
        if not in_process:
            place = tools.groups.place(ground.homes.for_threads())
            housed = Housed(
                guest=guest, program=program, streams=streams, executor=tools.threads, undo=ExitStack(), place=place
            )
        else:
            group = ground.homes.for_processes()
            place = tools.groups.place(ground.homes.for_threads()) if group is None else None
            network = _open_network(tools, ground, opened)
            confinement = confine(program, guest, ground.spec, process, ground.root, network, group, opened)
            housed = Housed(
                guest=guest,
                program=program,
                streams=streams,
                executor=tools.processes.within(confinement),
                undo=opened.pop_all(),
                place=place,
                charged=group is not None,
            )
        undo.pop_all()
        return housed


def _tell_what_is_not_honoured(ground: Ground, process: Process, isolation: Isolation) -> None:
    """Every pod of Kubernetes asks for some of it; who says a user means it, so of that all are told, once."""
    if ignored := not_honoured(ground.spec, isolation):
        _log.debug("container %s asks for what its guest has no use for: %s", ground.ident, ", ".join(ignored))
    of_container = process is ground.spec.process  # and not of an exec
    if of_container and process.user.uid and isolation is Isolation.THREAD:
        _log.info(
            "container %s asks for user %d, but its guest is on a thread and reads and writes files as root; "
            "the annotation %s: process makes it that user",
            ground.ident,
            process.user.uid,
            ISOLATION,
        )


def _require_thread_allowed(tools: Tools, program: Program, guest: Guest) -> None:
    """What nothing holds there, its sockets and its waits, comes there only by the node's own configuration."""
    if program.kind is Kind.COMPONENT and tools.isolation is not Isolation.THREAD and not tools.component_threads:
        raise InvalidArgument(
            f"{guest.module}: a component runs on a thread only where the daemon's configuration lets it "
            "(component_threads)"
        )


def _network_of_process(ground: Ground) -> Network:
    """All that its namespace reaches, for a guest that has one."""
    return Network.NONE if ground.around.netns is None else Network.HOST


def _open_network(tools: Tools, ground: Ground, undo: ExitStack) -> int | None:
    """The network namespace of the pod, or the host's; None for the fork server's, which is empty."""
    match ground.around.netns:
        case None:
            return None
        case "":
            return tools.host_network
        case path:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise NotFound(f"the pod's network namespace {path}: {error.strerror}") from None
            undo.callback(os.close, fd)
            return fd


def _load(engine: Engine, guest: Guest, process: Process) -> Program:
    fd = open_module(guest, process)
    try:
        program = engine.load(Path(f"/proc/self/fd/{fd}"), name=str(guest.module), choice=guest.engine)
    finally:
        os.close(fd)
    return program


def _check(program: Program, guest: Guest) -> None:
    try:
        program.check(guest)
    except WasmSandboxerError as error:
        raise type(error)(f"{guest.module}: {error}") from None
