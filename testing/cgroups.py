"""Owns cgroups for pods, made as the kubelet makes them: before the sandbox, in every hierarchy.

containerd needs them for pod statistics, which it reads from the pod's cgroup on the host. They carry the
name of the containerd's folder, by which the guardian removes them.
"""

from contextlib import suppress
from pathlib import Path

from testing import guardian

_CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io")


def make(name: str) -> None:
    """Make the cgroup `name` (`a/b`) and its parents in every hierarchy; fine if it is there already.

    On v2 each parent hands on what controllers it can; one that cannot is the machine's affair, not ours.
    """
    for path in guardian.cgroups(name):
        if (path / "cgroup.procs").exists():
            continue
        root = next(parent for parent in path.parents if (parent / "cgroup.procs").exists())
        for part in path.relative_to(root).parts:
            _delegate(root)
            root /= part
            root.mkdir(exist_ok=True)
            _inherit_cpuset(root)


def _delegate(parent: Path) -> None:
    control = parent / "cgroup.subtree_control"
    for controller in _CONTROLLERS if control.exists() else ():
        with suppress(OSError):
            control.write_text(f"+{controller}")


def _inherit_cpuset(path: Path) -> None:
    """Fill in a v1 cpuset, which starts empty and then takes no process (cgroup-v1/cpusets.rst)."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (path / name).exists() and not (path / "cgroup.controllers").exists():
            with suppress(OSError):
                if not (path / name).read_text().strip():
                    (path / name).write_text((path.parent / name).read_text())
