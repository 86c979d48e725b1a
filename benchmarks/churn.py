"""Pods that come and go, many: what the daemon is left with.

./dev bench churn
python -m benchmarks.churn --count 2000
"""

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.node import OURS, Daemon, Node, node, pod
from benchmarks.report import RESULTS, Report, Target

AT_ONCE = 10
COUNT = 400
_SAMPLES = 20
_SETTLE = 0.5
_SLOPE = 0.5  # KiB a pod that memory may seem to grow in the second half: 2,000 pods then are 1 MiB


def bench(report: Report, count: int = COUNT) -> None:
    count = report.rounds(count, 40)
    with node([OURS]) as running:
        daemon = running.daemons[OURS]
        _churn(running, count // 4)  # until the threads, arenas and caches of such a load are there
        held, memory = [_holdings(daemon)], [daemon.memory()["rss"]]
        for _ in range(_SAMPLES):
            _churn(running, count // _SAMPLES)
            held.append(_holdings(daemon))
            memory.append(daemon.memory()["rss"])
    note = f"after {count // 4} to warm up; sampled {_SAMPLES} times, with no pod left"
    report.table(f"{count} pods, {AT_ONCE} at a time: what grew from the first sample to the last", note)
    for what, before in held[0].items():
        target = None if what == "mappings" else Target(column="max", at_most=0)
        report.row(f"{what} (at first {before})", [held[-1][what] - before], "", target)
    half = len(memory) // 2
    slope = _slope(memory[half:]) / (count // _SAMPLES)
    report.row(
        "resident memory, slope over the second half, KiB a pod", [slope], "KiB", Target(column="max", at_most=_SLOPE)
    )
    report.row("resident memory, samples in their order of size", [each / 1024 for each in memory], "MiB")
    report.note("MiB over time: " + " ".join(f"{each / 1024:.1f}" for each in memory))


def _churn(running: Node, count: int) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda number: pod(running, OURS, f"churn-{number}"), range(count)))


def _holdings(daemon: Daemon) -> dict[str, int]:
    """What it has once it has come to rest: containerd closes its connections a little later."""
    time.sleep(_SETTLE)
    return daemon.holdings()


def _slope(samples: list[float]) -> float:
    """The growth from one sample to the next, by the median of all pairs' slopes (Theil and Sen)."""
    pairs = [(i, j) for i in range(len(samples)) for j in range(i + 1, len(samples))]
    return statistics.median((samples[j] - samples[i]) / (j - i) for i, j in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=COUNT, help="pods")
    parser.add_argument("--json", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args()
    report = Report("churn")
    bench(report, options.count)
    print(f"\n{report.save(options.json)}")


if __name__ == "__main__":
    main()
