"""`wasm-sandboxer doctor`: what this host offers the daemon, and what it lacks."""

import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from wasm_sandboxer.cli.engine import open_store
from wasm_sandboxer.cli.params import root_option
from wasm_sandboxer.errors import WasmSandboxerError

_SHIM = "containerd-shim-wasm-sandboxer-v1"
_OLDEST_KERNEL = (5, 6)  # openat2


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at: whether it is as it should be, and what was seen."""

    what: str
    well: bool
    seen: str


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--containerd",
    type=click.Path(path_type=Path),
    default=Path("/run/containerd/containerd.sock"),
    show_default=True,
    help="containerd's socket.",
)
@root_option
def doctor(as_json: bool, containerd: Path, root: Path | None) -> int:  # noqa: FBT001
    """Say what this host offers: kernel, control groups, module store, containerd, the shim, WasmEdge.

    Exit code 1 if something is missing that `wasm-sandboxer serve` needs.
    """  # fmt: skip
    findings = [_kernel(), _user(), _groups(), _store(root), _socket(containerd), _shim(), _wasmedge()]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            click.echo(f"{'ok' if finding.well else '!!'}  {finding.what:{width}}  {finding.seen}")
    return 0 if all(finding.well for finding in findings) else 1


def _kernel() -> Finding:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    return Finding(what="kernel", well=numbers >= _OLDEST_KERNEL, seen=f"{release} on {platform.machine()}")


def _user() -> Finding:
    root = os.geteuid() == 0
    seen = "root" if root else f"user {os.geteuid()}: `run` works, but `serve` mounts, which takes root"
    return Finding(what="user", well=root, seen=seen)


def _groups() -> Finding:
    from wasm_sandboxer.core.process_groups import ProcessGroups  # noqa: PLC0415  # start-up time of --help
    from wasm_sandboxer.linux.cgroup.host import detect, find_hierarchies  # noqa: PLC0415

    host, processes = detect(), ProcessGroups(find_hierarchies())
    well = not host.missing and not processes.problems
    return Finding(what="control groups", well=well, seen="; ".join([host.describe(), *processes.problems]))


def _store(root: Path | None) -> Finding:
    try:
        count = len(open_store(root).entries())
    except WasmSandboxerError as error:
        return Finding(what="module store", well=False, seen=str(error))
    return Finding(what="module store", well=True, seen=f"{count} modules")


def _socket(containerd: Path) -> Finding:
    there = containerd.is_socket()
    return Finding(what="containerd", well=there, seen=f"{containerd}{'' if there else ': no such socket'}")


def _shim() -> Finding:
    found = shutil.which(_SHIM)
    seen = found or f"{_SHIM} is not on PATH: containerd would give up running containers when it restarts"
    return Finding(what="shim", well=found is not None, seen=seen)


def _wasmedge() -> Finding:
    """Whether there is one that can be used; few modules need it, so that none is as well."""
    from wasm_sandboxer.engine.wasmedge.binary import Finder  # noqa: PLC0415  # start-up time of --help
    from wasm_sandboxer.engine.wasmedge.compiling import JOBS  # noqa: PLC0415
    from wasm_sandboxer.forking.job import LocalRunner  # noqa: PLC0415

    try:
        binary = Finder(LocalRunner(JOBS)).find()
    except WasmSandboxerError as error:
        return Finding(what="WasmEdge", well=True, seen=str(error))
    return Finding(what="WasmEdge", well=True, seen=f"{binary.version} at {binary.path}")
