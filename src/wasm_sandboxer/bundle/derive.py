"""What of a spec becomes the guest: module, argv, env, limits; reads the file system, changes nothing."""

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath

from wasm_sandboxer.errors import InvalidArgument, ModuleError
from wasm_sandboxer.guest import Guest, Limits, Network, Preopen
from wasm_sandboxer.linux.resolve import open_file_in_root
from wasm_sandboxer.spec import Process, Spec

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def derive_guest(
    spec: Spec, root: Path, volumes: tuple[Preopen, ...], *, network: Network, default_memory: int
) -> Guest:
    """The guest of a container whose root file system is at `root`."""
    preopens = (Preopen(host=root, guest="/"), *volumes)
    limits = Limits(memory=spec.resources.most_memory or default_memory or None)
    base = Guest(module=Path(), argv=("",), preopens=preopens, limits=limits, network=network)
    return with_process(base, spec.process)


def with_process(base: Guest, process: Process) -> Guest:
    """The same container with another process: its module, arguments and environment."""
    name, _, function = process.args[0].partition("#")
    if not name:
        raise InvalidArgument(f"{process.args[0]!r} names a function but no module: write MODULE#FUNCTION")
    env = dict(process.env)
    env.setdefault("PWD", process.cwd)
    return replace(
        base,
        module=Path(name),
        function=function or None,
        argv=(name, *process.args[1:]),
        env=tuple(env.items()),
    )


def open_module(guest: Guest, process: Process) -> int:
    """A descriptor of the guest's module, found as a shell in the container would find it.

    Raises ModuleError that names what was looked for and where.
    """
    name = guest.argv[0]  # as given: in "./name", a path would have lost its dot
    here = str(PurePosixPath(process.cwd or "/") / name)
    if "/" in name:
        places = [here]
    else:
        path = dict(process.env).get("PATH", _DEFAULT_PATH)
        places = [f"{folder or '.'}/{name}" for folder in path.split(":")]
        places.append(here)
    root = os.open(guest.preopens[0].host, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for place in places:
            try:
                return open_file_in_root(root, place)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except IsADirectoryError:
                if place != here:
                    continue
                raise ModuleError(f"{place} is a folder, not a WebAssembly module") from None
            except OSError as error:
                raise ModuleError(f"cannot open the module {place}: {error.strerror}") from None
    finally:
        os.close(root)
    where = places[0] if len(places) == 1 else f"{name} in {':'.join(str(PurePosixPath(p).parent) for p in places)}"
    raise ModuleError(f"no such module in the image: {where}")
