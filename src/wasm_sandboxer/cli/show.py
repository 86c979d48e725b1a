"""`wasm-sandboxer show`: all that the daemon knows of a container or a sandbox."""

import json
from pathlib import Path
from typing import Any

import click

from wasm_sandboxer.cli import one_line
from wasm_sandboxer.cli.client import address_option, find, listing
from wasm_sandboxer.cli.fields import fields_of
from wasm_sandboxer.errors import NotFound


@click.command()
@click.argument("ident", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@address_option
def show(ident: str, as_json: bool, address: Path) -> None:  # noqa: FBT001
    """Show a container, by its id, the beginning of it, or its name; or a sandbox, by the like."""
    everything = listing(address)
    sandboxes = [each for each in everything.sandboxes if each.id.startswith(ident) or each.name == ident]
    try:
        about = fields_of(find(everything.containers, ident))
    except NotFound:
        if len(sandboxes) != 1:
            raise
        about = fields_of(sandboxes[0])
        about["containers"] = [each.id for each in everything.containers if each.sandbox == sandboxes[0].id]
    click.echo(json.dumps(about, indent=2) if as_json else _text(about))


def _text(about: dict[str, Any]) -> str:
    """What there is to say, a line each; that a container ended with 0 is."""
    ended = bool(about.get("exited_at"))
    said = {name: value for name, value in about.items() if value or (ended and name == "exit_status")}
    width = max(len(name) for name in about) + 1
    return "\n".join(f"{name + ':':{width}} {one_line(_value(value))}" for name, value in said.items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_value(each) for each in value)
    if isinstance(value, dict):
        return " ".join(f"{name}={each}" for name, each in value.items())
    return str(value)
