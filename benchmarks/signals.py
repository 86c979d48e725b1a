"""How long a command takes to end that is told to: from the signal until its parent has reaped it.

./dev bench signals
"""

import os
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.engine import COMMAND, run_example
from benchmarks.guests import example
from benchmarks.report import Report, Target

_WAITING = {
    "that sleeps": ("sleep", "forever"),
    "that spins": ("spin",),
    "that reads its stdin": ("cat",),
    "that sleeps, a component": ("sleep-component",),
}
_SETTLED = 0.05  # seconds after a guest's thread has its name


def bench(report: Report) -> None:
    rounds = report.rounds(20, 1)
    report.table("wasm-sandboxer run, told to end", "from the signal until it is reaped")
    with tempfile.TemporaryDirectory(prefix="wasm-sandboxer-bench-") as root:
        run_example(root, "hello")
        for label, (name, *arguments) in _WAITING.items():
            command = [COMMAND, "run", "--root", root, str(example(name)), *arguments]
            for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
                samples = [_ended(command, f"{name}.wasm", number, code) for _ in range(rounds)]
                report.row(f"a guest {label}: {number.name}", samples, target=Target(column="max", at_most=50))
    floor = [_ended(["sleep", "3600"], "sleep", signal.SIGTERM, -signal.SIGTERM) for _ in range(rounds)]
    report.row("  floor: sleep(1), SIGTERM", floor)


def _ended(command: list[str], thread: str, number: signal.Signals, code: int) -> float:
    """Milliseconds that it takes."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while not _runs(process.pid, thread):
        time.sleep(0.005)
    time.sleep(_SETTLED)
    exits = select.poll()
    pidfd = os.pidfd_open(process.pid)
    exits.register(pidfd, select.POLLIN)
    begun = time.perf_counter()
    process.send_signal(number)
    exits.poll()
    took = time.perf_counter() - begun
    os.close(pidfd)
    assert process.wait() == code, f"{command} ended with {process.returncode}"
    assert process.stdin is not None
    process.stdin.close()
    return took * 1e3


def _runs(pid: int, thread: str) -> bool:
    """Whether a thread of the process has this name, which a guest's has when it is about to begin."""
    for comm in Path(f"/proc/{pid}/task").glob("*/comm"):
        try:
            if comm.read_text().strip() == thread[:15]:
                return True
        except OSError:  # it has ended
            continue
    return False
