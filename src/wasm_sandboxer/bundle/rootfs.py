"""Mounting a container's root file system and what belongs into it; in a worker thread, since mounts may block.

Everything is mounted at or below the bundle's `rootfs` and goes with one unmount of that. A path inside is in the
hands of images, and of guests that share a volume: none is ever given to the kernel as a path of the host's, only
as a descriptor that was opened within the root. No device can be opened in any of it: a guest is a thread of
the daemon, which may open the machine's disks.

Worker threads have a working directory of their own (CLONE_FS), which long overlay options need.
"""

import os
import posixpath
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from wasm_sandboxer.errors import InvalidArgument, WasmSandboxerError
from wasm_sandboxer.guest import Preopen
from wasm_sandboxer.linux import mount
from wasm_sandboxer.linux.resolve import make_in_root
from wasm_sandboxer.spec import Mount

_FLAGS = {
    "ro": mount.MS_RDONLY, "rro": mount.MS_RDONLY,
    "nosuid": mount.MS_NOSUID, "nodev": mount.MS_NODEV, "noexec": mount.MS_NOEXEC,
    "bind": mount.MS_BIND, "rbind": mount.MS_BIND | mount.MS_REC,
}  # fmt: skip
_NO_DATA = frozenset({"rw", "suid", "dev", "exec", "defaults", "private", "rprivate", "slave", "rslave", "shared",
                      "rshared", "relatime", "atime", "noatime", "norelatime", "diratime", "nodiratime",
                      "strictatime", "nostrictatime", "tmpcopyup"})  # fmt: skip
_PATH_LISTS = ("lowerdir", "upperdir", "workdir")
_MOST_DATA = 4000  # the kernel takes a page of options
_OWN_TREES = ("/dev", "/proc", "/sys", "/run")
_ATTRIBUTES = mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOSUID


@dataclass(frozen=True, kw_only=True)
class RootMount:
    """A mount that containerd's snapshotter asks for."""

    kind: str
    source: str
    target: str
    options: tuple[str, ...]


def root_of(bundle: Path) -> Path:
    """Where a bundle's root file system is mounted."""
    return bundle / "rootfs"


def mount_root(mounts: tuple[RootMount, ...], bundle: Path, path: str, undo: ExitStack) -> Path:
    """Mount the snapshot on the bundle's rootfs; without one the folder that the spec names by `path`."""
    root = root_of(bundle)
    root.mkdir(mode=0o755, exist_ok=True)
    for each in mounts or (RootMount(kind="bind", source=str(bundle / path), target="", options=("rbind",)),):
        target = root / each.target.lstrip("/")
        flags, data = _split(each.options)
        try:
            if flags & mount.MS_BIND:
                _bind(each.source, target, read_only=bool(flags & mount.MS_RDONLY))
            else:
                _mount(each.kind, each.source, target, flags | mount.MS_NODEV | mount.MS_NOSUID, data)
        except OSError as error:
            raise WasmSandboxerError(f"cannot mount the {each.kind} root file system: {error.strerror}") from None
        undo.callback(unmount_all, target)
    return root


def add_volumes(root: Path, mounts: list[Mount], undo: ExitStack) -> tuple[Preopen, ...]:
    """Mount volumes and tmpfs inside `root`, at paths that cannot lead out of it; the folders also as preopens."""
    preopens: list[Preopen] = []
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for each in mounts:
            place = "/" + posixpath.normpath(each.destination).lstrip("/")
            if place == "/":
                raise InvalidArgument(f"a volume cannot be the whole file system: {each.destination}")
            made = _add(fd, each, undo)
            preopens = [other for other in preopens if not f"{other.guest}/".startswith(f"{place}/")]
            if made is not None:
                host = Path(f"/proc/{os.getpid()}/fd/{made}")  # which other processes of ours can open too
                preopens.append(
                    Preopen(host=host, guest=place, writable=not each.read_only, source=Path(each.source))
                )
    finally:
        os.close(fd)
    return tuple(preopens)


def make_read_only(root: Path) -> None:
    """Refuse writes to the root file system itself; what is mounted inside keeps its own mode."""
    try:
        mount.set_attributes(root, mount.MOUNT_ATTR_RDONLY)
    except OSError as error:
        raise WasmSandboxerError(f"cannot make the root file system read-only: {error.strerror}") from None


def is_systems(each: Mount) -> bool:
    """Whether a mount makes one of Linux's own trees, which no guest needs."""
    inside = any(each.destination == tree or each.destination.startswith(f"{tree}/") for tree in _OWN_TREES)
    return not each.is_bind and (each.kind != "tmpfs" or inside)


def unmount_all(target: Path) -> None:
    """Unmount everything stacked on the target and below; what is busy goes when its last user does."""
    while True:
        try:
            mount.unmount(target, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
        except OSError:
            return  # EINVAL: nothing is mounted there any more


def _add(root: int, each: Mount, undo: ExitStack) -> int | None:
    """Mount one; a descriptor of it, until `undo`, if it is a folder of the host's."""
    if each.is_bind and not os.path.exists(each.source):  # noqa: PTH110  # as text, which it is
        raise InvalidArgument(f"the volume for {each.destination} does not exist: {each.source}")
    folder = not each.is_bind or os.path.isdir(each.source)  # noqa: PTH112
    try:
        target = make_in_root(root, each.destination, folder=folder)
    except OSError as error:
        raise WasmSandboxerError(f"cannot make {each.destination} for a mount: {error.strerror}") from None
    try:
        if each.is_bind:
            tree = _bind(each.source, target, read_only=each.read_only, slave=each.is_slave, keep=folder)
        else:
            flags, data = _split(each.options)
            flags |= mount.MS_NODEV | mount.MS_NOSUID
            mount.mount("tmpfs", f"/proc/self/fd/{target}", "tmpfs", flags, data)
            return None
    except OSError as error:
        raise WasmSandboxerError(f"cannot mount {each.source} at {each.destination}: {error.strerror}") from None
    finally:
        os.close(target)
    if tree is not None:
        undo.callback(os.close, tree)
    return tree


def _bind(source: str, target: int | Path, *, read_only: bool, slave: bool = False, keep: bool = False) -> int | None:
    """Show a file or folder of the host's at the target, with its attributes set before anybody can see it.

    It hears nothing of later mounts on the host's side unless it is a `slave`, and the host's side never of its.
    The tree's descriptor if the caller will `keep` it.
    """
    attributes = _ATTRIBUTES | (mount.MOUNT_ATTR_RDONLY if read_only else 0)
    propagation = mount.MS_SLAVE if slave else mount.MS_PRIVATE
    with ExitStack() as undo:
        tree = mount.clone_tree(source)
        undo.callback(os.close, tree)
        mount.set_attributes(tree, attributes, propagation=propagation, recursive=True)
        if isinstance(target, Path):
            target = os.open(target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            undo.callback(os.close, target)
        mount.attach_tree(tree, target)
        return os.dup(tree) if keep else None


def _split(options: tuple[str, ...]) -> tuple[int, str]:
    """Mount options as flags and the rest, as mount(8) splits them."""
    flags = 0
    for option in options:
        flags |= _FLAGS.get(option, 0)
    return flags, ",".join(option for option in options if option not in _FLAGS and option not in _NO_DATA)


def _mount(kind: str, source: str, target: Path, flags: int, data: str) -> None:
    if kind == "overlay" and len(data) > _MOST_DATA:
        _mount_overlay_shortened(target, flags, data)
    else:
        mount.mount(source, target, kind, flags, data)
    mount.set_attributes(target, 0, propagation=mount.MS_PRIVATE)


def _mount_overlay_shortened(target: Path, flags: int, data: str) -> None:
    """Mount an overlay of many layers with their paths relative to the folder they share."""
    options = dict(option.partition("=")[::2] for option in data.split(","))
    paths = [path for name in _PATH_LISTS if name in options for path in options[name].split(":")]
    base = os.path.commonpath(paths)
    for name in _PATH_LISTS:
        if name in options:
            options[name] = ":".join(os.path.relpath(path, base) for path in options[name].split(":"))
    short = ",".join(f"{name}={value}" if value else name for name, value in options.items())
    if len(short) > _MOST_DATA:
        raise InvalidArgument(f"the image has too many layers for one overlay mount: {len(paths)}")
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(base)  # this thread's own: worker threads unshare CLONE_FS
        mount.mount("overlay", target, "overlay", flags, short)
    finally:
        os.fchdir(before)
        os.close(before)
