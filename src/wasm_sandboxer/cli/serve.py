"""`wasm-sandboxer serve`: the daemon."""

from pathlib import Path
from typing import Any

import click

from wasm_sandboxer.config import RUN, Config, LogFormat, LogLevel, load
from wasm_sandboxer.units import parse_address

DEFAULT_FILE = Path("/etc/wasm-sandboxer/config.toml")


@click.command()
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Configuration, TOML.  [default: {DEFAULT_FILE}, if it exists]",
)
@click.option("--listen", type=click.Path(path_type=Path), help=f"gRPC socket.  [default: {RUN}/sandboxer.sock]")
@click.option("--task-listen", type=click.Path(path_type=Path), help=f"ttrpc socket.  [default: {RUN}/task.sock]")
@click.option("--metrics-listen", metavar="ADDR:PORT", help="Where Prometheus may ask.  [default: nowhere]")
@click.option("--state", type=click.Path(path_type=Path), help=f"Folder for records and mounts.  [default: {RUN}]")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    envvar="WASM_SANDBOXER_ROOT",
    help="Folder of the module store.  [default: /var/lib/wasm-sandboxer]",
)
@click.option("--containerd", type=click.Path(path_type=Path), help="containerd's socket, for events.")
@click.option("--log-level", type=click.Choice([level.value for level in LogLevel]), help="How much to log.")
@click.option("--log-format", type=click.Choice([form.value for form in LogFormat]), help="How to log.")
def serve(config_file: Path | None, **options: Any) -> None:
    """Serve containerd: every pod of the runtime class, and every container in them, in this process.

    Options override the configuration file. SIGHUP reads the log level again.
    """  # fmt: skip
    import asyncio  # noqa: PLC0415  # start-up time of the other verbs

    from wasm_sandboxer import daemon, logs  # noqa: PLC0415

    config = _config(config_file, options)
    logs.configure(config.log_level, config.log_format)
    asyncio.run(daemon.serve(config, lambda: _config(config_file, options)))


def _config(file: Path | None, options: dict[str, Any]) -> Config:
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    config = load(file) if file is not None else Config()
    if options["metrics_listen"]:
        parse_address(options["metrics_listen"])
    level, form = options["log_level"], options["log_format"]
    given = {**options, "log_level": level and LogLevel(level), "log_format": form and LogFormat(form)}
    paths = {name: value.absolute() for name, value in given.items() if isinstance(value, Path)}
    return config.replaced(**{**given, **paths})
