"""`wasm-sandboxer kill`: a signal to a container of the running daemon."""

import signal
from pathlib import Path

import click

from wasm_sandboxer.api import task_pb2
from wasm_sandboxer.api.services import TASK
from wasm_sandboxer.cli import complain
from wasm_sandboxer.cli.client import address_option, ask, find, listing
from wasm_sandboxer.errors import InvalidArgument, WasmSandboxerError


@click.command()
@click.argument("idents", nargs=-1, required=True, metavar="ID…")
@click.option(
    "--signal", "-s", "name", default="KILL", show_default=True, metavar="SIGNAL", help="By name or number."
)
@address_option
def kill(idents: tuple[str, ...], name: str, address: Path) -> int:
    """Send a signal to containers: what would end a program ends a guest, at once.

    containerd learns of it as of any other end, and Kubernetes restarts what its policy says.
    """
    number = _number(name)
    containers = listing(address).containers
    code = 0
    for ident in idents:
        try:
            found = find(containers, ident)
            ask(address, TASK, "Kill", task_pb2.KillRequest(id=found.id, signal=number), found.namespace)
        except WasmSandboxerError as error:
            code = complain(str(error))
        else:
            click.echo(found.id)
    return code


def _number(name: str) -> int:
    if name.isdigit():
        return int(name)
    try:
        return signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"].value
    except KeyError:
        raise InvalidArgument(f"{name!r} is not a signal; write KILL, TERM, STOP, CONT or a number") from None
