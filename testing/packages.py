"""Owns packages of Debian's, unpacked here, for this machine's processor or another's.

The machine stays as it is: apt runs with sources, lists, cache and state of its own, its hooks are switched
off, and packages are unpacked, never installed. The mirror is the one the machine's own apt sources name.
Only apt and dpkg do the work, so signatures, proxies and mirrors behave as on any Debian machine.

Nothing here needs root.
"""

import fcntl
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from testing.mirrors import Mirror, debian_mirrors

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "containerd"
"""Where what is fetched is kept between runs."""

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Debian's names of processors, by the kernel's."""

_APT_SECONDS = 600


class FetchError(RuntimeError):
    """What is asked for cannot be had; the message says why and what would help."""


Check: TypeAlias = Callable[[Path], Mapping[str, Any]]
"""Looks at what was unpacked: facts to keep of it; raises FetchError if it is of no use."""

Get: TypeAlias = Callable[[Sequence[str], Path], None]
"""Brings packages into a folder, given the apt command and the folder."""


@dataclass(frozen=True, kw_only=True)
class Packages:
    """Packages that are kept unpacked in one folder: its name, and how they are had.

    The first suite whose packages pass `check` is taken. `architecture` is Debian's name of another machine's
    processor, `way_out` what to do where they cannot be had.
    """

    name: str
    suites: Sequence[str]
    get: Get
    check: Check
    architecture: str = ""
    way_out: str = ""

    @property
    def folder(self) -> Path:
        """Where they are, or will be."""
        return CACHE / (f"{self.name}-{self.architecture}" if self.architecture else self.name)

    def unpacked(self) -> Path:
        """The folder with all of them; fetched under a lock unless it is there already.

        Safe to call from several processes at once: one fetches, the others wait. Raises FetchError.
        """
        if not (self.folder / "complete.json").exists():
            with _locked():
                if not (self.folder / "complete.json").exists():
                    self._fetch()
        return self.folder

    def facts(self) -> Mapping[str, Any]:
        """What `check` has found."""
        return dict(json.loads((self.unpacked() / "complete.json").read_text()))

    def _fetch(self) -> None:
        """Bring them into the folder, which is there only once it is whole."""
        way_out = f"; {self.way_out}" if self.way_out else ""
        for tool in ("apt-get", "dpkg"):
            if shutil.which(tool) is None:
                raise FetchError(f"no {tool} to fetch Debian's {self.name} with{way_out}")
        failures: list[str] = []
        for mirror, suite in ((mirror, suite) for suite in self.suites for mirror in debian_mirrors()):
            new = _emptied(self.folder.with_name(f"{self.folder.name}.new"))
            try:
                self._unpack(mirror, suite, new)
                facts = self.check(new)
            except FetchError as error:
                failures.append(f"{suite} at {mirror.uris}: {error}")
                continue
            (new / "complete.json").write_text(json.dumps(facts))
            shutil.rmtree(self.folder, ignore_errors=True)
            new.rename(self.folder)
            return
        why = "; ".join(failures) or "no Debian mirror in /etc/apt/sources.list*"
        raise FetchError(f"cannot fetch {self.name}: {why}{way_out}")

    def _unpack(self, mirror: Mirror, suite: str, target: Path) -> None:
        """Load and unpack with an apt that reads and writes nothing of the machine's but its own folder."""
        apt = _emptied(CACHE / "apt")
        for folder in ("sources.d", "lists/partial", "cache/archives/partial", "debs/partial"):
            (apt / folder).mkdir(parents=True)
        (apt / "status").touch()
        (apt / "sources.d" / "debian.sources").write_text(mirror.stanza(suite))
        foreign = f'APT::Architecture "{self.architecture}";\nAPT::Architectures "{self.architecture}";\n'
        configuration = _CONFIGURATION.format(folder=apt) + (foreign if self.architecture else "")
        (apt / "apt.conf").write_text(configuration)
        command = ["apt-get", "-qq", "-c", str(apt / "apt.conf")]
        try:
            run([*command, "update"], cwd=apt / "debs")
            self.get(command, apt / "debs")
            for deb in (apt / "debs").glob("*.deb"):
                run(["dpkg", "-x", str(deb), str(target)])
        finally:
            shutil.rmtree(apt)


def alone(package: str) -> Get:
    """One package without what it depends on."""

    def get(apt: Sequence[str], folder: Path) -> None:
        run([*apt, "download", package], cwd=folder)

    return get


def with_all_they_need(*packages: str) -> Get:
    """Packages and their dependencies down to libc: to that apt nothing is installed."""

    def get(apt: Sequence[str], folder: Path) -> None:
        run([*apt, "-o", f"Dir::Cache::archives={folder}", "install", "-y", "--no-install-recommends",
             "--download-only", *packages])  # fmt: skip

    return get


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


def run(command: Sequence[str], cwd: Path | None = None) -> str:
    """What the command prints; raises FetchError with what it says if it fails."""
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
