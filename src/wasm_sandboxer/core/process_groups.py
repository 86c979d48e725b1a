"""The control groups of guests that run in processes: each container's own, at the path that its spec names.

The kubelet and containerd expect a container's processes there. Made and removed in worker threads; the daemon itself
never enters one.
"""

import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from wasm_sandboxer.core.groups import lacks, limits_of
from wasm_sandboxer.errors import FailedPrecondition, InvalidArgument, WasmSandboxerError
from wasm_sandboxer.linux.cgroup.files import Budget
from wasm_sandboxer.linux.cgroup.host import Hierarchies
from wasm_sandboxer.linux.cgroup.processes import ProcessGroup, lacking, new_group, old_group, path_of
from wasm_sandboxer.spec import Resources

_THREADS = 8
"""How many threads the kernel lets a process of a container have.

What a spec calls pids is processes to whoever wrote it, and task.py holds it where they are started. The kernel
counts threads: the guest's own and the engine's, some of which are born by a call about files. The engine ends the
process where it is refused one, or waits for it for ever.
"""
_MOST_THREADS = 1 << 22  # the kernel's own limit, and pids.max takes no more; linux/threads.h
_LEAVING = 2.0  # seconds that processes which were killed may take to be gone
_log = logging.getLogger(__name__)


class ProcessGroups:
    """Makes them; on a host without control groups it makes none."""

    def __init__(self, hierarchies: Hierarchies | None, *, lenient: bool = False) -> None:
        """`lenient` does without groups and bounds that cannot be had."""
        self._hierarchies = hierarchies
        self._lenient = lenient
        self._lacking = lacking(hierarchies) if hierarchies is not None else {}
        self._budget = Budget()
        self._parents: set[Path] = set()  # those that had to be made
        self._lock = threading.Lock()

    @property
    def problems(self) -> list[str]:
        """What is missing here, in words, to be said once."""
        return [f"no {name} controller for guests in processes: {why}" for name, why in self._lacking.items()]

    def make(self, path: str, resources: Resources, what: str) -> ProcessGroup | None:
        """The group at a spec's cgroupsPath with its bounds; raises WasmSandboxerError that says why it cannot be."""
        if self._hierarchies is None:
            return None
        place = path_of(path)
        try:
            group = new_group(self._hierarchies, place, self._budget)
            inside = group.threads()
        except OSError as error:
            if self._lenient:
                _log.warning("%s has no control group at %s: %s", what, path, error)
                return None
            raise WasmSandboxerError(f"cannot make the control group {path} for {what}: {error}") from None
        with self._lock:
            self._parents.update(group.made)
        if inside:  # and those are not ours to end
            raise FailedPrecondition(f"the control group {path} of {what} has processes in it already")
        try:
            self.change(group, resources, what)
        except WasmSandboxerError:
            self.remove(group)
            raise
        finally:
            with self._lock:
                self._parents.update(group.made)
        return group

    def change(self, group: ProcessGroup, resources: Resources, what: str) -> None:
        """Set a group's bounds; raises Unsupported, or WasmSandboxerError for what the kernel refuses."""
        limits = replace(limits_of(resources), pids=_threads(resources.pids))
        wanted = limits.hard() | ({"memory"} if resources.most_memory is not None else set())
        missing = sorted(wanted & self._lacking.keys())
        if missing and not self._lenient:
            raise lacks(what, missing[0], self._lacking[missing[0]])
        try:
            group.apply(limits.without(self._lacking))
            if resources.memory is not None and "memory" not in self._lacking:
                group.limit_memory(resources.most_memory)
        except OSError as error:
            if not self._lenient:
                raise WasmSandboxerError(f"the kernel refuses the limits of {what}: {error}") from None
            _log.warning("the kernel refuses the limits of %s: %s", what, error)

    def remove(self, group: ProcessGroup) -> None:
        """End what is in it and remove it, with those around it that were made for it and are empty."""
        deadline = time.monotonic() + _LEAVING
        while True:
            try:
                group.remove()
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    _log.warning("a control group is left behind: %s", error)
                    return
                time.sleep(0.002)
        with self._lock:
            for parent in sorted(self._parents, reverse=True):
                with suppress(OSError):
                    parent.rmdir()
                    self._parents.discard(parent)

    def forget(self, path: str) -> None:
        """End what is in the group of a container that a daemon which died has left, and remove it.

        A container without processes never had one, and a pod's own may be gone with the pod: nothing is made, not
        for a moment, since the kubelet watches for new groups. Those around it are whoever's made them.
        """
        if self._hierarchies is None:
            return
        with suppress(InvalidArgument):  # of such a path none was made
            group = old_group(self._hierarchies, path_of(path), self._budget)
            if group is not None:
                self.remove(group)


def _threads(processes: int | None) -> int | None:
    """The kernel's limit for so many processes; none is none, and so is less than one (the runtime specification)."""
    if processes is None or processes <= 0:
        return processes if processes is None else -1
    return min(processes * _THREADS, _MOST_THREADS)
