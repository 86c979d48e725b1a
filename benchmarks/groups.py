"""A sandbox's control groups: what making them costs, and what is left when a thousand sandboxes are gone.

    ./dev bench groups

Needs root. Groups are made under a name of the benchmark's own and removed.
"""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from benchmarks.node import OURS, Daemon, daemons
from benchmarks.report import Report, Target
from benchmarks.task_client import Bundles, TaskClient
from wasm_sandboxer.api.services import CONTROLLER, SERVICES
from wasm_sandboxer.core.groups import Groups
from wasm_sandboxer.linux.cgroup.host import detect
from wasm_sandboxer.linux.cgroup.protocol import Group, GroupLimits

SANDBOXES = 1000
_AT_ONCE = 10
_TARGET = Target(column="p50", at_most=1.0)  # milliseconds of CPU
_METADATA = (("containerd-namespace", "bench"),)
_KINDS = {
    "no limits": GroupLimits(),
    "shares": GroupLimits(shares=512),
    "shares and a quota": GroupLimits(shares=512, quota=50_000, period=100_000),
    "shares, a quota, threads and a CPU set": GroupLimits(shares=512, quota=50_000, pids=100, cpus="0"),
}


def bench(report: Report) -> None:
    _making(report)
    with daemons((OURS,)) as (folder, running):
        bundles = Bundles(folder / "bundles")
        try:
            with _netns() as netns:
                asyncio.run(_many(report, running[OURS], bundles, netns))
        finally:
            bundles.close()


def _making(report: Report) -> None:
    """In this process: the thread that makes them is the one that is measured."""
    groups = Groups(detect(), f"wasm-sandboxer-bench-{os.getpid()}")
    rounds = report.rounds(200, 5)
    report.table(
        "making a sandbox's group", "CPU of the thread that makes it; so many exist at a time as there are n"
    )
    for label, limits in _KINDS.items():
        made: list[Group] = []
        inside: list[Group] = []
        costs: tuple[list[float], ...] = ([], [], [])
        for number in range(rounds):
            with _cpu(costs[0]):
                made.append(_there(groups.sandbox("bench", str(number), limits)))
        for group in made:
            with _cpu(costs[1]):
                inside.append(_there(groups.container(group, "bench", "c", limits)))
        for group in (*inside, *made):
            with _cpu(costs[2]):
                groups.remove(group)
        report.row(label, costs[0], target=_TARGET)
        report.row("  and a container's in it", costs[1])
        report.row("  removing one", costs[2])
    groups.close()


def _there(group: Group | None) -> Group:
    assert group is not None, "no control groups can be made here"
    return group


@contextmanager
def _cpu(costs: list[float]) -> Iterator[None]:
    """Milliseconds of CPU of this thread."""
    before = time.thread_time()
    yield
    costs.append((time.thread_time() - before) * 1e3)


async def _many(report: Report, daemon: Daemon, bundles: Bundles, netns: Path) -> None:
    """Through the sockets: each sandbox with a network namespace and a container that runs to its end."""
    count = report.rounds(SANDBOXES, 20)
    async with (
        await TaskClient.connect(daemon.task_listen) as client,
        grpc.aio.insecure_channel(f"unix:{daemon.listen}") as channel,
    ):

        async def some(numbers: range) -> None:
            for number in numbers:
                await _one(channel, client, bundles, f"pod{number}", netns)

        await some(range(_AT_ONCE))
        await asyncio.sleep(0.5)
        before, cpu, begun = _left(daemon), daemon.cpu(), time.perf_counter()
        await asyncio.gather(*(some(range(at, count, _AT_ONCE)) for at in range(_AT_ONCE)))
        cpu, wall = (daemon.cpu() - cpu) * 1e3 / count, (time.perf_counter() - begun) * 1e3 / count
        await asyncio.sleep(1.0)
        after = _left(daemon)
    report.table(
        f"{count} sandboxes made and removed, {_AT_ONCE} at a time, each with a container that runs to its end",
        "what is left of each kind, beyond what there was before",
    )
    for what, number in before.items():
        report.row(f"{what} (before: {number})", [after[what] - number], "", Target(column="max", at_most=0))
    report.row("wall time a sandbox", [wall])
    report.row("CPU of the daemon a sandbox", [cpu])


async def _one(channel: Any, client: TaskClient, bundles: Bundles, ident: str, netns: Path) -> None:
    await _call(channel, "Create", sandbox_id=ident, netns_path=str(netns))
    await _call(channel, "Start", sandbox_id=ident)
    bundle = bundles.make("/hello.wasm", sandbox=ident)
    await client.create(bundle)
    await client.start(bundle.id)
    await client.wait(bundle.id)
    await client.delete(bundle.id)
    await _call(channel, "Stop", sandbox_id=ident)
    await _call(channel, "Shutdown", sandbox_id=ident)


async def _call(channel: Any, method: str, **fields: Any) -> None:
    rpc = SERVICES[CONTROLLER][method]
    call = channel.unary_unary(
        f"/{CONTROLLER}/{method}",
        request_serializer=rpc.request.SerializeToString,
        response_deserializer=rpc.response.FromString,
    )
    await call(rpc.request(**fields), metadata=_METADATA)


def _left(daemon: Daemon) -> dict[str, int]:
    """What of each kind there is."""
    held = daemon.holdings()
    process = Path(f"/proc/{daemon.pid}")
    targets = []
    for entry in (process / "fd").iterdir():
        try:
            targets.append(str(entry.readlink()))
        except FileNotFoundError:  # that of this very listing, perhaps
            continue
    mounted = [line for line in (process / "mountinfo").read_text().splitlines() if " - nsfs " in line]
    return {
        "control groups": daemon.groups(),
        "network namespaces held": sum(1 for each in targets if each.startswith("net:")) + len(mounted),
        **{what: held[what] for what in ("threads", "descriptors", "mounts", "state files")},
    }


@contextmanager
def _netns() -> Iterator[Path]:
    """A network namespace that a process of ours holds, as CNI would have made it for a pod."""
    sleeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    try:
        yield Path(f"/proc/{sleeper.pid}/ns/net")
    finally:
        sleeper.kill()
        sleeper.wait()
