"""The benchmarks: `./dev bench` runs all, `./dev bench NAME…` those named.

Tables go to stdout, the same figures as JSON to benchmarks/results/NAME.json.
"""

import argparse
import importlib
import signal
from pathlib import Path

from benchmarks.report import RESULTS, Report

NAMES = {
    "engine": "a program from start to end, loading and compiling modules, throughput",
    "signals": "how long a command takes to end that is told to",
    "density": "a thousand guests in one process: memory, starting, stopping, what is left",
    "epoch": "three ways to stop a running guest",
    "scheduling": "how long a spinning guest takes to die, by who gets the processor",
    "transport": "what a call over our ttrpc costs (benchmarks.ttrpc in a report)",
    "pods": "pods through the real containerd, beside an engine that does nothing",
    "tasks": "containers a second at the Task socket, without containerd",
    "idle": "a thousand idle containers through the real containerd: memory, listings",
    "churn": "pods that come and go: what grows (python -m benchmarks.churn --count 2000)",
    "kill": "kill to Wait's return among 500 guests",
    "fairness": "who gets how much of a processor: quotas, weights, neighbours",
    "groups": "a sandbox's control groups, and what a thousand sandboxes leave",
    "hostile": "guests that mean harm beside one that means well, and how soon the daemon answers",
    "wasmedge": "what WasmEdge costs, and what compiling for it gains",
    "stats": "what it costs to ask what a thousand containers use",
    "processes": "guests in processes beside guests on threads: starts, kills, memory, what is left",
}


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line names."""
    listing = "\n".join(f"  {name:10} {what}" for name, what in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="./dev bench",
        description=__doc__,
        epilog=f"benchmarks:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    parser.add_argument("--json", type=Path, metavar="DIR", help=f"where results go (default: {RESULTS})")
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that they run; keeps no results")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    # A shell lets what it runs in the background ignore it, and whatever is started here would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in options.names or NAMES:
        report = Report(name, quick=options.quick)
        importlib.import_module(f"benchmarks.{name}").bench(report)
        if options.json or not options.quick:
            print(f"\n{report.save(options.json or RESULTS)}", flush=True)


if __name__ == "__main__":
    main()
