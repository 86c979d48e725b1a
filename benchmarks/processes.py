"""Guests in processes beside guests on threads: starting, killing, how many side by side, what is left of many.

    ./dev bench processes

Through the Task socket, without containerd. Each container has a control group of its own, as under containerd; those
that serve have a network namespace of the benchmark's.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile

from benchmarks.guests import example
from benchmarks.node import OURS, Daemon, daemons
from benchmarks.report import Report, Target
from benchmarks.task_client import Bundle, Bundles, TaskClient
from wasm_sandboxer.linux.cgroup.host import find_hierarchies

_GROUP = f"wsb-{os.getpid()}"
_KINDS = ("thread", "process")
_COMPONENT, _CORE, _SERVER = "/hello-component.wasm", "/hello.wasm", "/tcp-server.wasm"
_MORE = Target(column="p50", at_most=10)  # milliseconds more than on a thread
_KILL = Target(column="p99", at_most=10)
_NOTHING = Target(column="max", at_most=0)


def bench(report: Report) -> None:
    with ExitStack() as stack:
        settings = stack.enter_context(NamedTemporaryFile("w", suffix=".toml"))
        settings.write("component_threads = true\n")
        settings.flush()
        folder, running = stack.enter_context(daemons([OURS], ["--config", settings.name]))
        netns = stack.enter_context(_network())
        bundles = Bundles(folder / "bundles")
        for name in ("hello-component", "tcp-server"):
            bundles.add(f"{name}.wasm", example(name).read_bytes())
        try:
            asyncio.run(_measure(report, running[OURS], _Containers(bundles, netns)))
        finally:
            bundles.close()


class _Containers:
    """Bundles, each with a control group of its own."""

    def __init__(self, bundles: Bundles, netns: Path) -> None:
        self._bundles = bundles
        self._netns = netns
        self._made = 0

    def make(self, kind: str, *args: str) -> Bundle:
        self._made += 1
        network = [{"type": "network", "path": str(self._netns)}]
        linux = {"cgroupsPath": f"/{_GROUP}/c{self._made}", "namespaces": network}
        return self._bundles.make(*args, isolation=kind, linux=linux)


async def _measure(report: Report, daemon: Daemon, containers: _Containers) -> None:
    async with await TaskClient.connect(daemon.task_listen) as client:
        for kind in _KINDS:
            for module in (_COMPONENT, _CORE):
                await _once(client, containers.make(kind, module))  # compiled, and the first of its kind
        await _starts(report, client, containers)
        await _rate(report, client, daemon, containers)
        await _kills(report, client, containers)
        await _side_by_side(report, client, containers)
        await _left(report, client, daemon, containers)


# ---- starting


async def _starts(report: Report, client: TaskClient, containers: _Containers) -> None:
    count = report.rounds(200, 10)
    report.table("start: from the call to its answer", "one after another; its instance is made then")
    for module, what in ((_COMPONENT, "a component"), (_CORE, "a core module")):
        took: dict[str, list[float]] = {kind: [] for kind in _KINDS}
        for _ in range(count):
            for kind in _KINDS:
                took[kind].append(await _once(client, containers.make(kind, module)))
                await asyncio.sleep(0.005)  # the next child is forked meanwhile
        report.row(f"{what} on a thread", took["thread"])
        report.row(f"{what} in a process", took["process"])
        more = [process - thread for process, thread in zip(took["process"], took["thread"], strict=True)]
        report.row("  more than on a thread", more, target=_MORE)


async def _once(client: TaskClient, bundle: Bundle) -> float:
    """Milliseconds that Start takes, of a container that then runs to its end."""
    ident = await client.create(bundle)
    begun = time.perf_counter()
    await client.start(ident)
    took = (time.perf_counter() - begun) * 1e3
    await client.wait(ident)
    await client.delete(ident)
    return took


async def _rate(report: Report, client: TaskClient, daemon: Daemon, containers: _Containers) -> None:
    """Start, run and end, with the daemon, its fork server and all guests on one processor."""
    count = report.rounds(200, 10)
    note = f"{count} containers made before, four at a time: start, wait; all that takes part is on one processor"
    report.table("starts a second on one core", note)
    modules = {_COMPONENT: "components", _CORE: "core modules"}
    rounds: dict[tuple[str, str], list[tuple[float, float]]] = {
        (module, kind): [] for module in modules for kind in reversed(_KINDS)
    }
    floors: list[list[float]] = []
    everywhere = os.sched_getaffinity(0)
    _pin(daemon, {max(everywhere)})
    try:
        for _ in range(report.rounds(7, 1)):
            for (module, kind), found in rounds.items():
                found.append(await _round(client, daemon, containers, kind, module, count))
            os.sched_setaffinity(0, {max(everywhere)})
            floors.append([_empty_python() for _ in range(report.rounds(20, 3))])
            os.sched_setaffinity(0, everywhere)
    finally:
        os.sched_setaffinity(0, everywhere)
        _pin(daemon, everywhere)
    for (module, kind), found in rounds.items():
        target = Target(column="p50", at_most=10) if kind == "process" else None  # 100 a second
        report.row(f"{modules[module]}, each in a {kind}: CPU of all", [cpu for cpu, _ in found], target=target)
        report.row(
            "  a second, by wall time, in which others have the processor too",
            [1000 / wall for _, wall in found],
            "1/s",
        )
        report.row("  × the floor", [cpu / median(floor) for (cpu, _), floor in zip(found, floors, strict=True)], "×")
    report.row(
        "floor: CPU of a Python that is executed and does nothing", [each for floor in floors for each in floor]
    )


def _empty_python() -> float:
    """Milliseconds of CPU, where this process may run."""
    python = os.path.realpath(sys.executable)  # without an environment's start-up
    pid = os.posix_spawn(python, [python, "-I", "-S", "-c", ""], {})
    _, status, used = os.wait4(pid, 0)
    assert status == 0
    return (used.ru_utime + used.ru_stime) * 1e3


async def _round(
    client: TaskClient, daemon: Daemon, containers: _Containers, kind: str, module: str, count: int
) -> tuple[float, float]:
    """Milliseconds of CPU and of wall time a container."""
    made = [await client.create(containers.make(kind, module)) for _ in range(count)]
    left = iter(made)

    async def run() -> None:
        for ident in left:
            await client.start(ident)
            await client.wait(ident)

    before, begun = _cpu(daemon), time.perf_counter()
    await asyncio.gather(*(run() for _ in range(4)))
    wall = (time.perf_counter() - begun) * 1e3 / count
    cpu = (_cpu(daemon) - before) * 1e3 / count
    for ident in made:
        await client.delete(ident)
    return cpu, wall


def _cpu(daemon: Daemon) -> float:
    """Seconds of CPU of the daemon, its fork server and what that has, and all its children that have ended."""
    server = _fork_server(daemon)
    ticks = sum(int(each) for process in (server, *_descendants(server)) for each in _stat(process)[11:15])
    return daemon.cpu() + ticks / os.sysconf("SC_CLK_TCK")


def _stat(process: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name; none of a process that has ended meanwhile."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return []


def _fork_server(daemon: Daemon) -> int:
    processes = _descendants(daemon.pid)
    return next(each for each in processes if "forkserver" in Path(f"/proc/{each}/cmdline").read_text())


def _pin(daemon: Daemon, processors: set[int]) -> None:
    """Have the daemon with all its threads and children run on these processors."""
    for process in (daemon.pid, *_descendants(daemon.pid)):
        for thread in Path(f"/proc/{process}/task").iterdir():
            with suppress(OSError):
                os.sched_setaffinity(int(thread.name), processors)


# ---- killing


async def _kills(report: Report, client: TaskClient, containers: _Containers) -> None:
    count = report.rounds(100, 5)
    report.table("kill: SIGKILL sent until Wait returns", "a component in a process")
    took = []
    for _ in range(count):
        ident = await client.create(containers.make("process", _SERVER, "0"))
        await client.start(ident)
        waiting = asyncio.ensure_future(client.wait(ident))
        await asyncio.sleep(0.02)  # until it waits for a connection
        begun = time.perf_counter()
        await client.kill(ident)
        await waiting
        took.append((time.perf_counter() - begun) * 1e3)
        await client.delete(ident)
    report.row("while it waits in accept", took, target=_KILL)
    report.row("  floor: a process that sleeps, until its parent has reaped it", [_floor() for _ in range(count)])


def _floor() -> float:
    """Milliseconds from SIGKILL to the end of a child that does nothing."""
    with subprocess.Popen(["sleep", "600"]) as process:
        time.sleep(0.005)
        begun = time.perf_counter()
        process.kill()
        process.wait()
        return (time.perf_counter() - begun) * 1e3


# ---- side by side


async def _side_by_side(report: Report, client: TaskClient, containers: _Containers) -> None:
    count = report.rounds(50, 5)
    idents = [await client.create(containers.make("process", _SERVER, "0")) for _ in range(count)]
    for ident in idents:
        await client.start(ident)
    await asyncio.sleep(0.5)
    pids = [await client.pid(ident) for ident in idents]
    sizes = [_memory(pid) for pid in pids]
    report.table(f"{count} components that serve TCP, side by side", "memory of each process")
    for name, what in (
        ("Pss", "its share (PSS): what it has alone, and its part of what it shares"),
        ("Private_Dirty", "what it has alone and has written"),
        ("Rss", "resident, with all that is shared"),
    ):
        report.row(what, [size[name] / 1024 for size in sizes], "MiB")
    report.note("PSS of each, MiB: " + " ".join(f"{size['Pss'] / 1024:.1f}" for size in sizes))
    report.row("threads of each", [_threads(pid) for pid in pids], "")
    for ident in idents:
        await client.kill(ident)
        await client.wait(ident)
        await client.delete(ident)


def _memory(pid: int) -> dict[str, int]:
    """KiB, by the names of /proc/PID/smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}


# ---- what is left


async def _left(report: Report, client: TaskClient, daemon: Daemon, containers: _Containers) -> None:
    count = report.rounds(500, 20)
    for _ in range(20):
        await _once(client, containers.make("process", _COMPONENT))
    before = await _holdings(daemon)
    for _ in range(count // 10):
        await asyncio.gather(*(_once(client, containers.make("process", _COMPONENT)) for _ in range(10)))
    after = await _holdings(daemon)
    report.table(f"{count} components that come and go in processes, ten at a time", "what there is more of then")
    for what, number in before.items():
        report.row(f"{what} (before: {number})", [after[what] - number], "", target=_NOTHING)


async def _holdings(daemon: Daemon) -> dict[str, int]:
    await asyncio.sleep(1)
    held = {name: value for name, value in daemon.holdings().items() if name not in ("threads", "mappings")}
    processes = _descendants(daemon.pid)
    server = _fork_server(daemon)
    held["zombies"] = sum(map(_is_zombie, processes))
    held["processes"] = len(processes)
    held["descriptors of the fork server"] = _descriptors(server)
    held["control groups"] = daemon.groups() + _groups_of_containers()
    return held


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def _threads(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


def _descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _groups_of_containers() -> int:
    found = find_hierarchies()
    if found is None:
        return 0
    roots = [found.unified] if found.unified is not None else found.v1.values()
    return sum(1 for root in roots for _ in os.walk(root / _GROUP))


def _descendants(pid: int) -> list[int]:
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found


@contextmanager
def _network() -> Iterator[Path]:
    name = f"wsb-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield Path("/run/netns", name)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
