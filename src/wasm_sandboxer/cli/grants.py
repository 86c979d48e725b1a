"""What the caller of `run` gives the guest: variables, folders and files."""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from wasm_sandboxer.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from wasm_sandboxer.guest import Preopen


def environment(files: tuple[Path, ...], settings: tuple[str, ...]) -> dict[str, str]:
    """The guest's variables from --env-file, then --env; a bare name takes the caller's, or none if unset."""
    lines = [(f"--env-file {file}:{number}", line) for file in files for number, line in _lines(file)]
    variables: dict[str, str] = {}
    for where, setting in [*lines, *((f"--env {setting}", setting) for setting in settings)]:
        name, equals, value = setting.partition("=")
        if not name or "\0" in setting:
            raise InvalidArgument(f"{where}: write K=V, or K to take yours")
        if equals:
            variables[name] = value
        elif name in os.environ:
            variables[name] = os.environ[name]
    return variables


def _lines(file: Path) -> list[tuple[int, str]]:
    try:
        text = file.read_text()
    except OSError as error:
        raise InvalidArgument(f"--env-file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidArgument(f"--env-file {file}: not text in UTF-8") from None
    numbered = enumerate(text.splitlines(), 1)
    return [(number, line.strip()) for number, line in numbered if line.strip() and not line.lstrip().startswith("#")]


def preopens(dirs: tuple[str, ...], cwd: str | None, undo: ExitStack) -> "tuple[Preopen, ...]":
    """The guest's folders from --dir; what is made for single files is undone by `undo`."""
    given = [_parse(text) for text in dirs]
    guests = [preopen.guest for preopen in given]
    for guest in guests:
        if guests.count(guest) > 1:
            raise InvalidArgument(f"--dir: two folders are given the same place, {guest}")
    files = [preopen for preopen in given if not preopen.host.is_dir()]
    folders = [preopen for preopen in given if preopen.host.is_dir()]
    if files:
        folders += _file_folders(files, undo)
    return (*folders, *_working_directory(folders, cwd))


def _parse(text: str) -> "Preopen":
    from wasm_sandboxer.guest import Preopen  # noqa: PLC0415  # start-up time

    host, _, rest = text.partition(":")
    guest, _, mode = rest.partition(":")
    if not host or mode not in ("", "ro", "rw"):
        raise InvalidArgument(f"--dir {text}: write HOST, HOST:GUEST or HOST:GUEST:ro")
    path = Path(host)
    try:
        path.stat()
        readable = os.access(path, os.R_OK)
    except OSError as error:
        raise InvalidArgument(f"--dir {text}: {host}: {error.strerror}") from None
    if not readable:
        raise InvalidArgument(f"--dir {text}: {host}: you may not read it")
    if not (path.is_dir() or path.is_file()):
        raise InvalidArgument(f"--dir {text}: {host} is neither a folder nor a file")
    return Preopen(host=path, guest=guest or host, writable=mode != "ro")


def _file_folders(files: "list[Preopen]", undo: ExitStack) -> "list[Preopen]":
    """Folders that hold just these files, in mounts that only this process sees."""
    from wasm_sandboxer.guest import Preopen  # noqa: PLC0415
    from wasm_sandboxer.linux import mount, namespace  # noqa: PLC0415

    base = Path(tempfile.mkdtemp(prefix="wasm-sandboxer-"))
    undo.callback(base.rmdir)
    try:
        namespace.private_mounts()
        mount.mount("tmpfs", base, "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, "mode=0700,size=1m")
    except OSError as error:
        raise Unsupported(
            f"--dir {files[0].host}: giving a single file takes root or user namespaces, and this host refuses "
            f"them ({error.strerror}); give its folder instead"
        ) from None
    undo.callback(mount.unmount, base, mount.MNT_DETACH)
    parents: dict[str, tuple[Path, list[bool]]] = {}
    for preopen in files:
        place = PurePosixPath(preopen.guest)
        parent = str(place.parent)
        folder, writable = parents.setdefault(parent, (base / str(len(parents)), []))
        folder.mkdir(exist_ok=True)
        target = folder / place.name
        target.touch()
        mount.mount(preopen.host, target, flags=mount.MS_BIND)
        if not preopen.writable:
            mount.mount(
                "none", target, flags=mount.MS_REMOUNT | mount.MS_BIND | mount.MS_RDONLY | _kept_flags(target)
            )
        writable.append(preopen.writable)
    mount.mount("none", base, flags=mount.MS_REMOUNT | mount.MS_RDONLY | mount.MS_NOSUID | mount.MS_NODEV)
    return [Preopen(host=folder, guest=guest, writable=any(flags)) for guest, (folder, flags) in parents.items()]


def _kept_flags(target: Path) -> int:
    """Flags of the file's own mount that a remount may not drop inside a user namespace."""
    from wasm_sandboxer.linux import mount  # noqa: PLC0415

    flags = os.statvfs(target).f_flag
    pairs = ((os.ST_NOSUID, mount.MS_NOSUID), (os.ST_NODEV, mount.MS_NODEV), (os.ST_NOEXEC, mount.MS_NOEXEC))
    return sum(kept for flag, kept in pairs if flags & flag)


def _working_directory(folders: "list[Preopen]", cwd: str | None) -> "list[Preopen]":
    """The folder of relative paths: WASI has no working directory, and "." is what its libc looks for."""
    from wasm_sandboxer.guest import Preopen  # noqa: PLC0415

    if cwd is None:
        return []
    for preopen in sorted(folders, key=lambda preopen: -len(preopen.guest)):
        inner = PurePosixPath(cwd)
        if inner.is_relative_to(preopen.guest):
            host = preopen.host / inner.relative_to(preopen.guest)
            if not host.is_dir():
                raise InvalidArgument(f"--cwd {cwd}: no such folder in what --dir gives at {preopen.guest}")
            if not host.resolve().is_relative_to(preopen.host.resolve()):
                raise InvalidArgument(f"--cwd {cwd}: leads outside of what --dir gives at {preopen.guest}")
            if any(folder.guest in ("/", ".") for folder in folders):
                return []  # a program that takes relative paths from the root would lose it to another "."
            return [Preopen(host=host, guest=".", writable=preopen.writable)]
    raise InvalidArgument(f"--cwd {cwd}: no --dir gives it")
