"""`wasm-sandboxer modules`: what the module store holds."""

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wasm_sandboxer.cli import complain, one_line
from wasm_sandboxer.cli.engine import open_store
from wasm_sandboxer.cli.params import DURATION, root_option
from wasm_sandboxer.cli.table import format_table
from wasm_sandboxer.errors import WasmSandboxerError
from wasm_sandboxer.units import format_duration, format_size

if TYPE_CHECKING:
    from wasm_sandboxer.engine.store import Entry

_NOW = 1e-3  # seconds; the kernel's time stamps are no finer


@click.group()
def modules() -> None:
    """List and remove what the module store holds."""


@modules.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each module.")
@root_option
def ls(as_json: bool, root: Path | None) -> None:  # noqa: FBT001
    """List the compiled modules, most recently used first."""
    entries = open_store(root).entries()
    if as_json:
        for entry in entries:
            click.echo(json.dumps(_as_json(entry)))
        return
    now = time.time()
    rows = [
        (
            entry.digest[:12],
            entry.facts.kind,
            entry.facts.source,
            format_size(entry.facts.source_size),
            format_size(entry.size),
            "in use" if entry.in_use else f"{format_duration(max(now - entry.last_used, _NOW))} ago",
        )
        for entry in entries
    ]
    click.echo(format_table(("DIGEST", "KIND", "SOURCE", "SIZE", "COMPILED", "LAST USED"), rows))


@modules.command("rm")
@click.argument("digests", nargs=-1, required=True, metavar="DIGEST…")
@root_option
def rm(digests: tuple[str, ...], root: Path | None) -> int:
    """Remove compiled modules, named by their digests or the beginnings of them."""
    store = open_store(root)
    code = 0
    for digest in digests:
        try:
            entry = store.remove(digest.removeprefix("sha256:"))
        except WasmSandboxerError as error:
            code = complain(str(error))
        else:
            click.echo(entry.digest)
    return code


@modules.command("prune")
@click.option("--unused-for", type=DURATION, default="0s", metavar="DURATION",
              help="Only modules that were not used for so long.")  # fmt: skip
@root_option
def prune(unused_for: float, root: Path | None) -> None:
    """Remove all compiled modules that nobody uses."""
    removed = open_store(root).prune(unused_for=unused_for)
    for entry in removed:
        click.echo(f"{entry.digest[:12]}  {one_line(entry.facts.source)}")
    click.echo(f"freed {format_size(sum(entry.size for entry in removed))}")


def _as_json(entry: "Entry") -> dict[str, Any]:
    about = dataclasses.asdict(entry)
    return {**about.pop("facts"), **about}
