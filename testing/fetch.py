"""Owns where the programs come from that tests use, and a kernel to boot: Debian's packages, unpacked here.

The machine stays as it is: apt runs with sources, lists, cache and state of its own, its hooks are switched
off, and packages are unpacked, never installed. The mirror is the one the machine's own apt sources name.
Only apt and dpkg do the work, so signatures, proxies and mirrors behave as on any Debian machine.

Nothing here needs root. `python -m testing.fetch` fetches by hand, `--again` starts afresh.
"""

import fcntl
import json
import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "containerd"
"""Where binaries are kept between runs."""

OVERRIDE = "WASM_SANDBOXER_TEST_CONTAINERD"
"""Environment variable: a folder with containerd, ctr and the runc shim (and perhaps runc), used instead."""

WASMEDGE_OVERRIDE = "WASM_SANDBOXER_TEST_WASMEDGE"
"""Environment variable: a wasmedge that is used instead."""

OLDEST = (2, 1)
"""The oldest containerd the tests are written for."""

_SUITES = ("testing", "unstable")
_WASMEDGE_SUITES = ("trixie",)  # which has the version that our engine knows
_APT_SECONDS = 600
_KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.pgp",  # the name from Debian 13 on
    "/usr/share/keyrings/debian-archive-keyring.gpg",
)


class FetchError(RuntimeError):
    """The binaries cannot be had; the message says why and what would help."""


@dataclass(frozen=True, kw_only=True)
class Binaries:
    """What a containerd of ours is run from: a folder with the daemon, `ctr` and the runc shim."""

    folder: Path
    version: tuple[int, ...]

    @property
    def containerd(self) -> Path:
        """The daemon."""
        return self.folder / "containerd"

    @property
    def ctr(self) -> Path:
        """Its own command-line client."""
        return self.folder / "ctr"


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """A Debian archive as the machine's own apt sources describe it."""

    uris: str
    signed_by: str = ""
    trusted: str = ""

    def stanza(self, suite: str) -> str:
        """The same archive with another suite, in the deb822 form of sources.list(5).

        `Targets` keeps apt from loading icons and translations too.
        """
        fields = {
            "Types": "deb",
            "URIs": self.uris,
            "Suites": suite,
            "Components": "main",
            "Targets": "Packages",
            "Signed-By": self.signed_by,
            "Trusted": self.trusted,
        }
        return "".join(f"{name}: {value}\n" for name, value in fields.items() if value)


def containerd() -> Binaries:
    """Give containerd ≥ 2.1 and ctr; the first call fetches them, which takes some seconds.

    Safe to call from several processes at once: one fetches, the others wait. Raises FetchError.
    """
    override = os.environ.get(OVERRIDE)
    if override:
        return Binaries(folder=Path(override), version=_version(Path(override, "containerd")))
    tree = _tree("containerd", _SUITES, _check_containerd)
    version = json.loads((tree / "complete.json").read_text())["version"]
    return Binaries(folder=tree / "usr/bin", version=tuple(version))


def runc() -> Path:
    """A runc that runs here, for comparisons. Raises FetchError."""
    override = Path(os.environ.get(OVERRIDE, "/nonexistent"), "runc")
    if override.exists():
        return override
    return _tree("runc", (_codename(),), _check_runc) / "usr/sbin/runc"


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel to boot: its image, and the modules that were asked for with what they need, in loading order."""

    release: str
    image: Path
    modules: tuple[Path, ...]


def kernel() -> Kernel:
    """Debian's kernel for this release, with the modules a virtual machine mounts its root by. Raises FetchError."""
    tree = _tree("linux-image-amd64", (_codename(),), _keep_kernel, _what_it_stands_for)
    facts = json.loads((tree / "complete.json").read_text())
    modules = tuple(tree / name for name in facts["modules"])
    return Kernel(release=facts["release"], image=tree / facts["image"], modules=modules)


def busybox() -> Path:
    """A shell and its tools in one static program. Raises FetchError."""
    return _tree("busybox-static", (_codename(),), _check_busybox) / "bin/busybox"


def wasmedge() -> Path:
    """A WasmEdge that runs here, with libraries of its own: the machine's libc may be too old for it.

    Raises FetchError.
    """
    override = os.environ.get(WASMEDGE_OVERRIDE)
    if override:
        return Path(override)
    return _tree("wasmedge", _WASMEDGE_SUITES, _check_wasmedge, _with_all_it_needs) / "wasmedge"


def crictl() -> Path | None:
    """The machine's own crictl, if it has one: Debian packages none, so it is never fetched."""
    found = shutil.which("crictl")
    return Path(found) if found else None


def debian_mirrors(etc: Path = Path("/etc/apt")) -> list[Mirror]:
    """The archives in the machine's apt sources that may be Debian's own, likeliest first."""
    stanzas: list[dict[str, str]] = []
    for path in (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))):
        if path.suffix == ".sources" and path.is_file():
            stanzas += _deb822(path.read_text())
        elif path.suffix == ".list" and path.is_file():
            stanzas += _one_line(path.read_text())
    found = [stanza for stanza in stanzas if _may_be_debian(stanza)]
    found.sort(key=_strangeness)
    mirrors = [
        Mirror(
            uris=stanza["uris"],
            signed_by=stanza.get("signed-by") or _default_keyring(),
            trusted=stanza.get("trusted", ""),
        )
        for stanza in found
    ]
    return list(dict.fromkeys(mirrors))


Check: TypeAlias = Callable[[Path], Mapping[str, object]]
"""Looks at an unpacked package: facts to keep of it; raises FetchError if it is of no use."""

Get: TypeAlias = Callable[[Sequence[str], Path, str], None]
"""Brings packages into a folder, given the apt command, the folder and a name."""


def _alone(apt: Sequence[str], folder: Path, package: str) -> None:
    _run([*apt, "download", package], cwd=folder)


def _what_it_stands_for(apt: Sequence[str], folder: Path, package: str) -> None:
    """What depends on a kernel's release in its name, instead of the empty package that only names it."""
    _alone(apt, folder, package)
    (deb,) = folder.glob("*.deb")
    needed = _run(["dpkg", "-f", str(deb), "Depends"]).replace(",", " ").split()
    deb.unlink()
    _run([*apt, "download", *(name for name in needed if name.startswith("linux-image-"))], cwd=folder)


def _with_all_it_needs(apt: Sequence[str], folder: Path, package: str) -> None:
    """The package and its dependencies down to libc: to that apt nothing is installed."""
    _run([*apt, "-o", f"Dir::Cache::archives={folder}", "install", "-y", "--no-install-recommends",
          "--download-only", package])  # fmt: skip


def _tree(package: str, suites: Sequence[str], check: Check, get: Get = _alone) -> Path:
    """The folder `package` is unpacked in; fetched under a lock unless it is there already."""
    tree = CACHE / package
    if not (tree / "complete.json").exists():
        with _locked():
            if not (tree / "complete.json").exists():
                _fetch(package, suites, tree, check, get)
    return tree


def _fetch(package: str, suites: Sequence[str], tree: Path, check: Check, get: Get) -> None:
    """Bring the first package that passes `check` into `tree`, which is there only once it is whole."""
    way_out = f"set {OVERRIDE} to a folder of binaries"
    if package == "wasmedge":
        way_out = f"set {WASMEDGE_OVERRIDE} to one"
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise FetchError(f"no {tool} to fetch Debian's {package} with; {way_out}")
    failures: list[str] = []
    for mirror, suite in ((mirror, suite) for suite in suites for mirror in debian_mirrors()):
        new = _emptied(tree.with_name(f"{package}.new"))
        try:
            _unpack(package, mirror, suite, get, new)
            facts = check(new)
        except FetchError as error:
            failures.append(f"{suite} at {mirror.uris}: {error}")
            continue
        (new / "complete.json").write_text(json.dumps(facts))
        shutil.rmtree(tree, ignore_errors=True)
        new.rename(tree)
        return
    why = "; ".join(failures) or "no Debian mirror in /etc/apt/sources.list*"
    raise FetchError(f"cannot fetch {package}: {why}; or {way_out}")


def _unpack(package: str, mirror: Mirror, suite: str, get: Get, target: Path) -> None:
    """Load and unpack a package with an apt that reads and writes nothing of the machine's but its own folder."""
    apt = _emptied(CACHE / "apt")
    for folder in ("sources.d", "lists/partial", "cache/archives/partial", "debs/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.d" / "debian.sources").write_text(mirror.stanza(suite))
    (apt / "apt.conf").write_text(_CONFIGURATION.format(folder=apt))
    command = ["apt-get", "-qq", "-c", str(apt / "apt.conf")]
    try:
        _run([*command, "update"], cwd=apt / "debs")
        get(command, apt / "debs", package)
        for deb in (apt / "debs").glob("*.deb"):
            _run(["dpkg", "-x", str(deb), str(target)])
    finally:
        shutil.rmtree(apt)


# Read after the machine's own configuration, so proxies and the like stay in force. The hooks cleared here
# would touch the machine's cache. Root need not drop to _apt, which may not be able to enter our folder.
# Test machines' mirrors may be frozen, and testing's index, unlike stable's, expires within days: an old one
# will do, so long as Debian has signed it.
_CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{folder}/sources.d";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
"""


def _check_containerd(unpacked: Path) -> Mapping[str, object]:
    version = _version(unpacked / "usr/bin/containerd")
    if version < OLDEST:
        raise FetchError(f"containerd {'.'.join(map(str, version))} is too old, {OLDEST[0]}.{OLDEST[1]} is needed")
    return {"version": version}


def _check_runc(unpacked: Path) -> Mapping[str, object]:
    return {"version": _run([str(unpacked / "usr/sbin/runc"), "--version"])}


def _check_wasmedge(unpacked: Path) -> Mapping[str, object]:
    """Write the command that runs it with the loader and the libraries that came with it."""
    (loader,) = unpacked.glob("usr/lib/*/ld-linux-*.so.*")
    command = [str(loader), "--library-path", str(loader.parent), str(unpacked / "usr/bin/wasmedge")]
    # Where it lies in the end is known already: the folder is renamed as a whole.
    words = [word.replace(f"{unpacked}/", f"{CACHE / 'wasmedge'}/") for word in command]
    script = unpacked / "wasmedge"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    script.chmod(0o755)
    return {"version": _run([*command, "--version"])}


_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")


def _keep_kernel(unpacked: Path) -> Mapping[str, object]:
    """Throw away all but the image and the few modules: hundreds of megabytes."""
    (image,) = (unpacked / "boot").glob("vmlinuz-*")
    release = image.name.removeprefix("vmlinuz-")
    (folder,) = unpacked.glob(f"**/modules/{release}")
    needs = _needs_of_modules(folder)
    kept = [_plain(folder / name) for name in needs]
    for path in unpacked.rglob("*"):
        if path.is_symlink() or (path.is_file() and path not in (image, *kept)):
            path.unlink()
    return {
        "release": release,
        "image": str(image.relative_to(unpacked)),
        "modules": [str(path.relative_to(unpacked)) for path in kept],
    }


def _needs_of_modules(folder: Path) -> list[str]:
    """The modules we load, as paths in the folder, each after those that it needs (modules.dep(5) has them so)."""
    paths = [str(path.relative_to(folder)) for path in folder.rglob("*.ko*")]
    of_name = {path.rpartition("/")[2].partition(".")[0].replace("-", "_"): path for path in paths}
    ordered: list[str] = []

    def add(name: str) -> None:
        path = of_name.get(name.replace("-", "_"))
        if path is None or path in ordered:  # None: it is built in
            return
        for needed in filter(None, _modinfo(folder / path, "depends").split(",")):
            add(needed)
        ordered.append(path)

    for name in _MODULES:
        add(name)
    return ordered


def _modinfo(module: Path, field: str) -> str:
    """A field of a module's own description, NUL-terminated `name=value` in its section .modinfo."""
    data = lzma.decompress(module.read_bytes()) if module.suffix == ".xz" else module.read_bytes()
    found = re.search(rb"\0" + field.encode() + rb"=([^\0]*)\0", data)
    return found[1].decode() if found else ""


def _plain(module: Path) -> Path:
    """The module uncompressed, as insmod without a library takes it."""
    if module.suffix != ".xz":
        return module
    plain = module.with_suffix("")
    plain.write_bytes(lzma.decompress(module.read_bytes()))
    return plain


def _check_busybox(unpacked: Path) -> Mapping[str, object]:
    return {"version": _run([str(unpacked / "bin/busybox"), "--help"]).splitlines()[0]}


def _version(binary: Path) -> tuple[int, ...]:
    """What `containerd --version` says; a binary made for a newer libc says so here."""
    said = _run([str(binary), "--version"])
    found = re.search(r"(?<![\d.])(\d+)\.(\d+)\.(\d+)", said)
    if found is None:
        raise FetchError(f"{binary} --version says no version: {said.strip()}")
    return tuple(map(int, found.groups()))


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_APT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"{command[0]} did not run: {error}") from error
    if done.returncode:
        raise FetchError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


@contextmanager
def _locked() -> Iterator[None]:
    """One fetch at a time among all processes; the lock goes with its holder, however that ends."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _deb822(text: str) -> list[dict[str, str]]:
    """Stanzas of `Name: value` lines; a line that starts with a blank goes on with the value before it."""
    stanzas: list[dict[str, str]] = [{}]
    name = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if not line.strip():
            stanzas.append({})
        elif line[0].isspace():
            stanzas[-1][name] += "\n" + line
        else:
            name, _, value = line.partition(":")
            name = name.lower()
            stanzas[-1][name] = value.strip()
    return [stanza for stanza in stanzas if stanza]


def _one_line(text: str) -> list[dict[str, str]]:
    """Lines of `deb [option=value …] uri suite component…`, as stanzas of the other form."""
    pattern = re.compile(r"(deb\S*)\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)")
    stanzas: list[dict[str, str]] = []
    for line in text.splitlines():
        found = pattern.match(line.strip())
        if found is None:
            continue
        kind, options, uris, suites, components = found.groups()
        stanza = dict(option.split("=", 1) for option in (options or "").split() if "=" in option)
        stanza |= {"types": kind, "uris": uris, "suites": suites, "components": components}
        stanzas.append(stanza)
    return stanzas


def _may_be_debian(stanza: Mapping[str, str]) -> bool:
    """Whether a stanza names the main part of a release: an update or security suite lacks the rest."""
    return (
        "deb" in stanza.get("types", "").split()
        and "main" in stanza.get("components", "").split()
        and stanza.get("enabled", "yes") != "no"
        and not stanza.get("uris", "cdrom:").startswith("cdrom:")
        and bool({_codename(), "stable", *_SUITES, "sid"} & set(stanza.get("suites", "").split()))
    )


def _strangeness(stanza: Mapping[str, str]) -> int:
    """How unlike Debian's own archive: other vendors may name their suites after Debian's too."""
    return 2 * ("debian-archive" not in stanza.get("signed-by", "")) + (
        not stanza["uris"].split()[0].rstrip("/").endswith("/debian")
    )


def _default_keyring() -> str:
    """Debian's keys, for a source that does not name its own; none leaves it to apt's trusted keys."""
    return next((keyring for keyring in _KEYRINGS if Path(keyring).exists()), "")


def _codename() -> str:
    """The machine's Debian release by name (os-release(5))."""
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return "stable"
    found = re.search(r'^VERSION_CODENAME="?(\w+)', text, re.MULTILINE)
    return found[1] if found else "stable"


def _main() -> None:
    if "--again" in sys.argv[1:]:
        shutil.rmtree(CACHE, ignore_errors=True)
    found = containerd()
    version = ".".join(map(str, found.version))
    sys.stdout.write(f"containerd {version}: {found.folder}\nrunc: {runc()}\nwasmedge: {wasmedge()}\n")


if __name__ == "__main__":
    _main()
