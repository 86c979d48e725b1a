"""Mounting a container's root file system and what belongs into it; in a worker thread, since mounts may block.

Worker threads have a working directory of their own (CLONE_FS), which long overlay options need.
"""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from wasm_sandboxer.errors import InvalidArgument, WasmSandboxerError
from wasm_sandboxer.linux import mount
from wasm_sandboxer.linux.resolve import make_in_root
from wasm_sandboxer.spec import Mount

_FLAGS = {
    "ro": mount.MS_RDONLY, "nosuid": mount.MS_NOSUID, "nodev": mount.MS_NODEV, "noexec": mount.MS_NOEXEC,
    "bind": mount.MS_BIND, "rbind": mount.MS_BIND | mount.MS_REC,
}  # fmt: skip
_NO_DATA = frozenset({"rw", "suid", "dev", "exec", "defaults", "private", "rprivate", "slave", "rslave", "shared",
                      "rshared", "relatime", "atime", "noatime", "norelatime"})  # fmt: skip
_PATH_LISTS = ("lowerdir", "upperdir", "workdir")
_MOST_DATA = 4000  # the kernel takes a page of options
_OWN_TREES = ("/dev", "/proc", "/sys", "/run")


@dataclass(frozen=True, kw_only=True)
class RootMount:
    """A mount that containerd's snapshotter asks for."""

    kind: str
    source: str
    target: str
    options: tuple[str, ...]


def mount_root(mounts: tuple[RootMount, ...], root: Path, undo: ExitStack) -> None:
    """Mount the snapshot on `root`; nothing to do for an image without a file system."""
    root.mkdir(mode=0o755, exist_ok=True)
    for each in mounts:
        target = root / each.target.lstrip("/")
        flags, data = _split(each.options)
        try:
            if each.kind == "overlay" and len(data) > _MOST_DATA:
                _mount_overlay_shortened(target, flags, data)
            else:
                mount.mount(each.source, target, None if flags & mount.MS_BIND else each.kind, flags, data)
            undo.callback(unmount_all, target)
            if flags & mount.MS_BIND and flags & mount.MS_RDONLY:
                _remount_read_only(target)
        except OSError as error:
            raise WasmSandboxerError(f"cannot mount the {each.kind} root file system: {error.strerror}") from None


def add_files(root: Path, files: list[Mount], undo: ExitStack) -> None:
    """Make bind mounts and tmpfs of the spec visible inside `root`, at paths that cannot lead out of it."""
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for each in files:
            _add(fd, each, undo)
    finally:
        os.close(fd)


def make_mount(root: Path, undo: ExitStack) -> None:
    """See that the root is a mount, which can have a mode of its own; before anything is mounted inside."""
    if not os.path.ismount(root):  # noqa: PTH114  # one lstat less than Path.is_mount
        mount.mount(root, root, flags=mount.MS_BIND)
        undo.callback(unmount_all, root)


def make_read_only(root: Path) -> None:
    """Refuse writes to the root file system itself; what is mounted inside keeps its own mode."""
    _remount_read_only(root)


def is_systems(each: Mount) -> bool:
    """Whether a mount makes one of Linux's own trees, which no guest needs."""
    inside = any(each.destination == tree or each.destination.startswith(f"{tree}/") for tree in _OWN_TREES)
    return not each.is_bind and (each.kind != "tmpfs" or inside)


def unmount_all(target: Path) -> None:
    """Unmount everything stacked on the target; what is busy goes when its last user does."""
    while True:
        try:
            mount.unmount(target, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
        except OSError:
            return  # EINVAL: nothing is mounted there any more


def _add(root: int, each: Mount, undo: ExitStack) -> None:
    folder = each.kind == "tmpfs" or Path(each.source).is_dir()
    try:
        target = make_in_root(root, each.destination, folder=folder)
    except OSError as error:
        raise WasmSandboxerError(f"cannot make {each.destination} for a mount: {error.strerror}") from None
    try:
        path = f"/proc/self/fd/{target}"
        place = Path(path).readlink()
        if each.kind == "tmpfs":
            flags, data = _split(each.options)
            mount.mount("tmpfs", path, "tmpfs", flags, data)
        else:
            mount.mount(each.source, path, flags=mount.MS_BIND | mount.MS_REC)
        undo.callback(unmount_all, place)
        if each.read_only and each.kind != "tmpfs":
            _remount_read_only(place)
    except OSError as error:
        raise WasmSandboxerError(f"cannot mount {each.source} at {each.destination}: {error.strerror}") from None
    finally:
        os.close(target)


def _remount_read_only(target: Path) -> None:
    mount.mount("none", target, flags=mount.MS_REMOUNT | mount.MS_BIND | mount.MS_RDONLY)


def _split(options: tuple[str, ...]) -> tuple[int, str]:
    """Mount options as flags and the rest, as mount(8) splits them."""
    flags = 0
    for option in options:
        flags |= _FLAGS.get(option, 0)
    return flags, ",".join(option for option in options if option not in _FLAGS and option not in _NO_DATA)


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
