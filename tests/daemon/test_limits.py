"""Limits of containers and pods that change while guests run, at the daemon's sockets; no containerd."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from tests.support.bundles import Bundle
from tests.support.daemon import Daemon
from tests.support.modules import binary
from tests.support.rpc import Client, controller
from wasm_sandboxer.api import cri_pb2, typeurl
from wasm_sandboxer.api.types_pb2 import Sandbox
from wasm_sandboxer.linux.cgroup.host import detect, find_hierarchies
from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode

MIB = 1 << 20
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
ISOLATION = "wasm-sandboxer.io/isolation"
BOUNDS = (
    "cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.weight", "cpu.max", "cpuset.cpus",
    "memory.limit_in_bytes", "memory.max",
)  # fmt: skip
# For each byte that it reads it asks for 100 MiB more; exits with 3 if it does not get them, with 0 at the end.
GROWER = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 32)) (i32.store (i32.const 4) (i32.const 1))
    (loop $l
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (i32.eqz (i32.load (i32.const 8))) (then return))
      (if (i32.eq (memory.grow (i32.const 1600)) (i32.const -1)) (then (call $exit (i32.const 3))))
      (br $l))))"""


@pytest.fixture(autouse=True)
def host() -> None:
    found = detect()
    if found.missing:
        pytest.skip(f"NOT RUN: needs control groups; this host has {found.describe()}")


@pytest.fixture(params=["thread", "process"])
def isolation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(bundle: Callable[..., Bundle], ttrpc: Client) -> Iterator[Callable[..., Bundle]]:
    """Starts a container that waits for bytes on its input; killed afterwards, if it still runs."""
    started: list[str] = []

    def begin(
        ident: str, isolation: str, limits: dict[str, Any], *, sandbox: str = "", client: Client = ttrpc
    ) -> Bundle:
        annotations = {ISOLATION: isolation} | ({SANDBOX_ID: sandbox} if sandbox else {})
        linux = {"cgroupsPath": f"/wst-{ident}", "resources": limits}
        made = bundle("hello", name=ident, annotations=annotations, linux=linux)
        (made.root / "hello.wasm").write_bytes(binary(GROWER))
        client.Create(id=ident, bundle=str(made.folder), **made.streams(stdin=True))
        client.Start(id=ident)
        if client is ttrpc:
            started.append(ident)
        return made

    yield begin
    for ident in started:
        with suppress(RpcError):  # it has ended
            ttrpc.Kill(id=ident, signal=9)
        with suppress(RpcError):  # it went with its pod
            ttrpc.Wait(id=ident)
            ttrpc.Delete(id=ident)


def resources(**fields: Any) -> AnyMessage:
    return AnyMessage(type_url=typeurl.LINUX_RESOURCES, value=json.dumps(fields).encode())


def pod(**bounds: Any) -> AnyMessage:
    linux = cri_pb2.LinuxPodSandboxConfig(resources=cri_pb2.LinuxContainerResources(**bounds))
    return typeurl.pack(cri_pb2.PodSandboxConfig(linux=linux))


def bounds(daemon: Daemon, ident: str) -> dict[str, str]:
    """What the kernel holds all groups to that belong to this container or pod."""
    found = find_hierarchies()
    assert found is not None
    roots = [found.unified] if found.unified is not None else list(found.v1.values())
    folders = [root / f"wst-{ident}" for root in roots if root is not None]
    folders += [group for group in daemon.groups() if group.name.endswith(ident)]
    files = [folder / name for folder in folders for name in BOUNDS]
    return {str(path): path.read_text().strip() for path in files if path.exists()}


def quotas(daemon: Daemon, ident: str) -> set[str]:
    """Quotas of those groups, in microseconds."""
    given = bounds(daemon, ident).items()
    return {value.split()[0] for path, value in given if path.endswith(("cpu.cfs_quota_us", "cpu.max"))}


@pytest.mark.parametrize(("limit", "code"), [(200 * MIB, 0), (-1, 0), (0, 3), (80 * MIB, 3)])
def test_memory_changes_for_a_guest_that_runs(
    start: Callable[..., Bundle], ttrpc: Client, ident: str, isolation: str, limit: int, code: int
) -> None:
    made = start(ident, isolation, {"memory": {"limit": 64 * MIB}})
    ttrpc.Update(id=ident, resources=resources(memory={"limit": limit}))
    made.write(b"1")
    made.close_stdin()
    assert ttrpc.Wait(id=ident).exit_status == code


def test_memory_that_was_taken_back_is_refused(
    start: Callable[..., Bundle], ttrpc: Client, ident: str, isolation: str
) -> None:
    made = start(ident, isolation, {"memory": {"limit": 200 * MIB}})
    ttrpc.Update(id=ident, resources=resources(memory={"limit": 64 * MIB}))
    made.write(b"1")
    assert ttrpc.Wait(id=ident).exit_status == 3


def test_an_update_that_the_kernel_refuses_changes_nothing(
    start: Callable[..., Bundle], ttrpc: Client, daemon: Daemon, ident: str, isolation: str,
    refused: Callable[..., str],
) -> None:  # fmt: skip
    start(ident, isolation, {"memory": {"limit": 64 * MIB}, "cpu": {"quota": 30_000, "period": 100_000}})
    before = bounds(daemon, ident)
    assert quotas(daemon, ident) == {"30000"}
    given = resources(
        cpu={"shares": 77, "quota": 20_000, "period": 50_000, "cpus": "700-800"}, memory={"limit": 32 * MIB}
    )
    words = refused(StatusCode.UNKNOWN, ttrpc.Update, id=ident, resources=given)
    assert words.startswith(f"the kernel refuses the limits of container {ident}: ")
    after = bounds(daemon, ident)
    assert {path: after[path] for path in before} == before


def test_a_container_that_outgrows_its_pod_takes_it_along(
    own_daemon: Callable[..., Daemon], start: Callable[..., Bundle], ident: str, isolation: str
) -> None:
    """Before containerd 2.3 nothing else tells of the pod's new bounds; a daemon that comes after has them too."""
    daemon, own = own_daemon(), {"cpu": {"quota": 20_000, "period": 100_000}, "memory": {"limit": 64 * MIB}}
    with daemon, controller(daemon.listen) as sandboxes, Client(daemon.task_listen) as task:
        options = pod(cpu_quota=20_000, cpu_period=100_000, memory_limit_in_bytes=64 * MIB)
        sandboxes.Create(sandbox_id=ident, options=options)
        sandboxes.Start(sandbox_id=ident)
        made = start(f"own-{ident}", isolation, own, sandbox=ident, client=task)
        more = resources(cpu={"quota": 40_000, "period": 100_000}, memory={"limit": 128 * MIB})
        task.Update(id=f"own-{ident}", resources=more)
        assert quotas(daemon, ident) == {"40000"}
        made.write(b"1")
        made.close_stdin()
        task.CloseIO(id=f"own-{ident}", stdin=True)
        assert task.Wait(id=f"own-{ident}").exit_status == 0
        daemon.kill()
    with daemon, controller(daemon.listen) as sandboxes:
        assert "40000" in quotas(daemon, ident)
        record = json.loads(next((daemon.state / "records" / "sandboxes").rglob(f"*{ident}*")).read_text())
        assert record["resources"]["memory"] == 128 * MIB
        sandboxes.Shutdown(sandbox_id=ident)


def test_a_container_that_cannot_have_more_leaves_its_pod_as_it_was(
    start: Callable[..., Bundle], sandboxes: Client, ttrpc: Client, daemon: Daemon, ident: str,
    refused: Callable[..., str],
) -> None:  # fmt: skip
    sandboxes.Create(sandbox_id=ident, options=pod(cpu_quota=20_000, cpu_period=100_000))
    sandboxes.Start(sandbox_id=ident)
    start(f"own-{ident}", "thread", {"cpu": {"quota": 20_000, "period": 100_000}}, sandbox=ident)
    more = resources(cpu={"quota": 40_000, "cpus": "700-800"})
    refused(StatusCode.UNKNOWN, ttrpc.Update, id=f"own-{ident}", resources=more)
    assert quotas(daemon, ident) == {"20000"}
    sandboxes.Shutdown(sandbox_id=ident)


def test_a_pods_new_bounds_are_taken(
    start: Callable[..., Bundle], sandboxes: Client, ttrpc: Client, daemon: Daemon, ident: str,
    refused: Callable[..., str],
) -> None:  # fmt: skip
    """As containerd from 2.3 on sends them."""
    bounds_before = pod(cpu_quota=20_000, cpu_period=100_000, memory_limit_in_bytes=64 * MIB)
    sandboxes.Create(sandbox_id=ident, options=bounds_before)
    sandboxes.Start(sandbox_id=ident)
    given = {"cpu_quota": 50_000, "cpu_period": 100_000, "memory_limit_in_bytes": 256 * MIB, "hugepage_limits": []}

    def update(value: bytes) -> dict[str, Any]:
        extension = AnyMessage(type_url=typeurl.UPDATED_RESOURCES, value=value)
        return {
            "sandbox_id": ident, "fields": ["extensions"],
            "sandbox": Sandbox(sandbox_id=ident, extensions={"updated-resources": extension}),
        }  # fmt: skip

    sandboxes.Update(**update(json.dumps({"Overhead": None, "Resources": given}).encode()))
    assert quotas(daemon, ident) == {"50000"}
    made = start(f"own-{ident}", "thread", {"cpu": {"quota": 50_000, "period": 100_000}}, sandbox=ident)
    made.write(b"1")
    made.close_stdin()
    ttrpc.CloseIO(id=f"own-{ident}", stdin=True)
    assert ttrpc.Wait(id=f"own-{ident}").exit_status == 0
    words = refused(StatusCode.INVALID_ARGUMENT, sandboxes.Update, **update(b'{"Resources": 7}'))
    assert words.startswith(f"sandbox {ident}: its extension updated-resources: ")
    sandboxes.Shutdown(sandbox_id=ident)
