"""What the caller of `run` gives the guest: variables, folders and files."""

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from wasm_sandboxer.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from wasm_sandboxer.guest import Preopen

_PLACES_TO_MOUNT = (Path("/mnt"), Path("/media"), Path("/srv"))  # which no program needs


def environment(files: tuple[Path, ...], settings: tuple[str, ...]) -> dict[str, str]:
    """The guest's variables from --env-file, then --env; a bare name takes the caller's, or none if unset."""
    lines = [(f"--env-file {file}:{number}", line) for file in files for number, line in _lines(file)]
    variables: dict[str, str] = {}
    for where, setting in lines:
        _check_name(where, setting.partition("=")[0])
    for where, setting in [*lines, *((f"--env {setting}", setting) for setting in settings)]:
        name, equals, value = setting.partition("=")
        if not name or "\0" in setting:
            raise InvalidArgument(f"{where}: write K=V, or K to take yours")
        if equals:
            variables[name] = value
        elif name in os.environ:
            variables[name] = os.environ[name]
    return variables


def _check_name(where: str, name: str) -> None:
    """Refuse a name with a blank in it, which is not what the line's writer meant; docker does so, too."""
    if not any(letter.isspace() for letter in name):
        return
    shell = "; this is no shell's file, so leave the `export` out" if name.split(maxsplit=1)[0] == "export" else ""
    raise InvalidArgument(f"{where}: the name {name!r} has a blank in it{shell}; write K=V, or K to take yours")


def _lines(file: Path) -> list[tuple[int, str]]:
    """The settings of a file with their lines' numbers; blanks before one are dropped, those after it are its own."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidArgument(f"--env-file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidArgument(f"--env-file {file}: not text in UTF-8") from None
    numbered = enumerate(text.split("\n"), 1)
    settings = ((number, line.lstrip()) for number, line in numbered)
    return [(number, setting) for number, setting in settings if setting and not setting.startswith("#")]


def preopens(dirs: tuple[str, ...], cwd: str | None, root: Path) -> "tuple[Preopen, ...]":
    """The guest's folders from --dir; single files are mounted below root, where only this process sees it."""
    given = [_parse(text) for text in dirs]
    files = [preopen for preopen in given if not preopen.host.is_dir()]
    folders = [preopen for preopen in given if preopen.host.is_dir()]
    _check_places(folders, files)
    if files:
        folders += _file_folders(files, _mount_point(files, folders, root))
    return (*folders, *_working_directory(folders, cwd))


def _check_places(folders: "list[Preopen]", files: "list[Preopen]") -> None:
    """Raise InvalidArgument where the guest would find one thing in the place of another."""
    places = [PurePosixPath(preopen.guest) for preopen in (*folders, *files)]
    for place in places:
        if places.count(place) > 1:
            raise InvalidArgument(f"--dir: two are given the same place, {place}")
    for preopen in files:
        place = PurePosixPath(preopen.guest)
        if place.name in ("", ".."):
            raise InvalidArgument(f"--dir {preopen.host}:{place}: this cannot be the name of a file")
        if place.parent in places:
            raise InvalidArgument(
                f"--dir {preopen.host}:{place}: {place.parent} is a folder of its own; give the file another place"
            )


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
    try:
        (guest or host).encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"--dir {text}: WASI knows only paths in UTF-8; give another as HOST:GUEST") from None
    return Preopen(host=path, guest=guest or host, writable=mode != "ro")


def _mount_point(files: "list[Preopen]", folders: "list[Preopen]", root: Path) -> Path:
    """A folder to mount on: the store's own, or where that cannot be one of the host's that hides nothing given."""
    own = root / "files"
    try:
        own.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        given = [preopen.host.resolve() for preopen in (*files, *folders)]
        for place in _PLACES_TO_MOUNT:
            if place.is_dir() and not any(host.is_relative_to(place) for host in given):
                return place
        raise InvalidArgument(
            f"--dir {files[0].host}: there is no folder to mount a single file in: {own}: {error.strerror}; give "
            "another --root, or the file's folder"
        ) from None
    else:
        return own


def _file_folders(files: "list[Preopen]", base: Path) -> "list[Preopen]":
    """Folders that hold just these files, in mounts that only this process sees and that end with it."""
    from wasm_sandboxer.guest import Preopen  # noqa: PLC0415
    from wasm_sandboxer.linux import mount, namespace  # noqa: PLC0415

    try:
        namespace.private_mounts()
        mount.mount("tmpfs", base, "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, "mode=0700,size=1m")
    except OSError as error:
        raise Unsupported(
            f"--dir {files[0].host}: giving a single file takes root or user namespaces, and this host refuses "
            f"them ({error.strerror}); give its folder instead"
        ) from None
    parents: dict[str, tuple[Path, list[bool]]] = {}
    for preopen in files:
        place = PurePosixPath(preopen.guest)
        parent = str(place.parent)
        folder, writable = parents.setdefault(parent, (base / str(len(parents)), []))
        folder.mkdir(exist_ok=True)
        try:
            _mount_file(preopen, folder / place.name)
        except OSError as error:
            raise InvalidArgument(f"--dir {preopen.host}:{place}: {error.strerror}") from None
        writable.append(preopen.writable)
    mount.mount("none", base, flags=mount.MS_REMOUNT | mount.MS_RDONLY | mount.MS_NOSUID | mount.MS_NODEV)
    return [Preopen(host=folder, guest=guest, writable=any(flags)) for guest, (folder, flags) in parents.items()]


def _mount_file(preopen: "Preopen", target: Path) -> None:
    from wasm_sandboxer.linux import mount  # noqa: PLC0415

    target.touch()
    mount.mount(preopen.host, target, flags=mount.MS_BIND)
    if not preopen.writable:
        flags = mount.MS_REMOUNT | mount.MS_BIND | mount.MS_RDONLY | _kept_flags(target)
        mount.mount("none", target, flags=flags)


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
            try:
                found = host.is_dir()
            except OSError as error:
                raise InvalidArgument(f"--cwd {cwd}: {error.strerror}") from None
            if not found:
                raise InvalidArgument(f"--cwd {cwd}: no such folder in what --dir gives at {preopen.guest}")
            if not host.resolve().is_relative_to(preopen.host.resolve()):
                raise InvalidArgument(f"--cwd {cwd}: leads outside of what --dir gives at {preopen.guest}")
            if any(folder.guest in ("/", ".") for folder in folders):
                return []  # a program that takes relative paths from the root would lose it to another "."
            return [Preopen(host=host, guest=".", writable=preopen.writable)]
    raise InvalidArgument(f"--cwd {cwd}: no --dir gives it")
