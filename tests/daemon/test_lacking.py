"""What the daemon does where the node lacks something: memory for more guests, controllers of the kernel's."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import Bundle
from tests.support.cli import PROGRAM
from tests.support.daemon import Daemon
from tests.support.modules import binary
from tests.support.rpc import Client
from wasm_sandboxer.linux.cgroup.host import detect, find_hierarchies
from wasm_sandboxer.rpc.ttrpc import StatusCode

MIB = 1 << 20
LARGE = '(module (memory (export "memory") 800) (func (export "_start")))'  # 50 MiB
QUOTA = {"cpu": {"quota": 50_000, "period": 100_000}}
MEMORY = {"memory": {"limit": 50 * MIB}}


def without(controller: str) -> list[str]:
    """What runs a command where this controller's hierarchy is not mounted."""
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: unmounting needs root")
    found = find_hierarchies()
    if found is None or controller not in found.v1:
        pytest.skip(f"NOT RUN: needs version 1's {controller} controller; this host has {detect().describe()}")
    script = f'umount --lazy {found.v1[controller]} && exec "$0" "$@"'
    return ["unshare", "--mount", "sh", "-c", script]


def deprived(made: Daemon, controller: str) -> Daemon:
    """The daemon, to be started without that controller."""
    made.command = [*without(controller), *made.command]
    return made


def run(task: Client, made: Bundle, ident: str) -> int:
    """A container from create to delete: its exit code."""
    task.Create(id=ident, bundle=str(made.folder), **made.streams())
    task.Start(id=ident)
    code = int(task.Wait(id=ident).exit_status)
    task.Delete(id=ident)
    return code


def limited(bundle: Callable[..., Bundle], name: str, isolation: str, resources: dict[str, Any]) -> Bundle:
    annotations = {"wasm-sandboxer.io/isolation": isolation}
    linux = {"cgroupsPath": f"/wst-lacking-{os.getpid()}-{name}", "resources": resources}
    return bundle("hello", name=name, annotations=annotations, linux=linux)


@pytest.mark.parametrize(
    ("controller", "isolation", "resources"),
    [("memory", "process", MEMORY), ("cpu", "process", QUOTA), ("cpu", "thread", QUOTA)],
)
def test_limits_that_no_controller_holds_are_refused_unless_the_configuration_is_lenient(
    own_daemon: Callable[..., Daemon], bundle: Callable[..., Bundle], refused: Callable[..., str],
    controller: str, isolation: str, resources: dict[str, Any],
) -> None:  # fmt: skip
    with deprived(own_daemon(), controller) as daemon, Client(daemon.task_listen) as task:
        made = limited(bundle, "strict", isolation, resources)
        words = refused(StatusCode.UNIMPLEMENTED, task.Create, id="strict", bundle=str(made.folder))
        assert words.startswith(
            f"container strict has limits that take the {controller} controller, which cannot be used here: "
        )
        assert words.endswith(" (lenient_limits = true runs it without)")
        assert run(task, limited(bundle, "modest", isolation, {"cpu": {"shares": 50}}), "modest") == 0
    settings = "shutdown_timeout = 2.0\nlenient_limits = true"
    with deprived(own_daemon(settings=settings), controller) as daemon, Client(daemon.task_listen) as task:
        assert run(task, limited(bundle, "lenient", isolation, resources), "lenient") == 0


def test_a_daemon_without_the_memory_controller_says_so_once(own_daemon: Callable[..., Daemon]) -> None:
    with deprived(own_daemon(), "memory") as daemon:
        words = "limits: no memory controller for guests in processes: its version 1 hierarchy is not mounted"
        assert daemon.log.count(words) == 1


def test_doctor_says_so_too(tmp_path: Path) -> None:
    command = [*without("memory"), str(PROGRAM), "doctor", "--root", str(tmp_path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    (groups,) = [line for line in lines if " control groups " in line]
    assert groups.startswith("!! ")
    assert "; no memory controller for guests in processes: its version 1 hierarchy is not mounted" in groups


def test_who_needs_more_than_the_node_has_left_fails_and_nobody_else(
    own_daemon: Callable[..., Daemon], bundle: Callable[..., Bundle], refused: Callable[..., str]
) -> None:
    settings = 'shutdown_timeout = 2.0\nnode_memory = "60MiB"'
    with own_daemon(settings=settings) as daemon, Client(daemon.task_listen) as task:
        holder = bundle("memhog", "30", "2", "hold", name="holder")
        task.Create(id="holder", bundle=str(holder.folder), **holder.streams())
        task.Start(id="holder")
        holder.read("stdout", until=b"30 MiB")
        large = bundle("hello", name="large")
        (large.root / "hello.wasm").write_bytes(binary(LARGE))
        task.Create(id="large", bundle=str(large.folder), **large.streams())
        words = refused(StatusCode.RESOURCE_EXHAUSTED, task.Start, id="large")
        assert "it needs 50 MiB of memory, and the node's limit is 60 MiB, of which 3" in words
        grower = bundle("memhog", "40", "2", name="grower")
        assert run(task, grower, "grower") == 3
        assert b"refused at 2" in grower.read()
        assert run(task, bundle("hello", name="small"), "small") == 0
        assert task.State(id="holder").status == 2
        task.Kill(id="holder", signal=9)
        assert task.Wait(id="holder").exit_status == 137
