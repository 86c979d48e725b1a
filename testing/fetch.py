"""Owns which programs of Debian's the tests use: containerd, runc, WasmEdge, busybox.

`python -m testing.fetch` fetches by hand, `--again` starts afresh.
"""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testing.mirrors import NEWEST, codename
from testing.packages import CACHE, FetchError, Packages, alone, run, with_all_they_need

OVERRIDE = "WASM_SANDBOXER_TEST_CONTAINERD"
"""Environment variable: a folder with containerd, ctr and the runc shim (and perhaps runc), used instead."""

WASMEDGE_OVERRIDE = "WASM_SANDBOXER_TEST_WASMEDGE"
"""Environment variable: a wasmedge that is used instead."""

OLDEST = (2, 1)
"""The oldest containerd the tests are written for."""

_WASMEDGE = "wasmedge"  # the command in its folder
_WASMEDGE_SUITES = ("trixie",)  # which has the version that our engine knows
_WAY_OUT = f"set {OVERRIDE} to a folder of binaries"
_WASMEDGE_WAY_OUT = f"set {WASMEDGE_OVERRIDE} to one"


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


def containerd() -> Binaries:
    """Give containerd ≥ 2.1 and ctr; the first call fetches them, which takes some seconds. Raises FetchError."""
    override = os.environ.get(OVERRIDE)
    if override:
        return Binaries(folder=Path(override), version=_version(Path(override, "containerd")))
    packages = Packages(
        name="containerd", suites=NEWEST, get=alone("containerd"), check=_check_containerd, way_out=_WAY_OUT
    )
    return Binaries(folder=packages.unpacked() / "usr/bin", version=tuple(packages.facts()["version"]))


def foreign_containerd(architecture: str) -> Path:
    """The folder of a containerd for another processor, which nobody here can ask for its version."""
    packages = Packages(
        name="containerd", suites=NEWEST, get=alone("containerd"), check=lambda _: {}, architecture=architecture
    )
    return packages.unpacked() / "usr/bin"


def runc() -> Path:
    """A runc that runs here, for comparisons. Raises FetchError."""
    override = Path(os.environ.get(OVERRIDE, "/nonexistent"), "runc")
    if override.exists():
        return override
    packages = Packages(name="runc", suites=(codename(),), get=alone("runc"), check=_check_runc, way_out=_WAY_OUT)
    return packages.unpacked() / "usr/sbin/runc"


def busybox() -> Path:
    """A shell and its tools in one static program. Raises FetchError."""
    packages = Packages(name="busybox-static", suites=(codename(),), get=alone("busybox-static"), check=lambda _: {})
    return packages.unpacked() / "bin/busybox"


def wasmedge(architecture: str = "") -> Path:
    """A WasmEdge with libraries of its own: the machine's libc may be too old for it. Raises FetchError.

    With an architecture it is another processor's.
    """
    override = os.environ.get(WASMEDGE_OVERRIDE)
    if override and not architecture:
        return Path(override)
    packages = Packages(
        name="wasmedge",
        suites=_WASMEDGE_SUITES,
        get=with_all_they_need("wasmedge"),
        check=lambda unpacked: _write_wasmedge(unpacked, runs_here=not architecture),
        architecture=architecture,
        way_out=_WASMEDGE_WAY_OUT,
    )
    return packages.unpacked() / _WASMEDGE


def crictl() -> Path | None:
    """The machine's own crictl, if it has one: Debian packages none, so it is never fetched."""
    found = shutil.which("crictl")
    return Path(found) if found else None


def _check_containerd(unpacked: Path) -> Mapping[str, object]:
    version = _version(unpacked / "usr/bin/containerd")
    if version < OLDEST:
        raise FetchError(f"containerd {'.'.join(map(str, version))} is too old, {OLDEST[0]}.{OLDEST[1]} is needed")
    return {"version": version}


def _check_runc(unpacked: Path) -> Mapping[str, object]:
    return {"version": run([str(unpacked / "usr/sbin/runc"), "--version"])}


def _write_wasmedge(unpacked: Path, *, runs_here: bool) -> Mapping[str, object]:
    """Write the command that runs it with the loader and the libraries that came with it."""
    (loader,) = unpacked.glob("usr/lib/*/ld-linux-*.so.*")
    command = [str(loader), "--library-path", str(loader.parent), str(unpacked / "usr/bin/wasmedge")]
    # Where it lies in the end is known already: the folder is renamed as a whole.
    words = [word.replace(f"{unpacked}/", f"{unpacked.with_suffix('')}/") for word in command]
    script = unpacked / _WASMEDGE
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    script.chmod(0o755)
    return {"version": run([*command, "--version"])} if runs_here else {}


def _version(binary: Path) -> tuple[int, ...]:
    """What `containerd --version` says; a binary made for a newer libc says so here."""
    said = run([str(binary), "--version"])
    found = re.search(r"(?<![\d.])(\d+)\.(\d+)\.(\d+)", said)
    if found is None:
        raise FetchError(f"{binary} --version says no version: {said.strip()}")
    return tuple(map(int, found.groups()))


def _main() -> None:
    if "--again" in sys.argv[1:]:
        shutil.rmtree(CACHE, ignore_errors=True)
    found = containerd()
    version = ".".join(map(str, found.version))
    sys.stdout.write(f"containerd {version}: {found.folder}\nrunc: {runc()}\nwasmedge: {wasmedge()}\n")


if __name__ == "__main__":
    _main()
