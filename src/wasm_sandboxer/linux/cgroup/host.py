"""Which control groups a host offers: version 1, version 2, both side by side, or none that are of use."""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path, PurePosixPath

from wasm_sandboxer.errors import Unsupported
from wasm_sandboxer.linux.cgroup import v1, v2
from wasm_sandboxer.linux.cgroup.protocol import Group, GroupLimits

WANTED = ("cpu", "cpuset", "pids")
_ORDINARY_SHARE = 1024


class Version(IntEnum):
    """Whose files hold the cpu controller."""

    NONE = 0
    V1 = 1
    V2 = 2


@dataclass(frozen=True, kw_only=True)
class Host:
    """What was found; `missing` says of each wanted controller that cannot be had why not."""

    version: Version
    missing: Mapping[str, str]
    mounts: Mapping[str, Path]  # version 1: controller to the root of its hierarchy
    domain: Path | None  # version 2: this process's own group
    homes: Mapping[str, Path]  # version 1: controller to this process's own group

    def root(self, name: str) -> Group:
        """A group of this name that holds others; made now. Raises Unsupported that says why it cannot be.

        In version 1 it stands beside the node's other groups and processes, and so has what the kubelet gives all
        its pods together: an ordinary share for each processor. In version 2 only this process is beside it.
        """
        try:
            if self.version is Version.V1:
                made = v1.V1Group({controller: mount / name for controller, mount in self.mounts.items()})
                made.apply(GroupLimits(shares=_ORDINARY_SHARE * (os.cpu_count() or 1)).without(self.missing))
                return made
            if self.version is Version.V2 and self.domain is not None:
                controllers = frozenset(WANTED) - set(self.missing)
                return v2.V2Group(self.domain, controllers, threaded=False).child(name)
        except OSError as error:
            why = error.strerror
            if error.errno == errno.EOPNOTSUPP:
                why = "there are processes in groups inside it, and then groups of threads cannot be"
            raise Unsupported(f"no control group can be made in {self.domain or 'version 1'}: {why}") from None
        raise Unsupported(self.describe())

    def beside(self, prefix: str) -> dict[str, list[Path]]:
        """Folders of the groups that root() has made under names which begin so, by those names."""
        found: dict[str, list[Path]] = {}
        for parent in (*self.mounts.values(), *([self.domain] if self.domain is not None else [])):
            for folder in parent.glob(f"{prefix}*/"):
                found.setdefault(folder.name, []).append(folder)
        return found

    def home(self) -> Group:
        """The group this process is in, for threads that come back."""
        if self.version is Version.V1:
            return v1.V1Group(self.homes, existing=True)
        assert self.domain is not None  # root() was asked first
        return v2.V2Group(self.domain, frozenset(), threaded=False)

    def describe(self) -> str:
        """What the host offers, in words."""
        have = {Version.NONE: "no control groups", Version.V1: "cgroup v1", Version.V2: "cgroup v2"}[self.version]
        names: dict[str, list[str]] = {}
        for name, why in self.missing.items():
            names.setdefault(why, []).append(name)
        lacks = [f"no {', '.join(each)} controller: {why}" for why, each in names.items()]
        return "; ".join([have, *lacks])


@dataclass(frozen=True, kw_only=True)
class Hierarchies:
    """Where the trees of groups begin: version 1's by controller, or version 2's."""

    v1: Mapping[str, Path]
    unified: Path | None


def find_hierarchies(proc: Path = Path("/proc/self")) -> Hierarchies | None:
    """The trees that hold the cpu controller; None if there are none."""
    v1_mounts, unified = _mounts((proc / "mountinfo").read_text())
    if "cpu" in v1_mounts:
        return Hierarchies(v1={name: mount.point for name, mount in v1_mounts.items()}, unified=None)
    return Hierarchies(v1={}, unified=unified.point) if unified is not None else None


def detect(proc: Path = Path("/proc/self")) -> Host:
    """Look at this process's mounts and groups."""
    hierarchies, unified = _mounts((proc / "mountinfo").read_text())
    groups = _own_groups((proc / "cgroup").read_text())
    if "cpu" in hierarchies:
        mounts = {name: mount.point for name, mount in hierarchies.items() if name in v1.CONTROLLERS}
        missing = {name: "its version 1 hierarchy is not mounted" for name in WANTED if name not in mounts}
        missing |= {name: _not_writable(path) for name, path in mounts.items() if not os.access(path, os.W_OK)}
        homes = {name: hierarchies[name].folder(groups.get(name, "/")) for name in mounts}
        return Host(version=Version.V1, missing=missing, mounts=mounts, domain=None, homes=homes)
    if unified is None:
        missing = dict.fromkeys(WANTED, "no cgroup file system is mounted")
        return Host(version=Version.NONE, missing=missing, mounts={}, domain=None, homes={})
    return _unified(unified.folder(groups.get("", "/")))


def _unified(own: Path) -> Host:
    try:
        offered = set((own / "cgroup.controllers").read_text().split())
    except FileNotFoundError:
        offered = set()
    missing = {
        name: f"{own} is not given it by its parent (systemd: Delegate=yes)" for name in WANTED if name not in offered
    }
    if not os.access(own / "cgroup.subtree_control", os.W_OK):
        missing = dict.fromkeys(WANTED, _not_writable(own))
    version = Version.NONE if len(missing) == len(WANTED) else Version.V2
    return Host(version=version, missing=missing, mounts={}, domain=own, homes={})


@dataclass(frozen=True)
class _Mount:
    """A mounted hierarchy: which of its folders is seen where."""

    root: str
    point: Path

    def folder(self, group: str) -> Path:
        """Where a group of /proc/PID/cgroup is; for one outside of what is mounted, as in a container, the root."""
        try:
            return self.point / PurePosixPath(group).relative_to(self.root)
        except ValueError:
            return self.point


def _mounts(mountinfo: str) -> tuple[dict[str, _Mount], _Mount | None]:
    """Version 1's controllers with their mounts, and version 2's; proc(5), mountinfo."""
    hierarchies: dict[str, _Mount] = {}
    unified = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root, point = (field.encode().decode("unicode_escape") for field in before.split()[3:5])
        mount = _Mount(root, Path(point))
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup":
            hierarchies |= dict.fromkeys(options.split(","), mount)
        elif kind == "cgroup2" and unified is None:
            unified = mount
    return hierarchies, unified


def _own_groups(cgroup: str) -> dict[str, str]:
    """The process's groups by controller, version 2's under the empty name; cgroups(7), /proc/[pid]/cgroup."""
    groups: dict[str, str] = {}
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def _not_writable(path: Path) -> str:
    return f"{path} may not be written by user {os.geteuid()}"
