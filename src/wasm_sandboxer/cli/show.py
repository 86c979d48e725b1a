"""`wasm-sandboxer show`: all that the daemon knows of a container or a sandbox."""

import json
from pathlib import Path

import click
from google.protobuf.json_format import MessageToDict

from wasm_sandboxer.cli.client import address_option, find, listing
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
        about = MessageToDict(find(everything.containers, ident), preserving_proto_field_name=True)
    except NotFound:
        if len(sandboxes) != 1:
            raise
        about = MessageToDict(sandboxes[0], preserving_proto_field_name=True)
        about["containers"] = [each.id for each in everything.containers if each.sandbox == sandboxes[0].id]
    click.echo(json.dumps(about, indent=2) if as_json else _text(about))


def _text(about: dict[str, object]) -> str:
    width = max(len(name) for name in about) + 1
    return "\n".join(f"{name + ':':{width}} {_value(value)}" for name, value in about.items())


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_value(each) for each in value)
    if isinstance(value, dict):
        return " ".join(f"{name}={each}" for name, each in value.items())
    return str(value)
