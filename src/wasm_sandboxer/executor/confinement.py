"""What encloses a guest's process: control group, network, view of the file system, privileges.

The daemon opens what it takes, in a worker thread; the child goes through the doors, in the order below, before the
guest's first instruction.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wasm_sandboxer.engine.protocol import Command
from wasm_sandboxer.guest import Guest
from wasm_sandboxer.linux import guest_filter, privileges, view
from wasm_sandboxer.linux.cgroup.processes import ProcessGroup
from wasm_sandboxer.linux.namespace import CLONE_NEWNET, set_namespace
from wasm_sandboxer.linux.privileges import Privileges
from wasm_sandboxer.linux.view import Shown

ROOT_OF_COMMANDS = "/rootfs"
"""Where a native command sees the container's root."""


@dataclass(frozen=True, kw_only=True)
class Enclosure:
    """What the child is told of it; the rest are descriptors. Without privileges it keeps the fork server's."""

    privileges: Privileges | None = None
    shown: tuple[Shown, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """For one start of a guest; the descriptors are its owner's to close once the guest has ended.

    `guest` has its folders where the process will see them. `root` is the tree that is its root, or a command's
    ROOT_OF_COMMANDS, beside `shown`; without one the process sees what the fork server sees. `doors` lead into the
    control group, which is `group` if that is the container's own. `network` is a network namespace. `code` is what
    the process has of the program instead of the descriptor that the daemon itself uses.
    """

    guest: Guest
    command: Command | None = None
    privileges: Privileges | None = None
    root: int | None = None
    shown: Sequence[tuple[Shown, int | None]] = ()
    network: int | None = None
    code: int | None = None
    doors: tuple[int, ...] = ()
    group: ProcessGroup | None = None

    def enclosure(self) -> Enclosure:
        """What the child is told."""
        return Enclosure(privileges=self.privileges, shown=tuple(shown for shown, _ in self.shown))

    def descriptors(self) -> dict[str, int]:
        """What the child is given, by names that enter() knows."""
        given = {f"group{number}": door for number, door in enumerate(self.doors)}
        given |= {f"shown{number}": tree for number, (_, tree) in enumerate(self.shown) if tree is not None}
        given |= {"root": self.root} if self.root is not None else {}
        given |= {"network": self.network} if self.network is not None else {}
        return given


def placed(guest: Guest, root: str) -> Guest:
    """The guest with its folders as somebody sees them who has the container's root at `root`."""
    folders = tuple(replace(each, host=Path(root + each.guest)) for each in guest.preopens)
    return replace(guest, preopens=folders)


def enter_bounds(enclosure: Enclosure, doors: dict[str, int]) -> None:
    """Enter the control group, under the process's own limits: what comes after is charged to it. Raises OSError."""
    if enclosure.privileges is not None:
        if enclosure.privileges.oom_score is not None:
            privileges.set_oom_score(enclosure.privileges.oom_score)
        privileges.set_limits(enclosure.privileges.rlimits)
    for name in [name for name in doors if name.startswith("group")]:
        door = doors.pop(name)
        os.write(door, b"0")
        os.close(door)


def give_up_the_rest(enclosure: Enclosure, doors: dict[str, int]) -> None:
    """Enter the network and the view of the file system, and drop all privileges; raises OSError."""
    if "network" in doors:
        set_namespace(doors["network"], CLONE_NEWNET)
        os.close(doors.pop("network"))
    if enclosure.shown:
        trees = [(shown, doors.pop(f"shown{number}", None)) for number, shown in enumerate(enclosure.shown)]
        view.enter_made_of([*trees, (Shown(path=ROOT_OF_COMMANDS), doors.pop("root"))])
    elif "root" in doors:
        view.enter(doors.pop("root"))
    if enclosure.privileges is not None:
        privileges.drop(enclosure.privileges)
        if enclosure.privileges.own_seccomp:
            own = guest_filter.of_process(enclosure.privileges.own_seccomp, os.getpid())
            privileges.install_filter(own)  # before the spec's, which may refuse to have another installed
        if enclosure.privileges.seccomp:
            privileges.install_filter(enclosure.privileges.seccomp)
