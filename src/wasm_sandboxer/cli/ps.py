"""`wasm-sandboxer ps`: the containers of the running daemon."""

import json
import time
from pathlib import Path

import click

from wasm_sandboxer.cli.client import address_option, listing
from wasm_sandboxer.cli.fields import fields_of
from wasm_sandboxer.cli.table import format_table
from wasm_sandboxer.units import format_duration


@click.command()
@click.option("--all", "-a", "everything", is_flag=True, help="Those that have ended too.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each container.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@address_option
def ps(everything: bool, as_json: bool, no_trunc: bool, address: Path) -> None:  # noqa: FBT001
    """List containers."""
    found = [each for each in listing(address).containers if everything or each.state != "stopped"]
    found.sort(key=lambda each: -each.created_at.ToNanoseconds())
    if as_json:
        for each in found:
            click.echo(json.dumps(fields_of(each)))
        return
    now = time.time()
    rows = [
        (
            each.id if no_trunc else each.id[:12],
            each.pod or "-",
            each.name or "-",
            each.module,
            f"{each.state} ({each.exit_status})" if each.state == "stopped" else each.state,
            f"{format_duration(max(1.0, now - each.created_at.seconds))} ago",
            str(each.pid or "-"),
        )
        for each in found
    ]
    click.echo(format_table(("CONTAINER", "POD", "NAME", "MODULE", "STATE", "CREATED", "TID"), rows))
