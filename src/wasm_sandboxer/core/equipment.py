"""What a sandbox has on the host: a folder of files for its containers' /etc, a control group, its sysctls.

Made when it starts, and gone once it is stopped. In worker threads.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from wasm_sandboxer.bundle.identity import forget_files, remove_files, write_files
from wasm_sandboxer.core.groups import Groups, limits_of
from wasm_sandboxer.core.sandbox import SandboxRecord
from wasm_sandboxer.core.sysctls import set_sysctls
from wasm_sandboxer.errors import WasmSandboxerError
from wasm_sandboxer.linux.cgroup.protocol import Group
from wasm_sandboxer.spec import Resources


class Equipment:
    """Makes it and removes it, by the sandboxes' records."""

    def __init__(self, groups: Groups, folder: Path) -> None:
        """`folder` is where each sandbox has a folder of its own."""
        self._groups = groups
        self._folder = folder

    def files_of(self, record: SandboxRecord) -> Path:
        """Where a sandbox's files are."""
        return Path(f"{self._folder}/{record.namespace}/{record.id}")

    def make(self, record: SandboxRecord) -> Group | None:
        """Make a sandbox's files and its group, or neither; the group, if there are any. Raises a domain error.

        The sysctls first: they alone are not undone, and only a sandbox that is new needs them.
        """
        if not record.started:
            set_sysctls(record)
        folder = self.files_of(record)
        try:
            write_files(folder, record.identity())
            limits = limits_of(Resources(**record.resources))
            return self._groups.sandbox(record.namespace, record.id, limits)
        except WasmSandboxerError:
            if not record.started:  # else its containers have the files, if it has no group
                remove_files(folder)
            raise

    def bound(self, record: SandboxRecord, group: Group, resources: Resources) -> Callable[[], None]:
        """Set a sandbox's bounds; what puts back those of before. Raises a domain error, and all is as it was."""
        with ExitStack() as undo:
            put_back = group.keep_bounds()
            undo.callback(put_back)
            self._groups.change(group, limits_of(resources), f"sandbox {record.id}")
            undo.pop_all()
        return put_back

    def remove(self, record: SandboxRecord, group: Group | None) -> None:
        """Remove them; again, too. The group goes on telling what was used in it."""
        if group is not None:
            with suppress(OSError):  # gone
                group.keep_usage()
            self._groups.remove(group)
        remove_files(self.files_of(record))

    def forget(self, known: Sequence[SandboxRecord]) -> None:
        """Remove what a daemon that died has left, but what these sandboxes have."""
        self._groups.forget([(record.namespace, record.id) for record in known])
        forget_files(self._folder, {self.files_of(record) for record in known})
