"""`wasm-sandboxer stats`: what the running daemon's containers use, or its pods."""

import json
import time
from pathlib import Path
from typing import Any

import click

from wasm_sandboxer.cli.client import address_option, listing
from wasm_sandboxer.cli.table import format_table
from wasm_sandboxer.units import format_size

_CLEAR = "\033[H\033[J"
_SIZES = ("memory", "memory_resident", "memory_limit")


@click.command()
@click.option("--watch", "-w", is_flag=True, help="Again and again, until interrupted.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds to measure."
)
@click.option("--pods", "-p", is_flag=True, help="Pods, each with all its containers together.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each.")
@address_option
def stats(watch: bool, interval: float, pods: bool, as_json: bool, address: Path) -> None:  # noqa: FBT001
    """Show CPU and memory of the containers that run, measured over an interval.

    MEMORY is what counts against the limit, for a guest on a thread its linear memory; RESIDENT is what of it is
    really in memory.
    """
    before = _sample(address, pods=pods)
    while True:
        time.sleep(interval)
        after = _sample(address, pods=pods)
        rows = [_usage(each, before.get(key), interval, pods=pods) for key, each in after.items()]
        rows.sort(key=lambda row: -row["cpu_percent"])
        if as_json:
            for row in rows:
                click.echo(json.dumps(row))
        else:
            click.echo((_CLEAR if watch else "") + _table(rows, pods=pods))
        if not watch:
            return
        before = after


def _sample(address: Path, *, pods: bool) -> dict[tuple[str, str], Any]:
    found = listing(address)
    running: list[Any] = [each for each in found.containers if each.state != "stopped"]
    chosen = [each for each in found.sandboxes if each.ready] if pods else running
    return {(each.namespace, each.id): each for each in chosen}


def _usage(now: Any, before: Any, interval: float, *, pods: bool) -> dict[str, Any]:
    used = now.cpu_usec - before.cpu_usec if before is not None else now.cpu_usec
    who = {"containers": now.containers} if pods else {"pod": now.pod, "state": now.state}
    return {
        "namespace": now.namespace, "id": now.id, "name": now.name, **who,
        "cpu_percent": round(max(0, used) / interval / 1e4, 2), "cpu_seconds": now.cpu_usec / 1e6,
        "memory": now.memory, "memory_resident": now.memory_resident, "memory_limit": now.memory_limit or None,
        "memory_kills": now.memory_kills, "threads": now.threads,
    }  # fmt: skip


def _table(rows: list[dict[str, Any]], *, pods: bool) -> str:
    whose = ("POD", "NAME", "CONTAINERS") if pods else ("CONTAINER", "POD", "NAME")
    header = (*whose, "CPU", "CPU TIME", "MEMORY", "RESIDENT", "LIMIT", "THREADS")
    return format_table(header, [_row(row, pods=pods) for row in rows])


def _row(row: dict[str, Any], *, pods: bool) -> tuple[str, ...]:
    whose = (row["name"] or "-", str(row["containers"])) if pods else (row["pod"] or "-", row["name"] or "-")
    sizes = (format_size(row[name]) if row[name] else "-" for name in _SIZES)
    return (
        row["id"][:12], *whose, f"{row['cpu_percent']:.1f} %", f"{row['cpu_seconds']:.2f} s", *sizes,
        str(row["threads"]),
    )  # fmt: skip
