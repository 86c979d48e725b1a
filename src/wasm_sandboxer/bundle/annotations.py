"""What a pod's or container's annotations say of how its modules run; reads the file system, changes nothing."""

import os
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from wasm_sandboxer.choices import EngineChoice, Isolation
from wasm_sandboxer.errors import InvalidArgument
from wasm_sandboxer.guest import Guest, place_of
from wasm_sandboxer.linux.resolve import open_file_in_root

ENGINE = "wasm-sandboxer.io/engine"
PLUGINS = "wasm-sandboxer.io/wasmedge-plugin-path"
ISOLATION = "wasm-sandboxer.io/isolation"
MODELS = "wasm-sandboxer.io/wasmedge-nn-preload"

T = TypeVar("T", bound=StrEnum)


def with_annotations(guest: Guest, annotations: Mapping[str, str], *, plugins: Path | None) -> Guest:
    """The guest as its annotations want it; of plugins those below `plugins` may be named.

    Raises InvalidArgument that names the annotation.
    """
    return replace(
        guest,
        engine=_choice(ENGINE, EngineChoice, annotations.get(ENGINE), guest.engine),
        isolation=_isolation(annotations.get(ISOLATION), guest.isolation),
        plugins=_plugins(annotations.get(PLUGINS), plugins),
        models=tuple(_model(each.strip(), guest) for each in annotations.get(MODELS, "").split(",") if each.strip()),
    )


def _isolation(given: str | None, configured: Isolation) -> Isolation:
    """Processes are what a node may insist on."""
    wanted = _choice(ISOLATION, Isolation, given, configured)
    if configured is Isolation.PROCESS and wanted is Isolation.THREAD:
        raise InvalidArgument(f"{ISOLATION} is thread, and the daemon's configuration has processes for all")
    return configured if configured is Isolation.PROCESS else wanted


def _choice(name: str, choices: type[T], given: str | None, default: T) -> T:
    try:
        return choices(given) if given else default
    except ValueError:
        raise InvalidArgument(f"{name} must be one of {', '.join(choices)}, not {given!r}") from None


def _plugins(given: str | None, allowed: Path | None) -> Path | None:
    """The folder or file, free of links: what it is then is what was allowed."""
    if not given:
        return None
    if allowed is None:
        raise InvalidArgument(f"{PLUGINS}: none are allowed here; the configuration's wasmedge_plugins says which")
    path = Path(os.path.realpath(given))
    if not path.is_relative_to(os.path.realpath(allowed)):
        raise InvalidArgument(f"{PLUGINS}: {given} is not below {allowed}, where those are that are allowed")
    if not path.exists():
        raise InvalidArgument(f"{PLUGINS}: there is no {given}")
    return path


def _model(given: str, guest: Guest) -> str:
    """A model, whose file is there."""
    *words, path = given.split(":")
    if len(words) != 3 or not path.startswith("/"):
        raise InvalidArgument(
            f"{MODELS}: write NAME:ENCODING:TARGET:/FILE, and commas between several, not {given!r}"
        )
    place = place_of(path, guest.preopens)
    assert place is not None  # a container has a root
    preopen, rest = place
    root = os.open(preopen.host, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(open_file_in_root(root, rest))
    except OSError as error:
        raise InvalidArgument(f"{MODELS}: {path}: {os.strerror(error.errno or 0)}") from None
    finally:
        os.close(root)
    return given
