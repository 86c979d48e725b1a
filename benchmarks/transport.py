"""What a call over our ttrpc costs: the figures of benchmarks/ttrpc.py, repeated, beside a bare exchange.

./dev bench transport
"""

import collections
import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import ttrpc
from benchmarks.fresh import fresh
from benchmarks.report import Report

_MESSAGE = 200  # bytes, about a State call's


def bench(report: Report) -> None:
    runs = [_run(0.1 if report.quick else 1) for _ in range(report.rounds(5, 1))]
    report.table("a call over ttrpc, microseconds", "means of a second each, the runs side by side")
    report.row(
        "floor: so many bytes to another process and back", fresh(exchange, rounds=report.rounds(20_000, 500)), "µs"
    )
    rows: dict[str, dict[str, list[float]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for figures in runs:
        for figure in figures:
            for column in ("wall", "server_cpu", "client_cpu"):
                rows[f"{figure['handler']}, {figure['concurrent']} at once"][column].append(figure[column])
    for label, columns in rows.items():
        report.row(label, columns["wall"], "µs")
        report.row("  CPU of the server", columns["server_cpu"], "µs")
        report.row("  CPU of the client", columns["client_cpu"], "µs")


def _run(seconds: float) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        path = Path(folder) / "figures.json"
        ttrpc.main(["--seconds", str(seconds), "--json", str(path)])
        figures: list[dict[str, Any]] = json.loads(path.read_text())
        return figures


def exchange(rounds: int) -> list[float]:
    """Microseconds for a message to another process and back over a Unix socket, without any protocol."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        while message := theirs.recv(1024):
            theirs.sendall(message)
        os._exit(0)
    theirs.close()
    samples = []
    for _ in range(rounds):
        begun = time.perf_counter()
        ours.sendall(bytes(_MESSAGE))
        ours.recv(1024)
        samples.append((time.perf_counter() - begun) * 1e6)
    ours.close()
    os.wait()
    return samples
