"""`wasm-sandboxer inspect`: what a module is and needs."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import click

from wasm_sandboxer.cli import one_line
from wasm_sandboxer.cli.engine import open_engine, progress
from wasm_sandboxer.cli.params import store_options
from wasm_sandboxer.units import format_size


@click.command()
@click.argument("module", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def inspect(
    module: Path, as_json: bool, root: Path | None, compile_memory: int, compile_timeout: float, store_size: int  # noqa: FBT001
) -> None:  # fmt: skip
    """Show what MODULE is, imports, exports and needs to run."""
    engine = open_engine(root, compile_memory, compile_timeout, store_size)
    with progress(f"compiling {one_line(module.name)}") as waiting:
        program = engine.load(module, waiting=waiting)
    about = _describe(module, program)
    click.echo(json.dumps(about, indent=2) if as_json else _text(about))


def _describe(path: Path, program: Any) -> dict[str, Any]:
    imports: dict[str, list[dict[str, str]]] = defaultdict(list)
    for item in program.imports:
        imports[item.module].append({"name": item.name, "type": item.type})
    return {
        "module": str(path),
        "kind": program.kind,
        "digest": f"sha256:{program.digest}",
        "size": path.stat().st_size,
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
