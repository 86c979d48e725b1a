"""Thread or process: which of them a guest runs on, and what one in a process is enclosed by; in worker threads."""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from wasm_sandboxer.choices import Isolation
from wasm_sandboxer.engine.protocol import Kind, Program, is_external, is_portable
from wasm_sandboxer.errors import InvalidArgument, WasmSandboxerError
from wasm_sandboxer.executor.confinement import ROOT_OF_COMMANDS, Confinement, placed
from wasm_sandboxer.executor.handing import code_of, unwritable
from wasm_sandboxer.guest import Guest
from wasm_sandboxer.linux import guest_filter, mount, seccomp, view
from wasm_sandboxer.linux.cgroup.processes import ProcessGroup
from wasm_sandboxer.linux.privileges import CAPABILITIES, LIMITS, Privileges
from wasm_sandboxer.linux.resolve import open_in_root
from wasm_sandboxer.linux.view import Shown
from wasm_sandboxer.spec import Process, Spec

_OF_THE_CONTAINER = ("/etc/resolv.conf", "/etc/hosts")  # for name look-ups
_log = logging.getLogger(__name__)


def isolation_of(program: Program, guest: Guest) -> Isolation:
    """THREAD or PROCESS; raises InvalidArgument for a thread where only a process will do."""
    if is_external(program):
        if guest.isolation is Isolation.THREAD:
            raise InvalidArgument(
                f"{guest.module}: a native command runs it, which takes a process, and isolation is thread"
            )
        return Isolation.PROCESS
    if guest.isolation is not Isolation.AUTO:
        return guest.isolation
    return Isolation.PROCESS if program.kind is Kind.COMPONENT else Isolation.THREAD


def confine(
    program: Program,
    guest: Guest,
    spec: Spec,
    process: Process,
    root: Path,
    network: int | None,
    group: ProcessGroup | None,
    undo: ExitStack,
) -> Confinement:
    """What encloses one process of a container whose root file system is at `root`; what it opens goes onto `undo`.

    Raises a domain error.
    """
    try:
        doors = group.doors() if group is not None else ()
        for door in doors:
            undo.callback(os.close, door)
        tree = mount.clone_tree(root)
        undo.callback(os.close, tree)
        command, shown, inside = None, [], placed(guest, "")
        if is_external(program):
            inside = placed(guest, ROOT_OF_COMMANDS)
            command = program.command(inside)
            handed = []
            for fd in command.descriptors:
                handed.append(unwritable(fd))
                undo.callback(os.close, handed[-1])
            command = replace(command, descriptors=tuple(handed))
            shown = list(_shown([Path(command.argv[0]), *command.needs], root, undo))
        return Confinement(
            guest=inside,
            command=command,
            privileges=_privileges(spec, process),
            root=tree,
            shown=shown,
            network=network,
            code=code_of(program) if is_portable(program) else None,
            doors=doors,
            group=group,
        )
    except OSError as error:
        raise WasmSandboxerError(f"cannot enclose {guest.argv[0]} in a process: {error}") from None


def not_honoured(spec: Spec, isolation: Isolation) -> list[str]:
    """What the spec asks for and a guest does not get."""
    if isolation is Isolation.THREAD:
        return list(spec.not_honoured)
    honoured = {"process.capabilities", "process.rlimits", "process.user"}
    if seccomp.is_available():
        honoured.add("linux.seccomp")
    return [name for name in spec.not_honoured if name not in honoured]


def _privileges(spec: Spec, process: Process) -> Privileges:
    unknown = [name for name, _, _ in process.rlimits if name not in LIMITS]
    if unknown:
        raise InvalidArgument(f"config.json.process.rlimits has {unknown[0]!r}, which is no limit")
    return Privileges(
        uid=process.user.uid,
        gid=process.user.gid,
        groups=process.user.groups,
        umask=process.user.umask,
        capabilities=frozenset(CAPABILITIES[name] for name in process.capabilities if name in CAPABILITIES),
        rlimits=tuple((LIMITS[name], soft, hard) for name, soft, hard in process.rlimits),
        oom_score=process.oom_score,
        seccomp=seccomp.compile_profile(spec.seccomp) if spec.seccomp and seccomp.is_available() else b"",
        own_seccomp=guest_filter.template(),
    )


def _shown(needs: list[Path], root: Path, undo: ExitStack) -> Iterator[tuple[Shown, int | None]]:
    """What a command sees beside the container's root, the outer before the inner."""
    for shown, tree in view.of_host(needs):
        if tree is not None:
            undo.callback(os.close, tree)
        yield shown, tree
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in _OF_THE_CONTAINER:
            tree = _file_in(fd, name)
            if tree is not None:
                undo.callback(os.close, tree)
                yield Shown(path=name, folder=False), tree
    finally:
        os.close(fd)


def _file_in(root: int, path: str) -> int | None:
    """A file of the container's as a tree of its own."""
    try:
        file = open_in_root(root, path, os.O_PATH)
    except OSError:
        return None
    try:
        return mount.clone_tree(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
