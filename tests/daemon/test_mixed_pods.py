"""A pod's memory limit over guests on threads and guests in processes together, at the daemon's sockets."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from google.protobuf.any_pb2 import Any

from tests.support.bundles import Bundle
from tests.support.modules import binary
from tests.support.rpc import Client
from wasm_sandboxer.api import cri_pb2, typeurl
from wasm_sandboxer.rpc.ttrpc import RpcError

MIB = 1 << 20
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
ISOLATION = "wasm-sandboxer.io/isolation"
POD = 64 * MIB
LARGE = """(module (memory (export "memory") 512) (func (export "_start")))"""  # pages, 32 MiB of them


@pytest.fixture
def pod(sandboxes: Client, ident: str) -> Iterator[str]:
    """The id of a sandbox that may have 64 MiB."""
    resources = cri_pb2.LinuxContainerResources(memory_limit_in_bytes=POD)
    config = cri_pb2.PodSandboxConfig(linux=cri_pb2.LinuxPodSandboxConfig(resources=resources))
    sandboxes.Create(sandbox_id=ident, options=typeurl.pack(config))
    sandboxes.Start(sandbox_id=ident)
    yield ident
    sandboxes.Shutdown(sandbox_id=ident)


@pytest.fixture
def hog(bundle: Callable[..., Bundle], ttrpc: Client, pod: str) -> Iterator[Callable[..., tuple[str, Bundle]]]:
    """Starts memhog with these arguments in the pod; its id and its bundle."""
    started: list[str] = []

    def start(isolation: str, *arguments: str) -> tuple[str, Bundle]:
        name = f"{pod}-{len(started)}"
        annotations = {ISOLATION: isolation, SANDBOX_ID: pod}
        made = bundle("memhog", *arguments, name=name, annotations=annotations, linux={"cgroupsPath": f"/wst-{name}"})
        ttrpc.Create(id=name, bundle=str(made.folder), **made.streams())
        ttrpc.Start(id=name)
        started.append(name)
        return name, made

    yield start
    for name in started:
        with suppress(RpcError):  # it has ended
            ttrpc.Kill(id=name, signal=signal.SIGKILL)
        ttrpc.Wait(id=name)
        ttrpc.Delete(id=name)


@pytest.mark.parametrize(("holder", "greedy"), [("thread", "process"), ("process", "thread"), ("process", "process")])
def test_threads_and_processes_never_pass_a_pods_limit_together(
    hog: Callable[..., tuple[str, Bundle]], ttrpc: Client, holder: str, greedy: str
) -> None:
    first, holding = hog(holder, "40", "8", "hold")
    holding.read(until=b"40 MiB")
    second, grown = hog(greedy, "40", "4", "abort")
    assert ttrpc.Wait(id=second).exit_status == 137
    assert b"refused at 20 MiB" in grown.read()  # of 24, some of which are what a module begins with
    assert b"out of memory: more than" in grown.read("stderr")
    third, polite = hog(greedy, "40", "4")
    assert ttrpc.Wait(id=third).exit_status == 3  # it handles the refusal
    assert b"refused at 20 MiB" in polite.read()
    assert ttrpc.State(id=first).status == 2


@pytest.mark.parametrize("after", ["thread", "process"])
def test_what_a_killed_process_had_is_there_for_others(
    hog: Callable[..., tuple[str, Bundle]], ttrpc: Client, after: str
) -> None:
    for _ in range(2):
        name, made = hog("process", "48", "8", "hold")
        made.read(until=b"48 MiB")
        ttrpc.Kill(id=name, signal=signal.SIGKILL)
        assert ttrpc.Wait(id=name).exit_status == 137
    name, _ = hog(after, "56", "8")
    assert ttrpc.Wait(id=name).exit_status == 0


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_one_that_cannot_start_in_what_is_left_is_told_the_limit(
    hog: Callable[..., tuple[str, Bundle]], bundle: Callable[..., Bundle], ttrpc: Client, pod: str, isolation: str
) -> None:
    _, holding = hog("process", "40", "8", "hold")
    holding.read(until=b"40 MiB")
    made = bundle(annotations={ISOLATION: isolation, SANDBOX_ID: pod}, linux={"cgroupsPath": f"/wst-{pod}-large"})
    (made.root / "hello.wasm").write_bytes(binary(LARGE))
    ttrpc.Create(id=f"{pod}-large", bundle=str(made.folder), **made.streams())
    with pytest.raises(RpcError, match=r"its pod's limit is 64 MiB, of which 40\.\d MiB are in use"):
        ttrpc.Start(id=f"{pod}-large")
    ttrpc.Delete(id=f"{pod}-large")


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_an_exec_that_finds_no_room_ends_as_one_that_memory_has_ended(
    hog: Callable[..., tuple[str, Bundle]], ttrpc: Client, isolation: str
) -> None:
    """Else a probe would have no result, and nobody would restart what cannot answer one."""
    name, made = hog(isolation, "40", "8", "hold")
    made.read(until=b"40 MiB")
    (made.root / "large.wasm").write_bytes(binary(LARGE))
    spec = Any(type_url=typeurl.PROCESS, value=json.dumps({"args": ["/large.wasm"], "cwd": "/"}).encode())
    ttrpc.Exec(id=name, exec_id="probe", spec=spec, **made.streams("probe-"))
    ttrpc.Start(id=name, exec_id="probe")
    assert ttrpc.Wait(id=name, exec_id="probe").exit_status == 137
    assert b"large.wasm: its instance could not be made: it needs 32 MiB of memory" in made.read("probe-stderr")
    ttrpc.Delete(id=name, exec_id="probe")
    assert ttrpc.State(id=name).status == 2
