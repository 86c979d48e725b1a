"""The control groups of one container: one for its guests on threads, one for those in processes, as they are needed.

Made in worker threads; which there are may be asked by any.
"""

import threading
from contextlib import ExitStack, suppress

from wasm_sandboxer.core.groups import Groups, limits_of
from wasm_sandboxer.core.process_groups import ProcessGroups
from wasm_sandboxer.errors import FailedPrecondition
from wasm_sandboxer.linux.cgroup.processes import ProcessGroup
from wasm_sandboxer.linux.cgroup.protocol import Group
from wasm_sandboxer.spec import Resources


class Homes:
    """See above. Guests in processes live in the group that the spec names, or else beside those on threads."""

    def __init__(
        self,
        groups: Groups,
        process_groups: ProcessGroups,
        *,
        namespace: str,
        ident: str,
        sandbox: Group | None,
        path: str,
        resources: Resources,
    ) -> None:
        """`sandbox` is the pod's group of threads, `path` the spec's cgroupsPath; `resources` are those of now."""
        self.threads: Group | None = None
        self.processes: ProcessGroup | None = None
        self._groups = groups
        self._process_groups = process_groups
        self._namespace = namespace
        self._ident = ident
        self._what = f"container {ident}"
        self._sandbox = sandbox
        self._path = path
        self.resources = resources
        self._lock = threading.Lock()
        self._closed = False

    def for_threads(self) -> Group | None:
        """The group of guests on threads, made now if there is none; raises a domain error."""
        with self._lock:
            self._require_open()
            if self.threads is None:
                limits = limits_of(self.resources)
                self.threads = self._groups.container(self._sandbox, self._namespace, self._ident, limits)
            return self.threads

    def for_processes(self) -> ProcessGroup | None:
        """The group of guests in processes, made now if there is none; None without a path. Raises a domain error."""
        if not self._path:
            return None
        with self._lock:
            self._require_open()
            if self.processes is None:
                self.processes = self._process_groups.make(self._path, self.resources, self._what)
            return self.processes

    def change(self, resources: Resources) -> None:
        """Set what these bounds say, in both; raises a domain error, and all is as it was."""
        with self._lock, ExitStack() as undo:
            if self.threads is not None:
                undo.callback(self.threads.keep_bounds())
                self._groups.change(self.threads, limits_of(resources), self._what)
            if self.processes is not None:
                undo.callback(self.processes.keep_bounds())
                self._process_groups.change(self.processes, resources, self._what)
            undo.pop_all()
            self.resources = self.resources.updated(resources)

    def end(self) -> None:
        """Remove both, for good, and let them go on telling what was used in them."""
        with self._lock:
            for group in (self.threads, self.processes):
                with suppress(OSError):  # gone with the pod's own, which is the kubelet's to remove
                    if group is not None:
                        group.keep_usage()
            self._remove()

    def close(self) -> None:
        """Remove both; nothing for those that are gone already."""
        with self._lock:
            self._remove()

    def _remove(self) -> None:
        if self._closed:  # what is at their paths now may be another's
            return
        self._closed = True
        if self.threads is not None:
            self._groups.remove(self.threads)
        if self.processes is not None:
            self._process_groups.remove(self.processes)

    def _require_open(self) -> None:
        if self._closed:
            raise FailedPrecondition(f"{self._what} has ended or is being deleted")
