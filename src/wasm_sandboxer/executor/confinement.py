"""What encloses a guest's process: control group, network, view of the file system, privileges.

The daemon opens what it takes, in a worker thread; the child goes through the doors, in the order below, before the
guest's first instruction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wasm_sandboxer.engine.protocol import Command
from wasm_sandboxer.guest import Guest
from wasm_sandboxer.linux import guest_filter, privileges, view
from wasm_sandboxer.linux.cgroup.processes import ProcessGroup
from wasm_sandboxer.linux.namespace import CLONE_NEWNET
from wasm_sandboxer.linux.privileges import Privileges
from wasm_sandboxer.linux.script import NOT_NEGATIVE, Script, equal
from wasm_sandboxer.linux.syscall import address_of
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


def enter_bounds(script: Script, enclosure: Enclosure, doors: dict[str, int]) -> None:
    """Enter the control group, under the process's own limits: what comes after is charged to it."""
    if enclosure.privileges is not None:
        if enclosure.privileges.oom_score is not None:
            privileges.set_oom_score(script, enclosure.privileges.oom_score)
        privileges.set_limits(script, enclosure.privileges.rlimits)
    itself = script.data(b"0")
    for name in [name for name in doors if name.startswith("group")]:
        door = doors.pop(name)
        script.call(address_of("write"), door, itself, 1, check=equal(1), what="enter its control group")
        script.call(address_of("close"), door)


def enter_view(enclosure: Enclosure, doors: dict[str, int]) -> None:
    """Enter the view of the file system that is made of trees, as commands have it; at once. Raises OSError."""
    trees = [(shown, doors.pop(f"shown{number}", None)) for number, shown in enumerate(enclosure.shown)]
    view.enter_made_of([*trees, (Shown(path=ROOT_OF_COMMANDS), doors.pop("root"))])


def give_up_the_rest(script: Script, enclosure: Enclosure, doors: dict[str, int], parent: int) -> None:
    """Enter the network and the root, if that is one tree, and drop all privileges; the process's parent is known."""
    if "network" in doors:
        network = doors.pop("network")
        script.call(address_of("setns"), network, CLONE_NEWNET, check=NOT_NEGATIVE, what="setns")
        script.call(address_of("close"), network)
    if "root" in doors:
        view.enter(script, doors.pop("root"))
    if enclosure.privileges is not None:
        privileges.drop(script, enclosure.privileges, parent)
        if own := enclosure.privileges.own_seccomp:
            # Before the spec's, which may refuse to have another installed.
            privileges.install_filter(script, own, guest_filter.places(own))
        if enclosure.privileges.seccomp:
            privileges.install_filter(script, enclosure.privileges.seccomp)
