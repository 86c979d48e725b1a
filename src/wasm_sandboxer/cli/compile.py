"""`wasm-sandboxer compile`: fill the module store ahead of the first run."""

import json
import time
from pathlib import Path

import click

from wasm_sandboxer.choices import EngineChoice
from wasm_sandboxer.cli import complain, one_line
from wasm_sandboxer.cli.engine import open_engine, progress
from wasm_sandboxer.cli.params import MODULE_FILE, engine_option, store_options
from wasm_sandboxer.errors import WasmSandboxerError
from wasm_sandboxer.units import format_duration


@click.command("compile")
@click.argument("modules", type=MODULE_FILE, nargs=-1, required=True, metavar="MODULE…")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each module.")
@engine_option
@store_options
def compile_modules(
    modules: tuple[Path, ...],
    as_json: bool,  # noqa: FBT001
    engine_name: str,
    root: Path | None,
    compile_memory: int,
    compile_timeout: float,
    store_size: int,
) -> int:
    """Compile each MODULE into the module store, so that its first run starts at once; - is your stdin."""
    code = 0
    engine = open_engine(root, compile_memory, compile_timeout, store_size)
    for module in modules:
        begun = time.monotonic()
        try:
            with progress(f"compiling {one_line(module.name)}") as waiting:
                compiled = engine.compile(module, choice=EngineChoice(engine_name), waiting=waiting).what
        except WasmSandboxerError as error:
            code = complain(str(error))
            continue
        took = time.monotonic() - begun
        if as_json:
            about = {"module": str(module), "digest": compiled.digest, "compiled": compiled.new, "seconds": took}
            click.echo(json.dumps(about))
        else:
            how = f"compiled in {format_duration(took)}" if compiled.new else "already in the store"
            click.echo(f"{one_line(str(module))}: {how} ({compiled.digest[:12]})")
    return code
