"""Owns what a virtual machine runs from: this machine's own system, or with another processor a Debian for that.

Of that the packages are unpacked and not set up, which is enough for Python and the tools that tests call. What is
pure Python in its environment is that of this one; only wheels with machine code are another's.
"""

import fcntl
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from testing import fetch
from testing.mirrors import codename
from testing.packages import ARCHITECTURES, CACHE, FetchError, Packages, run, with_all_they_need

CHECKOUT = Path(__file__).resolve().parent.parent
_LOCK = CHECKOUT / "requirements" / "dev.txt"
_PACKAGES = (
    "bash", "busybox-static", "coreutils", "dash", "iproute2", "libseccomp2", "libstdc++6", "login", "mount",
    "procps", "python3", "util-linux",
)  # fmt: skip
_NATIVE = ("grpcio", "grpcio-tools", "hypothesis", "protobuf", "wasmtime")  # wheels with machine code
_GLIBC = ("2014", "_2_17", "_2_28", "_2_34")  # that wheels are made for
_PROGRAM = """\
#!{python}
import sys
from wasm_sandboxer.__main__ import main
sys.exit(main())
"""


@dataclass(frozen=True, kw_only=True)
class System:
    """A root, by its path here; an environment's programs, there; and variables for those who run in it."""

    root: Path
    programs: Path
    busybox: Path
    variables: Mapping[str, str] = field(default_factory=dict)


def system(processor: str) -> System:
    """That of this machine, or of another processor, which the first call fetches: some hundred megabytes.

    Raises FetchError.
    """
    if processor == platform.machine():
        return System(root=Path("/"), programs=Path(sys.executable).parent, busybox=fetch.busybox())
    architecture = ARCHITECTURES[processor]
    packages = Packages(
        name="system",
        suites=(codename(),),
        get=with_all_they_need(*_PACKAGES),
        check=_make_whole,
        architecture=architecture,
    )
    root = packages.unpacked()
    return System(
        root=root,
        programs=_environment(processor, str(packages.facts()["python"])) / "bin",
        busybox=root / "usr/bin/busybox",
        variables={
            fetch.OVERRIDE: str(fetch.foreign_containerd(architecture)),
            fetch.WASMEDGE_OVERRIDE: str(fetch.wasmedge(architecture)),
        },
    )


def _make_whole(unpacked: Path) -> Mapping[str, object]:
    """What the packages' own scripts would do, as far as anybody here minds."""
    for name in ("bin", "lib", "sbin"):  # which packages of before the great merge still have
        apart = unpacked / name
        if apart.is_dir() and not apart.is_symlink():
            shutil.copytree(apart, unpacked / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(apart)
        apart.symlink_to(f"usr/{name}")
    (unpacked / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (unpacked / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (unpacked / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (library,) = unpacked.glob("usr/lib/python3.*/")
    version = library.name.removeprefix("python")
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":  # else each start there compiles it anew
        subprocess.run([sys.executable, "-m", "compileall", "-q", library], capture_output=True, check=False)
    return {"python": version}


def _environment(processor: str, version: str) -> Path:
    """A virtual environment for that Python, with the wheels that the lock file names, and this one's pure ones."""
    folder = CACHE.parent / f"environment-{processor}"
    wanted = "\n".join([version, *_NATIVE, str(CHECKOUT), sys.prefix, _LOCK.read_text()])
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made_for = folder / "made-for"
        if made_for.exists() and made_for.read_text() == wanted:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        site = folder / "lib" / f"python{version}" / "site-packages"
        site.mkdir(parents=True)
        _install(processor, version, site)
        (site / "checkout.pth").write_text(f"{CHECKOUT / 'src'}\n{sysconfig.get_path('purelib')}\n")
        (folder / "bin").mkdir()
        python, program = folder / "bin/python", folder / "bin/wasm-sandboxer"
        python.symlink_to("/usr/bin/python3")
        program.write_text(_PROGRAM.format(python=python))
        program.chmod(0o755)
        (folder / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
        made_for.write_text(wanted)
    return folder


def _install(processor: str, version: str, site: Path) -> None:
    """Let pip choose that processor's wheels, and check them against the lock file."""
    wheels = site.parent / "wanted.txt"
    wheels.write_text("".join(_locked(name) for name in _NATIVE))
    tag = f"cp{version.replace('.', '')}"
    kinds = [
        *(f"--platform=manylinux{glibc}_{processor}" for glibc in _GLIBC),
        *(f"--abi={abi}" for abi in (tag, "abi3", "none")),
        f"--python-version={version}", "--implementation=cp", "--only-binary=:all:",
    ]  # fmt: skip
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    run([*pip, "--require-hashes", *kinds, f"--target={site}", "-r", str(wheels)])


def _locked(name: str) -> str:
    """A distribution's lines in the lock file: its version and its hashes."""
    found = re.search(rf"^{re.escape(name)}==.*\n(?:^[ \t]+--hash=.*\n)+", _LOCK.read_text(), re.MULTILINE)
    if found is None:
        raise FetchError(f"{_LOCK.name} has no {name}")
    return found[0]
