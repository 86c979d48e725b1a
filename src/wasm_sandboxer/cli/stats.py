"""`wasm-sandboxer stats`: what the running daemon's containers use."""

import json
import time
from pathlib import Path
from typing import Any

import click

from wasm_sandboxer.cli.client import address_option, listing
from wasm_sandboxer.cli.table import format_table
from wasm_sandboxer.units import format_size

_CLEAR = "\033[H\033[J"


@click.command()
@click.option("--watch", "-w", is_flag=True, help="Again and again, until interrupted.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds to measure."
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each container.")
@address_option
def stats(watch: bool, interval: float, as_json: bool, address: Path) -> None:  # noqa: FBT001
    """Show CPU and memory of the containers that run, measured over an interval."""
    before = _sample(address)
    while True:
        time.sleep(interval)
        after = _sample(address)
        rows = [_usage(each, before.get(key), interval) for key, each in after.items()]
        rows.sort(key=lambda row: -row["cpu_percent"])
        if as_json:
            for row in rows:
                click.echo(json.dumps(row))
        else:
            click.echo((_CLEAR if watch else "") + _table(rows))
        if not watch:
            return
        before = after


def _sample(address: Path) -> dict[tuple[str, str], Any]:
    return {(each.namespace, each.id): each for each in listing(address).containers if each.state != "stopped"}


def _usage(now: Any, before: Any, interval: float) -> dict[str, Any]:
    used = now.cpu_usec - before.cpu_usec if before is not None else now.cpu_usec
    return {
        "namespace": now.namespace, "id": now.id, "pod": now.pod, "name": now.name, "state": now.state,
        "cpu_percent": round(max(0, used) / interval / 1e4, 2), "cpu_seconds": now.cpu_usec / 1e6,
        "memory": now.memory, "memory_limit": now.memory_limit or None,
    }  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        (
            row["id"][:12], row["pod"] or "-", row["name"] or "-", f"{row['cpu_percent']:.1f} %",
            f"{row['cpu_seconds']:.2f} s", format_size(row["memory"]) if row["memory"] else "-",
            format_size(row["memory_limit"]) if row["memory_limit"] else "-",
        )
        for row in rows
    ]  # fmt: skip
    return format_table(("CONTAINER", "POD", "NAME", "CPU", "CPU TIME", "MEMORY", "LIMIT"), lines)
