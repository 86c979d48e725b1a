"""Whose threads the kernel bounds together: a control group for each sandbox, and one for each container in it.

A sandbox's is named by its namespace and id, a container's in it by its id. Those of containers outside of any
sandbox lie among the sandboxes', and say so.

Groups are made and removed in worker threads. The daemon itself stays in its own group and never enters a pod's
(`cgroupsPath`): the kubelet ends every process that it finds there when the pod ends.
"""

import logging
import time
from collections.abc import Collection, Iterable
from contextlib import suppress

from wasm_sandboxer.core.identifiers import joined
from wasm_sandboxer.errors import FailedPrecondition, Unsupported, WasmSandboxerError
from wasm_sandboxer.linux.cgroup.host import Host, Version
from wasm_sandboxer.linux.cgroup.protocol import Group, GroupLimits, Place
from wasm_sandboxer.spec import Resources

_LEAVING = 0.5  # seconds that ended threads may take to leave a group
_log = logging.getLogger(__name__)


class Groups:
    """A tree of groups; on a host without usable ones it makes none, and `problems` says why."""

    def __init__(self, host: Host, name: str, *, lenient: bool = False) -> None:
        """All groups are made inside one of this name; `lenient` does without bounds that the host cannot hold."""
        self._host = host
        self._lenient = lenient
        self._root: Group | None = None
        self._exits: tuple[int, ...] = ()
        self._why = ""
        if host.version is not Version.NONE:
            try:
                self._root = host.root(name)
                self._home = host.home()
                self._exits = self._home.doors()  # never closed: a thread that is still inside may come out late
            except Unsupported as error:
                self._why = str(error)

    @property
    def problems(self) -> list[str]:
        """What is missing here, in words, to be said once."""
        described = [self._host.describe()] if self._host.missing else []
        return [*described, *filter(None, [self._why])]

    def why_not(self, controller: str) -> str:
        """Why bounds of this controller cannot be held here; empty if they can."""
        return self._host.missing.get(controller, self._why)

    @property
    def version(self) -> Version:
        """Whose metrics messages describe this host."""
        return self._host.version

    def cpu_time(self) -> float | None:
        """Seconds of CPU of all groups together, those that are gone too; None where there are none."""
        with suppress(OSError):
            return self._root.usage().cpu / 1e6 if self._root is not None else None
        return None

    def sandbox(self, namespace: str, ident: str, limits: GroupLimits) -> Group | None:
        """The sandbox's group, made if it is not there; raises Unsupported for bounds that cannot be held."""
        return self._make(self._root, joined(namespace, ident), limits, f"sandbox {ident}")

    def container(self, sandbox: Group | None, namespace: str, ident: str, limits: GroupLimits) -> Group | None:
        """A container's group in its sandbox's, or in the daemon's root for one without; raises as sandbox()."""
        name = ident if sandbox is not None else joined("container", namespace, ident)
        return self._make(sandbox or self._root, name, limits, f"container {ident}")

    def change(self, group: Group, limits: GroupLimits, what: str) -> None:
        """Set a group's bounds; raises Unsupported, or WasmSandboxerError for what the kernel refuses."""
        self._require(limits, what)
        try:
            group.apply(limits.without(self._host.missing))
        except OSError as error:
            raise WasmSandboxerError(f"the kernel refuses the limits of {what}: {error}") from None

    def place(self, group: Group | None) -> Place | None:
        """Where the guests of a group run."""
        if group is None:
            return None
        return Place(group=group, home=self._home, exits=self._exits)

    def remove(self, group: Group) -> None:
        """Remove a group whose guests have ended.

        Threads that are still in it come home first: a guest's that is just leaving, or one of the engine's own
        that was born while a guest called into it, and serves all.
        """
        deadline = time.monotonic() + _LEAVING
        while True:
            try:
                group.remove()
            except OSError as error:
                if time.monotonic() > deadline:
                    _log.warning("a control group is left behind: %s", error)
                    return
                with suppress(OSError):
                    self.bring_home(group.threads())
                time.sleep(0.002)
            else:
                return

    def bring_home(self, threads: Iterable[int]) -> None:
        """Move threads into the daemon's own group."""
        if self._root is None:
            return
        for tid in threads:
            with suppress(OSError):  # it has ended meanwhile
                self._home.add_thread(tid)

    def close(self) -> None:
        """Remove all groups, but those that something is still in."""
        if self._root is not None:
            self.forget(())
            with suppress(OSError):
                self._root.remove()

    def forget(self, known: Collection[tuple[str, str]]) -> None:
        """Remove what a daemon that died has left, but the groups of these sandboxes, by namespace and id."""
        if self._root is None:
            return
        keep = {joined(*key) for key in known}
        for name in self._root.names():
            group = self._root.child(name)
            for inner in group.names():
                with suppress(OSError):
                    group.child(inner).remove()
            if name not in keep:
                with suppress(OSError):
                    group.remove()

    def _make(self, parent: Group | None, name: str, limits: GroupLimits, what: str) -> Group | None:
        self._require(limits, what)
        if parent is None:
            return None
        try:
            group = parent.child(name)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and parent is not self._root:
                raise FailedPrecondition(f"cannot make a control group for {what}: its sandbox is stopped") from None
            raise WasmSandboxerError(f"cannot make a control group for {what}: {error.strerror}") from None
        try:
            self.change(group, limits, what)
        except WasmSandboxerError:
            with suppress(OSError):
                group.remove()
            raise
        return group

    def _require(self, limits: GroupLimits, what: str) -> None:
        missing = sorted(name for name in limits.hard() if self.why_not(name))
        if missing and not self._lenient:
            raise lacks(what, missing[0], self.why_not(missing[0]))


def lacks(what: str, controller: str, why: str) -> Unsupported:
    """The error of limits that this host cannot hold."""
    return Unsupported(
        f"{what} has limits that take the {controller} controller, which cannot be used here: {why} "
        f"(lenient_limits = true runs it without)"
    )


def limits_of(resources: Resources) -> GroupLimits:
    """The bounds that a spec's resources put on a group of threads; that on processes is the container's to hold."""
    return GroupLimits(
        shares=resources.cpu_shares,
        quota=resources.cpu_quota,
        period=resources.cpu_period,
        burst=resources.cpu_burst,
        cpus=resources.cpus,
        mems=resources.mems,
    )
