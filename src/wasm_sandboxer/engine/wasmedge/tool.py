"""Running WasmEdge itself for a moment, in a bounded child: to ask its version, to compile, to try a module."""

import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from wasm_sandboxer.errors import ModuleError
from wasm_sandboxer.forking.jobs import Bounds, Runner
from wasm_sandboxer.linux import mount, namespace, privileges, syscall, view
from wasm_sandboxer.linux.privileges import Privileges
from wasm_sandboxer.linux.script import Script
from wasm_sandboxer.linux.view import Shown

JOB = "wasmedge"
_NOBODY = 65534
ADDRESSES = 1 << 42  # bytes; WasmEdge reserves 12 GiB for each memory of a module
_MOST_OUTPUT = 64 << 10
DATA = 6 << 30  # bytes of memory of its own: what a module of the most memory starts with, and some


@dataclass(frozen=True, kw_only=True)
class Done:
    """How it ended, negative for a signal, and the beginning of what it wrote to both outputs."""

    code: int
    output: str


def run(
    runner: Runner,
    argv: Sequence[str],
    *,
    seconds: float,
    waiting: Callable[[float], None] | None = None,
) -> Done:
    """Run the command in a child of its own; raises JobFailed."""
    bounds = Bounds(memory=ADDRESSES, seconds=seconds)
    return Done(**json.loads(runner.run(JOB, json.dumps({"argv": argv}).encode(), (), bounds, waiting)))


def run_here(argv: Sequence[str], env: Mapping[str, str] | None = None, data: int = DATA) -> Done:
    """Run the command as a child of this process, itself a job's, whose bounds it inherits; it has no input.

    `data` are the bytes of memory that it may have for itself.
    """
    bound(data)
    if not os.access(argv[0], os.X_OK):
        raise ModuleError(f"{argv[0]} must be for everybody to read and execute")
    with subprocess.Popen(
        argv,
        env=dict(env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        close_fds=False,  # a descriptor that it is to have is made inheritable
        preexec_fn=_end_with_parent,  # noqa: PLW1509  # a job has one thread
    ) as process:
        assert process.stdout is not None  # a pipe, as said
        output = process.stdout.read(_MOST_OUTPUT)
        while process.stdout.read(_MOST_OUTPUT):  # so that it does not wait for us
            pass
        code = process.wait()
    return Done(code=code, output=output.decode(errors="replace"))


def enclose(needs: Sequence[str], scratch: str = "") -> None:
    """Let this process, a job's, see no more of the host than a command needs, reach nothing, and have no privilege.

    What it has is still mighty enough to be misled by a module. Only a privileged one can do that, and has reason to;
    where it may not, in somebody else's container, it stays as it is. Its `scratch` stays writable.
    """
    if os.geteuid() != 0:
        return
    shown = list(view.of_host([Path(path) for path in needs]))
    if scratch:
        os.chown(scratch, _NOBODY, _NOBODY)
        shown.append((Shown(path=scratch), mount.clone_tree(scratch)))
    try:
        namespace.unshare(namespace.CLONE_NEWNET)
        privileges.bound()
    except PermissionError:
        return
    view.be_bare()
    view.enter_made_of(shown, processes=True)
    script = Script()
    privileges.drop(script, Privileges(uid=_NOBODY, gid=_NOBODY), os.getppid())
    script.run()


def bound(data: int) -> None:
    """Let this process, and what it starts, have so many bytes of memory for itself (RLIMIT_DATA, getrlimit(2))."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (data if most == resource.RLIM_INFINITY else min(data, most), most))


def lend(fd: int) -> str:
    """A path by which commands of this process find what the descriptor is of."""
    os.set_inheritable(fd, True)
    return f"/proc/self/fd/{fd}"


def _end_with_parent() -> None:
    syscall.set_parent_death_signal(signal.SIGKILL)


def run_job(argument: bytes, _fds: tuple[int, ...]) -> bytes:
    """The job of `run`."""
    return json.dumps(asdict(run_here(json.loads(argument)["argv"]))).encode()
