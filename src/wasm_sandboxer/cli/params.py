"""Option types that several verbs share, and the options of the module store and its compiler."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wasm_sandboxer.choices import EngineChoice
from wasm_sandboxer.errors import InvalidArgument
from wasm_sandboxer.units import parse_duration, parse_size

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_F = TypeVar("_F", bound=Callable[..., Any])
_CPUS = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
STDIN = Path("/dev/stdin")
_FEWEST_CPUS, _MOST_CPUS = 0.001, 100_000  # beyond, the kernel's arithmetic of quotas ends


class _Parsed(click.ParamType[Any]):
    """A value that one of our parsers understands."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except InvalidArgument as error:
            self.fail(str(error), param, ctx)


class _Path(click.ParamType[Any]):
    """Text that begins with a path, which the shell completes; what follows the mark is not the shell's to know."""

    def __init__(self, name: str, mark: str) -> None:
        self.name = name
        self._mark = mark

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem  # noqa: PLC0415  # start-up time

        del ctx, param
        return [] if self._mark in incomplete else [CompletionItem(incomplete, type="file")]


class _ModuleFile(click.Path):
    """A module's file; - is stdin, as other programs have it, wasmtime's among them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return STDIN if value == "-" else super().convert(value, param, ctx)


def _parse_cpus(text: str) -> float:
    count = float(text) if _CPUS.fullmatch(text) else 0.0
    if not _FEWEST_CPUS <= count <= _MOST_CPUS:
        raise InvalidArgument(
            f"{text[:40]!r} is not a number of processors; write one from {_FEWEST_CPUS} to {_MOST_CPUS}, as in 0.5"
        )
    return count


SIZE = _Parsed("size", parse_size)
DURATION = _Parsed("duration", parse_duration)
CPUS = _Parsed("cpus", _parse_cpus)
MODULE = _Path("module", "#")
MODULE_FILE = _ModuleFile(path_type=Path)
GIVEN = _Path("given", ":")


def default_root() -> Path:
    """/var/lib/wasm-sandboxer for root, a folder in the user's cache for others (XDG Base Directory)."""
    if os.geteuid() == 0:
        return Path("/var/lib/wasm-sandboxer")
    cache = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(cache) if cache.startswith("/") else Path.home() / ".cache") / "wasm-sandboxer"
    except RuntimeError:  # no HOME, and a user that no passwd knows
        raise InvalidArgument("you have no home to keep compiled modules in; choose a folder with --root") from None


def root_option(function: _F) -> _F:
    """--root, which says where the module store is."""
    return click.option(
        "--root", type=click.Path(path_type=Path, file_okay=False), envvar="WASM_SANDBOXER_ROOT",
        help="Where compiled modules are kept.  [default: /var/lib/wasm-sandboxer as root, else your cache]",
    )(function)  # fmt: skip


def engine_option(function: _F) -> _F:
    """--engine, for verbs that load modules; a parameter `engine_name`."""
    return click.option(
        "--engine", "engine_name", type=click.Choice([choice.value for choice in EngineChoice]),
        default=EngineChoice.AUTO.value, show_default=True,
        help="What runs it; auto is wasmtime, or WasmEdge where only that can.",
    )(function)  # fmt: skip


def store_options(function: _F) -> _F:
    """--root and the bounds of the compiler, for verbs that load modules."""
    options = (
        root_option,
        click.option("--compile-memory", type=SIZE, default="2GiB", show_default=True, metavar="SIZE",
                     help="Memory that compiling a module may take."),
        click.option("--compile-timeout", type=DURATION, default="120s", show_default=True, metavar="DURATION",
                     help="Time that compiling a module may take."),
        click.option("--store-size", type=SIZE, default="4GiB", show_default=True, metavar="SIZE",
                     help="Compiled modules beyond this are removed, least recently used first."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function
