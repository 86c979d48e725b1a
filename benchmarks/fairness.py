"""Who gets how much of a processor: quotas, weights, neighbours; what is bounded, paused and counted besides.

    ./dev bench fairness

At the sockets of a daemon without a containerd, on the host's own cgroup version. Shares are what the kernel counted
for each group; guests share one processor by their cpusets.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.node import OURS, daemons
from benchmarks.report import Report, Target
from benchmarks.sandboxes import PERIOD, Guest, Sandboxes, Shares, measure, sandboxes

QUOTA = 20  # percent of a processor
_WITHIN_QUOTA = Target(column="p50", at_least=18, at_most=22)
_WITHIN_RATIO = Target(column="p50", at_least=2.7, at_most=3.3)
_SPIN = "/spin.wasm"
_STANDING = 0.3  # seconds until a guest that is paused has come to its next loop
_SETTLE = 2.0  # seconds until the kernel knows the load of groups that have just come


def bench(report: Report) -> None:
    with daemons((OURS,)) as (folder, running):
        asyncio.run(_measure(report, running[OURS], folder))


async def _measure(report: Report, daemon: Any, folder: Path) -> None:
    rounds = report.rounds(5, 1)
    seconds = 2.0  # twenty periods
    async with sandboxes(daemon, folder / "bundles") as made:
        report.table("shares of a processor", f"{rounds} times {seconds:g} s each; what the kernel counted")
        alone = await _repeat(rounds, lambda: quota(made, seconds))
        report.row("a guest held to 20 %, by wall clock", [each.percent[0] for each in alone], "%", _WITHIN_QUOTA)
        shared = await _repeat(rounds, lambda: weights(made, seconds))
        report.row("sandboxes with weights 1:3", [each.cpu[1] / each.cpu[0] for each in shared], "", _WITHIN_RATIO)
        beside = await _repeat(rounds, lambda: neighbours(made, seconds))
        label = "a guest held to 20 %, beside a pod of four that spin without a limit"
        report.row(label, [each.percent[0] for each in beside], "%", _WITHIN_QUOTA)
        report.row("  what that pod gets", [sum(each.percent[1:]) for each in beside], "%")
        report.table("what else holds", "percent of a processor, or numbers")
        report.row("a guest that is paused", [await paused(made, seconds)], "%", Target(column="max", at_most=0.5))
        told = [await counted(made, seconds) for _ in range(rounds)]
        report.row("Stats, of what the kernel counts", told, "%", Target(column="p50", at_least=99, at_most=101))
        report.row("processors that a guest with a cpuset of one used", [await cpuset(made, seconds)], "")
        report.row("threads left in groups, and groups left", [await leftovers(made)], "", Target(at_most=0))


async def _repeat(rounds: int, once: Callable[[], Awaitable[Shares]]) -> list[Shares]:
    return [await once() for _ in range(rounds)]


async def quota(made: Sandboxes, seconds: float) -> Shares:
    """What a guest with a quota gets that wants all."""
    sandbox = await made.sandbox()
    guest = await made.guest(sandbox, _SPIN, resources=_bounds(cpu=QUOTA))
    return await _measured(made, [guest], seconds, sandbox)


async def weights(made: Sandboxes, seconds: float) -> Shares:
    """What two sandboxes with weights 1 and 3 get of one processor that both want; the lighter comes first."""
    boxes = [await made.sandbox(cpu_shares=shares, cpuset_cpus=last_cpu()) for shares in (1024, 3072)]
    guests = [await made.guest(box, _SPIN) for box in boxes]
    return await _measured(made, guests, seconds, *boxes)


async def neighbours(made: Sandboxes, seconds: float) -> Shares:
    """What a guest with a quota gets beside a pod of four without one, on one processor; the one comes first."""
    boxes = [await made.sandbox(cpuset_cpus=last_cpu()) for _ in range(2)]
    guests = [await made.guest(boxes[0], _SPIN, resources=_bounds(cpu=QUOTA))]
    guests += [await made.guest(boxes[1], _SPIN) for _ in range(4)]
    return await _measured(made, guests, seconds, *boxes)


async def paused(made: Sandboxes, seconds: float) -> float:
    """Percent of a processor that a guest gets which would spin but is paused."""
    sandbox = await made.sandbox()
    guest = await made.guest(sandbox, _SPIN)
    await made.tasks.pause(guest.id)
    await asyncio.sleep(_STANDING)
    still = await measure([guest], seconds)
    await made.tasks.resume(guest.id)
    going = await measure([guest], seconds)
    assert going.cpu[0] > 0, "a guest does not go on after a pause"
    await made.remove(sandbox)
    return still.percent[0]


async def counted(made: Sandboxes, seconds: float) -> float:
    """What Stats says a guest has used, in percent of what the kernel says of its thread."""
    sandbox = await made.sandbox()
    guest = await made.guest(sandbox, _SPIN)
    tid = await made.tasks.pid(guest.id)

    async def both() -> tuple[float, float]:
        await made.tasks.pause(guest.id)
        await asyncio.sleep(_STANDING)
        found = await made.tasks.cpu(guest.id), _cpu_of_thread(made.daemon.pid, tid)
        await made.tasks.resume(guest.id)
        return found

    said, truth = await both()
    await asyncio.sleep(seconds)
    said_after, truth_after = await both()
    await made.remove(sandbox)
    return 100 * (said_after - said) / (truth_after - truth)


async def cpuset(made: Sandboxes, seconds: float) -> int:
    """How many processors a guest was seen on that may use one."""
    sandbox = await made.sandbox(cpuset_cpus=last_cpu())
    guest = await made.guest(sandbox, _SPIN)
    thread = Path(f"/proc/{made.daemon.pid}/task/{await made.tasks.pid(guest.id)}")
    seen = set()
    for _ in range(20):
        await asyncio.sleep(seconds / 20)
        seen.add((thread / "stat").read_text().rpartition(")")[2].split()[36])  # `processor`, proc(5)
    await made.remove(sandbox)
    assert seen == {last_cpu()}, f"it ran on processors {seen}"
    return len(seen)


async def leftovers(made: Sandboxes) -> int:
    """Groups inside the daemon's, after all sandboxes are removed."""
    await made.remove_all()
    return len(made.root.names()) + len(made.root.threads())


async def _measured(made: Sandboxes, guests: list[Guest], seconds: float, *boxes: str) -> Shares:
    await asyncio.sleep(_SETTLE)
    found = await measure(guests, seconds)
    for box in boxes:
        await made.remove(box)
    return found


def last_cpu() -> str:
    """The processor that guests share: not the first, which does most for the machine itself."""
    return str(max(os.sched_getaffinity(0)))


def _bounds(*, cpu: int) -> dict[str, Any]:
    """The spec's resources of a container held to so many percent of a processor."""
    return {"cpu": {"quota": PERIOD * cpu // 100, "period": PERIOD}}


def _cpu_of_thread(pid: int, tid: int) -> float:
    """Seconds of CPU since the thread began, to the nanosecond: the first field of schedstat."""
    return int(Path(f"/proc/{pid}/task/{tid}/schedstat").read_text().split()[0]) / 1e9
