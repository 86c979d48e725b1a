"""`wasm-sandboxer containerd-config`: what to add to containerd's configuration."""

from pathlib import Path

import click

from wasm_sandboxer.config import RUN

_TEMPLATE = """\
# containerd {versions}: add this to /etc/containerd/config.toml (or a file it imports), then restart containerd.
# The daemon starts first: wasm-sandboxer serve, Before=containerd.service.
version = {version}

[proxy_plugins.wasm-sandboxer]
  type = "sandbox"
  address = "{address}"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.{handler}]
  # The shim of this name is looked for on containerd's PATH; it starts nothing, but has to be there.
  runtime_type = "io.containerd.wasm-sandboxer.v1"
  sandboxer = "wasm-sandboxer"
  pod_annotations = ["wasm-sandboxer.io/*"]
  container_annotations = ["wasm-sandboxer.io/*"]
"""
_OTHER_TASK_SOCKET = """
# The daemon's task_listen is not where the shim looks for it, so containerd's environment has to say where it is.
# With systemd: `systemctl edit containerd`, and there
#   [Service]
#   Environment={variable}={socket}
"""
_TASK_SOCKET = RUN / "task.sock"
_VARIABLE = "WASM_SANDBOXER_TASK_SOCKET"
_VERSIONS = {"3": "2.1 and 2.2", "4": "2.3 and newer"}


@click.command("containerd-config")
@click.option("--handler", default="wasm", show_default=True, help="The runtime handler's name, for RuntimeClass.")
@click.option(
    "--address",
    type=click.Path(path_type=Path),
    default=RUN / "sandboxer.sock",
    show_default=True,
    help="The daemon's gRPC socket.",
)
@click.option(
    "--task-address",
    type=click.Path(path_type=Path),
    default=_TASK_SOCKET,
    show_default=True,
    envvar=_VARIABLE,
    help="The daemon's ttrpc socket.",
)
@click.option(
    "--config-version",
    type=click.Choice(list(_VERSIONS)),
    default="3",
    show_default=True,
    help="The version of containerd's configuration format.",
)
def containerd_config(handler: str, address: Path, task_address: Path, config_version: str) -> None:
    """Print what makes containerd hand pods of a runtime class to this daemon."""  # fmt: skip
    version = _VERSIONS[config_version]
    click.echo(_TEMPLATE.format(versions=version, version=config_version, address=address, handler=handler), nl=False)
    if task_address != _TASK_SOCKET:
        click.echo(_OTHER_TASK_SOCKET.format(variable=_VARIABLE, socket=task_address), nl=False)
