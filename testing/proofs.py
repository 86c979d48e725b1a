"""Runs in the virtual machine of testing.vm: shows what this machine cannot.

On real control groups of version 2 what is tested here on files; on another processor its own machine code.

Each proof is a command of the project's own, run from a control group that is like one a daemon finds itself in.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")
_PYTEST = ("python", "-m", "pytest", "-q", "-x", "-n", "0", "--timeout=600")
_EXAMPLES = "examples/wasm"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A command, what it shows, and where it is run: a group by its path, or the hierarchy's root."""

    what: str
    command: Sequence[str]
    group: str = ""
    code: int = 0
    seconds: float = 240


SERVICE = "system.slice/wasm-sandboxer.service"  # as systemd has it with Delegate=yes
CROWDED = "system.slice/crowded.service"  # as SERVICE, but with a group of processes in it
PLAIN = "plain.slice/w.service"  # given no cpu controller

_CGROUPS = (
    Proof(what="the host, seen from the root of the hierarchy", command=("wasm-sandboxer", "doctor"), code=1),
    Proof(what="in a delegated group", command=("wasm-sandboxer", "doctor"), group=SERVICE, code=1),
    Proof(what="in a group without the cpu controller", command=("wasm-sandboxer", "doctor"), group=PLAIN, code=1),
    Proof(
        what="a guest held to a fifth of a processor, by the command line",
        command=("wasm-sandboxer", "run", "--cpus", "0.2", "--json", f"{_EXAMPLES}/spin.wasm", "10"),
        group=SERVICE,
    ),
    Proof(
        what="where it cannot be held",
        command=("wasm-sandboxer", "run", "--cpus", "0.2", f"{_EXAMPLES}/hello.wasm"),
        group=PLAIN,
        code=2,
    ),
    Proof(
        what="where the daemon's group has groups of processes in it",
        command=("wasm-sandboxer", "run", "--cpus", "0.2", f"{_EXAMPLES}/hello.wasm"),
        group=CROWDED,
        code=2,
    ),
    Proof(
        what="groups of threads: limits, quotas, cpusets, pids, coming and going; in a delegated group",
        command=(*_PYTEST, "tests/linux/test_cgroup.py"),
        group=SERVICE,
    ),
    Proof(
        what="what is left of groups when a sandbox is stopped, or a daemon has died",
        command=(*_PYTEST, "tests/core/test_process_groups.py", "tests/daemon/test_stopped.py"),
    ),
    Proof(
        what="the daemon's groups, with the daemon in the delegated group itself",
        command=(*_PYTEST, "tests/daemon/test_groups.py", "-k", "not weights and not quota"),
        group=SERVICE,
        seconds=400,
    ),
    Proof(
        what="shares, with the daemon in the delegated group itself",
        command=("python", "-m", "benchmarks", "fairness", "--json", "/run/results"),
        group=SERVICE,
        seconds=400,
    ),
    Proof(
        what="shares, with the daemon in the root group",
        command=("python", "-m", "benchmarks", "fairness", "--quick"),
        seconds=400,
    ),
    Proof(
        what="limits through the real containerd's CRI",
        command=(*_PYTEST, "tests/containerd/test_limits.py"),
        seconds=500,
    ),
)

_IN_PAIRS = ("python", "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "--timeout=600")
_PROCESSOR = (
    Proof(what="the host", command=("wasm-sandboxer", "doctor"), code=1),
    Proof(what="control groups, system calls, scripts in machine code", command=(*_IN_PAIRS, "tests/linux")),
    Proof(
        what="the engine: memories, traps, callbacks in machine code",
        command=(*_IN_PAIRS, "tests/engine", "--ignore=tests/engine/test_thunks.py"),
        seconds=900,
    ),
    Proof(
        what="guests on threads and in processes",
        command=(*_IN_PAIRS, "tests/core", "tests/executor", "tests/forking"),
        seconds=900,
    ),
    Proof(
        what="containers at the daemon's sockets",
        command=(*_IN_PAIRS, *(f"tests/daemon/test_{name}.py" for name in ("task", "processes", "mixed_pods"))),
        seconds=900,
    ),
    Proof(
        what="through the real containerd",
        command=(*_IN_PAIRS, "tests/containerd/test_processes.py", "tests/containerd/test_exec.py"),
        seconds=900,
    ),
)

PROOFS = {"cgroup-v2": _CGROUPS, "aarch64": _PROCESSOR}


def main(name: str, words: Sequence[str]) -> int:
    """Run the proofs of that name whose text has one of these words, all without any; 0 if all are as they should."""
    system = f"{platform.system()} {platform.release()} {platform.version()}"
    _say(f"{system}, {os.cpu_count()} processors, Python {platform.python_version()}")
    kinds = {line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    _say(f"hierarchies of control groups: {', '.join(sorted(kind for kind in kinds if 'cgroup' in kind))}")
    _make_groups()
    before = _groups()
    failed = [proof.what for proof in PROOFS[name] if _wanted(proof, words) and not _run(proof)]
    left = sorted(str(group.relative_to(ROOT)) for group in _groups() - before)
    _say(f"\ngroups left behind: {', '.join(left) or 'none'}")
    for what in failed:
        _say(f"NOT SHOWN: {what}")
    return 1 if failed or left else 0


def _wanted(proof: Proof, words: Sequence[str]) -> bool:
    return not words or any(word in proof.what for word in words)


def _run(proof: Proof) -> bool:
    where = f"/{proof.group}"
    _say(f"\n==> {proof.what}\n    {' '.join(proof.command)}    (in {where})")
    begun = time.monotonic()
    try:
        done = subprocess.run(
            proof.command,
            preexec_fn=lambda: _enter(proof.group),  # this process has one thread
            timeout=proof.seconds,
            check=False,
        )
        code: int | str = done.returncode
    except subprocess.TimeoutExpired:
        code = "none: it takes too long"
    well = code == proof.code
    _say(f"    exit code {code}{'' if well else f', not {proof.code}'}, {time.monotonic() - begun:.0f} s")
    return well


def _enter(group: str) -> None:
    (ROOT / group / "cgroup.procs").write_text("0")


def _make_groups() -> None:
    """What systemd would make: slices hand controllers on, the services in them are ours."""
    for group in (SERVICE, PLAIN, CROWDED):
        (ROOT / group).mkdir(parents=True, exist_ok=True)
    for parent, controllers in ((ROOT, CONTROLLERS), (ROOT / "system.slice", CONTROLLERS)):
        (parent / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
    inner = ROOT / CROWDED / "inner"
    inner.mkdir(exist_ok=True)
    sleeper = subprocess.Popen(["sleep", "infinity"])  # ends with the machine
    (inner / "cgroup.procs").write_text(str(sleeper.pid))


def _groups() -> set[Path]:
    return {path.parent for path in ROOT.rglob("cgroup.procs")}


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
