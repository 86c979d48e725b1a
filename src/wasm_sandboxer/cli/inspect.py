"""`wasm-sandboxer inspect`: what a module is and needs."""

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wasm_sandboxer.choices import EngineChoice
from wasm_sandboxer.cli import one_line
from wasm_sandboxer.cli.engine import open_engine, progress
from wasm_sandboxer.cli.params import MODULE_FILE, engine_option, store_options
from wasm_sandboxer.errors import Unavailable
from wasm_sandboxer.units import format_size

if TYPE_CHECKING:
    from wasm_sandboxer.engine.choosing import ChoosingEngine, Chosen


@click.command()
@click.argument("module", type=MODULE_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@engine_option
@store_options
def inspect(
    module: Path,
    as_json: bool,  # noqa: FBT001
    engine_name: str,
    root: Path | None,
    compile_memory: int,
    compile_timeout: float,
    store_size: int,
) -> None:
    """Show what MODULE is, imports, exports and needs to run; - is your stdin."""
    engine = open_engine(root, compile_memory, compile_timeout, store_size)
    with _kept(module) as file:
        with progress(f"compiling {one_line(module.name)}") as waiting:
            chosen = _choose(engine, file, str(module), EngineChoice(engine_name), waiting)
        about = _describe(module, file.stat().st_size, chosen)
    click.echo(json.dumps(about, indent=2) if as_json else _text(about))


@contextmanager
def _kept(module: Path) -> Iterator[Path]:
    """The module's file, or where the content of a pipe is kept, which can be read but once."""
    from wasm_sandboxer.engine.source import in_memory, read_source  # noqa: PLC0415  # start-up time of --help

    if module.is_file():
        yield module
        return
    with in_memory(read_source(module).data) as fd:
        yield Path(f"/proc/self/fd/{fd}")


def _choose(engine: "ChoosingEngine", file: Path, name: str, choice: EngineChoice, waiting: Any) -> "Chosen[Any]":
    """What would run it; where that is not here, what wasmtime has to say of it."""
    from wasm_sandboxer.engine.choosing import Chosen  # noqa: PLC0415  # start-up time of --help

    try:
        return engine.choose(file, name=name, choice=choice, waiting=waiting)
    except Unavailable as error:
        if choice is not EngineChoice.AUTO:
            raise
        chosen = engine.choose(file, name=name, choice=EngineChoice.WASMTIME, waiting=waiting)
        return Chosen(what=chosen.what, engine=EngineChoice.WASMEDGE, reason=str(error).removeprefix(f"{name}: "))


def _describe(path: Path, size: int, chosen: "Chosen[Any]") -> dict[str, Any]:
    program = chosen.what
    imports: dict[str, list[dict[str, str]]] = defaultdict(list)
    for item in program.imports:
        imports[item.module].append({"name": item.name, "type": item.type})
    return {
        "module": str(path),
        "kind": program.kind,
        "engine": chosen.engine,
        "reason": chosen.reason,
        "digest": f"sha256:{program.digest}",
        "size": size,
        "memories": [
            {"minimum": memory.minimum << 16, "maximum": None if memory.maximum is None else memory.maximum << 16}
            for memory in program.spaces.memories
            if not memory.imported
        ],
        "imports": imports,
        "exports": [{"name": item.name, "type": item.type} for item in program.exports],
        "needs": program.needs(),
    }


def _text(about: dict[str, Any]) -> str:
    lines = [
        f"Module:   {one_line(about['module'])}",
        f"Kind:     {about['kind']}",
        f"Engine:   {about['engine']}{': ' if about['reason'] else ''}{one_line(about['reason'])}",
        f"Size:     {format_size(about['size'])}",
        f"Digest:   {about['digest']}",
    ]
    for memory in about["memories"]:
        top = "" if memory["maximum"] is None else f", at most {format_size(memory['maximum'])}"
        lines.append(f"Memory:   {format_size(memory['minimum'])} at the start{top}")
    lines += ["Needs:", *(f"  {one_line(need)}" for need in about["needs"])]
    lines.append("Imports:" if about["imports"] else "Imports:  none")
    for module, items in about["imports"].items():
        lines += [f"  {one_line(module)}", *(f"    {_item(item)}" for item in items)]
    lines.append("Exports:" if about["exports"] else "Exports:  none")
    lines += [f"  {_item(item)}" for item in about["exports"]]
    return "\n".join(lines)


def _item(item: dict[str, str]) -> str:
    return one_line(f"{item['name']}: {item['type']}" if item["name"] else item["type"])
