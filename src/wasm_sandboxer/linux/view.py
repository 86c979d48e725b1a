"""What of the file system a process sees: nothing but /proc, then a container's root, or what a command needs of it.

A mount namespace is a copy of the one it is made from, with everything that is mounted there; so a fork server first
gives up all mounts, and its children have none of others' to hold on to. What they shall see comes as descriptors of
trees (mount.clone_tree), which attach in any namespace.

Only for processes with one thread. Source: mount_namespaces(7), pivot_root(2), proc(5) on hidepid and subset.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wasm_sandboxer.linux import mount
from wasm_sandboxer.linux.namespace import CLONE_NEWNS, unshare
from wasm_sandboxer.linux.script import NOT_NEGATIVE, Script
from wasm_sandboxer.linux.syscall import address_of, check, libc

# What a command of the host's needs to run at all, as far as it is there; beside certificates there lie private keys.
_OF_COMMANDS = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/ssl/certs", "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs", "/etc/pki/tls/cert.pem", "/etc/pki/tls/openssl.cnf", "/etc/pki/ca-trust",
    "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom",
)  # fmt: skip
_PLACE = "/view"  # an empty folder of a bare view, where the next one is put together
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}[os.uname().machine]
_DESCRIPTORS = "proc/self/fd"
_FLAGS = mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A tree that a process sees at a path; a link instead if `target` says where it leads."""

    path: str
    folder: bool = True
    target: str = ""


def be_bare() -> None:
    """Give this process a namespace with nothing mounted but /proc and /dev/null, and no way back; raises OSError."""
    proc, null = mount.clone_tree("/proc"), mount.clone_tree(os.devnull)
    unshare(CLONE_NEWNS)
    mount.mount("none", "/", flags=mount.MS_REC | mount.MS_PRIVATE)
    mount.mount("tmpfs", "/proc", "tmpfs", _FLAGS, "mode=0755,size=64k,nr_inodes=64")
    os.chdir("/proc")
    for folder in ("proc", "dev", "view"):
        os.mkdir(folder, 0o755)  # noqa: PTH102  # relative to where we are
    os.close(os.open("dev/null", os.O_CREAT | os.O_WRONLY, 0o644))
    _attach(proc, "proc")
    _attach(null, "dev/null")
    mount.mount("none", ".", flags=mount.MS_REMOUNT | mount.MS_BIND | mount.MS_RDONLY | _FLAGS)
    _make_root()


def separate() -> None:
    """Give a child of a bare process mounts of its own."""
    unshare(CLONE_NEWNS)


def enter(script: Script, tree: int) -> None:
    """See this tree as the root and nothing else; for a bare process.

    pivot_root would let go of the root that was, but looks at every thread of the machine. What is covered is only to
    be reached by those who may mount or chroot.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    root = script.call(address_of("open"), script.data(b"/"), flags, check=NOT_NEGATIVE, what="open /")
    mount.attach(script, tree, root)
    script.call(address_of("close"), root)
    script.call(address_of("fchdir"), tree, check=NOT_NEGATIVE, what="fchdir")
    script.call(address_of("chroot"), script.data(b"."), check=NOT_NEGATIVE, what="chroot")
    script.call(address_of("close"), tree)


def enter_made_of(trees: Iterable[tuple[Shown, int | None]], *, processes: bool = False) -> None:
    """See a root that is made of these trees, and of /proc one's own descriptors; for a bare process.

    No more of /proc for a guest: hidepid hides nothing from group 0 (proc(5)), and every process's root is behind it.
    With `processes` it is mounted all the same, for one that starts others and is no longer root when it does.
    """
    descriptors = mount.clone_tree("/proc/self/fd")  # of this process, whatever it executes
    mount.mount("tmpfs", _PLACE, "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, "mode=0755,size=1m")
    os.chdir(_PLACE)
    for shown, tree in trees:
        place = Path(shown.path.lstrip("/"))
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if tree is None:
            place.symlink_to(shown.target)
            continue
        if shown.folder:
            place.mkdir(mode=0o755, exist_ok=True)
        elif not place.exists():
            place.touch(0o644)
        _attach(tree, str(place))
    if processes:
        os.close(descriptors)
        Path("proc").mkdir(mode=0o555, exist_ok=True)
        mount.mount("proc", "proc", "proc", _FLAGS, "hidepid=invisible,subset=pid")
    else:
        Path(_DESCRIPTORS).mkdir(mode=0o755, parents=True, exist_ok=True)
        _attach(descriptors, _DESCRIPTORS)
    flags = mount.MS_REMOUNT | mount.MS_BIND | mount.MS_RDONLY | mount.MS_NOSUID | mount.MS_NODEV
    mount.mount("none", ".", flags=flags)
    script = Script()
    enter(script, os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    script.run()


def of_host(needs: Iterable[Path]) -> Iterator[tuple[Shown, int | None]]:
    """What a command of the host's sees to run at all and, beside the usual, needs; as `show` gives each."""
    usual = [Path(path) for path in _OF_COMMANDS if os.path.lexists(path)]
    places = [path.resolve() for path in usual]
    others = {path for path in needs if not any(path.resolve().is_relative_to(place) for place in places)}
    for path in sorted([*usual, *others]):
        if path not in (Path("/"), Path("/proc")):  # the first would be all of it, and of the second it has its own
            yield show(path)


def show(path: Path) -> tuple[Shown, int | None]:
    """A file or folder of the host's, read-only, with what is mounted in it, and without devices but for one of /dev.

    The descriptor is the caller's to close; None for a symbolic link. Raises OSError.
    """
    if path.is_symlink():
        return Shown(path=str(path), target=str(path.readlink())), None
    tree = mount.clone_tree(path)
    attributes = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_RDONLY
    if Path("/dev") not in path.parents:
        attributes |= mount.MOUNT_ATTR_NODEV
    try:
        mount.set_attributes(tree, attributes, propagation=mount.MS_PRIVATE, recursive=True)
    except OSError:
        os.close(tree)
        raise
    return Shown(path=str(path), folder=path.is_dir()), tree


def _attach(tree: int, path: str) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        mount.attach_tree(tree, place)
    finally:
        os.close(place)
        os.close(tree)


def _make_root() -> None:
    """Make the working directory the root, and let go of the root that was."""
    check(libc.syscall(_PIVOT_ROOT, b".", b"."), "pivot_root")
    mount.unmount(".", mount.MNT_DETACH)
    os.chdir("/")
