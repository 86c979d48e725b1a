"""What of a spec becomes the guest: volumes, module, argv, env, limits; reads the file system, changes nothing."""

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from wasm_sandboxer.bundle.rootfs import is_systems
from wasm_sandboxer.errors import InvalidArgument, ModuleError
from wasm_sandboxer.guest import Guest, Limits, Network, Preopen
from wasm_sandboxer.linux.resolve import open_in_root
from wasm_sandboxer.spec import Mount, Process, Spec

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True)
class Volumes:
    """A container's mounts, by what becomes of them."""

    preopens: tuple[Preopen, ...]  # folders of the host, given as they are
    inside: list[Mount]  # files and tmpfs, mounted into the root file system


def sort_mounts(spec: Spec) -> Volumes:
    """Tell apart the folders that become preopens, what is mounted inside, and what no guest needs.

    A folder that something else is mounted in cannot be given as it is, so it is mounted inside too.
    """
    mounts = [each for each in spec.mounts if not is_systems(each)]
    for each in mounts:
        if each.is_bind and not os.path.lexists(each.source):
            raise InvalidArgument(f"the volume for {each.destination} does not exist: {each.source}")
    folders = [
        each for each in mounts if each.is_bind and Path(each.source).is_dir() and not _holds_another(each, mounts)
    ]
    return Volumes(
        preopens=tuple(
            Preopen(host=Path(each.source), guest=each.destination, writable=not each.read_only) for each in folders
        ),
        inside=[each for each in mounts if each not in folders],
    )


def _holds_another(mount: Mount, mounts: list[Mount]) -> bool:
    place = PurePosixPath(mount.destination)
    return any(each is not mount and PurePosixPath(each.destination).is_relative_to(place) for each in mounts)


def derive_guest(spec: Spec, root: Path, volumes: Volumes, *, network: Network, default_memory: int) -> Guest:
    """The guest of a container whose root file system is at `root`."""
    preopens = (Preopen(host=root, guest="/"), *volumes.preopens)
    limits = Limits(memory=spec.resources.memory or default_memory or None)
    base = Guest(module=Path(), argv=("",), preopens=preopens, limits=limits, network=network)
    return with_process(base, spec.process)


def with_process(base: Guest, process: Process) -> Guest:
    """The same container with another process: its module, arguments and environment."""
    name, _, function = process.args[0].partition("#")
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
    name = str(guest.module)
    if "/" in name:
        places = [str(PurePosixPath(process.cwd or "/") / name)]
    else:
        path = dict(process.env).get("PATH", _DEFAULT_PATH)
        places = [f"{folder or '.'}/{name}" for folder in path.split(":")]
        places.append(str(PurePosixPath(process.cwd or "/") / name))
    for place in places:
        try:
            return _open(guest, place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ModuleError(f"cannot open the module {place}: {error.strerror}") from None
    where = places[0] if len(places) == 1 else f"{name} in {':'.join(str(PurePosixPath(p).parent) for p in places)}"
    raise ModuleError(f"no such module in the image: {where}")


def _open(guest: Guest, place: str) -> int:
    """Open inside the volume that the path lies in, or in the root file system."""
    path = PurePosixPath("/", place)
    holders = sorted(guest.preopens, key=lambda preopen: -len(preopen.guest))
    holder = next(preopen for preopen in holders if path.is_relative_to(preopen.guest))
    root = os.open(holder.host, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_in_root(root, str(path.relative_to(holder.guest)), os.O_RDONLY)
    finally:
        os.close(root)
