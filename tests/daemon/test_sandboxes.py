"""The Sandbox Controller over its real socket: every RPC, every refusal, and how it goes with containers."""

import json
import platform
import signal
import time
from contextlib import suppress

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from tests.support.rpc import Client
from wasm_sandboxer.api import cri_pb2, typeurl
from wasm_sandboxer.api.services import ADMIN, CONTROLLER, SERVICES
from wasm_sandboxer.api.task_types_pb2 import STOPPED
from wasm_sandboxer.api.types_pb2 import Sandbox
from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode

SANDBOX_ID = "io.kubernetes.cri.sandbox-id"


@pytest.fixture
def sandbox(sandboxes, ident):
    """A sandbox that is ready; gone afterwards."""
    sandboxes.Create(sandbox_id=ident)
    sandboxes.Start(sandbox_id=ident)
    yield ident
    with suppress(RpcError):  # a test may have done so
        sandboxes.Shutdown(sandbox_id=ident)


@pytest.fixture
def container(ttrpc, sandbox, bundle):
    """Makes containers of that sandbox."""

    def make(ident, module="sleep", *arguments, start=True):
        arguments = arguments or (("forever",) if module == "sleep" else ())
        made = bundle(module, *arguments, name=ident, annotations={SANDBOX_ID: sandbox})
        ttrpc.Create(id=ident, bundle=str(made.folder))
        if start:
            ttrpc.Start(id=ident)
        return ident

    return make


@pytest.fixture
def slow(tmp_path):
    """A stream that makes a container's creation take half a second: a log program that takes its time."""
    logger = tmp_path / "logger"
    logger.write_text("#!/bin/sh\nsleep 0.4\nexec 5>&-\ncat <&3 >/dev/null\n")
    logger.chmod(0o755)
    return f"binary://{logger}"


def test_a_sandbox_lives_from_create_to_shutdown(sandboxes, daemon, ident, refused):
    pod = cri_pb2.PodSandboxConfig(metadata={"name": "web", "namespace": "default"}, annotations={"a": "b"})
    metadata = {"Version": "v1", "Metadata": {"RuntimeHandler": "wasm", "ID": ident}}
    made = Sandbox(
        labels={"name": "web"},
        extensions={"metadata": AnyMessage(type_url=typeurl.SANDBOX_METADATA, value=json.dumps(metadata).encode())},
    )
    answer = sandboxes.Create(sandbox_id=ident, options=typeurl.pack(pod), sandbox=made, netns_path="/run/netns/x")
    assert answer.sandbox_id == ident
    assert sandboxes.Status(sandbox_id=ident).state == "SANDBOX_NOTREADY"

    started = sandboxes.Start(sandbox_id=ident)
    assert (started.sandbox_id, started.version) == (ident, 3)
    assert started.address == f"ttrpc+unix://{daemon.task_listen}"
    assert dict(started.labels) == {"name": "web"}  # containerd from 2.3 on keeps these alone
    assert abs(started.created_at.ToSeconds() - time.time()) < 10

    status = sandboxes.Status(sandbox_id=ident, verbose=True)
    assert (status.state, status.address, status.version) == ("SANDBOX_READY", started.address, 3)
    assert status.created_at == started.created_at
    assert not status.HasField("exited_at")
    assert status.info["netns"] == "/run/netns/x"
    assert status.info["handler"] == "wasm"
    assert status.info["daemon_pid"] == str(daemon.pid)

    waiting = sandboxes.begin("Wait", sandbox_id=ident)
    time.sleep(0.05)
    assert not waiting.done()
    sandboxes.Stop(sandbox_id=ident)
    ended = waiting.result(10)
    assert ended.exit_status == 0
    assert ended.exited_at == sandboxes.Status(sandbox_id=ident).exited_at
    assert sandboxes.Status(sandbox_id=ident).state == "SANDBOX_NOTREADY"
    assert sandboxes.Wait(sandbox_id=ident) == ended  # late: at once
    sandboxes.Stop(sandbox_id=ident)  # again: no harm
    assert "it is stopped" in refused(StatusCode.FAILED_PRECONDITION, sandboxes.Start, sandbox_id=ident)

    sandboxes.Shutdown(sandbox_id=ident)
    refused(StatusCode.NOT_FOUND, sandboxes.Status, sandbox_id=ident)
    assert daemon.records() == []


def test_the_platform_is_linux_on_this_machine(sandboxes, sandbox):
    found = sandboxes.Platform(sandbox_id=sandbox).platform
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    assert (found.os, found.architecture) == ("linux", machine)


def test_many_wait_for_a_sandbox(sandboxes, sandbox):
    waits = [sandboxes.begin("Wait", sandbox_id=sandbox) for _ in range(100)]
    sandboxes.Stop(sandbox_id=sandbox)
    assert all(wait.result(10).HasField("exited_at") for wait in waits)


def test_waiting_costs_no_thread(sandboxes, sandbox, daemon):
    """Every pod holds an open Wait."""
    before = len(daemon.threads())
    waits = [sandboxes.begin("Wait", sandbox_id=sandbox) for _ in range(200)]
    assert sandboxes.Status(sandbox_id=sandbox).state == "SANDBOX_READY"
    assert len(daemon.threads()) <= before + 4
    sandboxes.Stop(sandbox_id=sandbox)
    for wait in waits:
        wait.result(10)


def test_an_id_is_taken_until_shutdown(sandboxes, sandbox, refused):
    assert "exists" in refused(StatusCode.ALREADY_EXISTS, sandboxes.Create, sandbox_id=sandbox)
    sandboxes.Stop(sandbox_id=sandbox)
    refused(StatusCode.ALREADY_EXISTS, sandboxes.Create, sandbox_id=sandbox)
    sandboxes.Shutdown(sandbox_id=sandbox)
    sandboxes.Create(sandbox_id=sandbox)


@pytest.mark.parametrize("bad", ["", "..", "a/b", "/etc", "x" * 77, "a b"])
def test_an_id_that_could_be_a_path_is_refused(sandboxes, bad, refused):
    assert "must be letters and digits" in refused(StatusCode.INVALID_ARGUMENT, sandboxes.Create, sandbox_id=bad)


def test_a_sandbox_that_cannot_start_is_gone(sandboxes, daemon, connect, ident, refused):
    """containerd asks for nothing after a Start that failed."""
    resources = cri_pb2.LinuxContainerResources(cpuset_cpus="700-800")
    pod = cri_pb2.PodSandboxConfig(linux=cri_pb2.LinuxPodSandboxConfig(resources=resources))
    sandboxes.Create(sandbox_id=ident, options=typeurl.pack(pod))
    waiting = sandboxes.begin("Wait", sandbox_id=ident)
    with pytest.raises(RpcError, match=f"sandbox {ident}"):
        sandboxes.Start(sandbox_id=ident)
    waiting.result(10)
    refused(StatusCode.NOT_FOUND, sandboxes.Status, sandbox_id=ident)
    assert not [each for each in connect(service=ADMIN).List().sandboxes if each.id == ident]
    assert not (daemon.state / "sandboxes" / "test" / ident).exists()
    sandboxes.Create(sandbox_id=ident)
    sandboxes.Start(sandbox_id=ident)
    sandboxes.Shutdown(sandbox_id=ident)


def test_a_shutdown_while_it_starts_leaves_nothing(sandboxes, daemon, ident):
    for number in range(30):
        name = f"{ident}-{number}"
        sandboxes.Create(sandbox_id=name)
        calls = [sandboxes.begin(verb, sandbox_id=name) for verb in ("Start", "Shutdown")]
        errors = [call.exception(10) for call in calls]
        assert {error.code for error in errors if error} <= {StatusCode.NOT_FOUND}
    assert daemon.records() == []
    assert not [group for group in daemon.groups() if f"{ident}-" in group.name]
    assert not list((daemon.state / "sandboxes").glob(f"*/{ident}-*"))


UNKNOWN = ["Start", "Platform", "Status", "Wait", "Stop", "Shutdown", "Metrics", "Update"]


@pytest.mark.parametrize("method", UNKNOWN)
def test_an_unknown_sandbox_is_not_found(sandboxes, method, refused):
    assert "no sandbox nobody" in refused(StatusCode.NOT_FOUND, getattr(sandboxes, method), sandbox_id="nobody")


def test_every_method_was_asked_for_an_unknown_sandbox():
    assert set(UNKNOWN) | {"Create"} == set(SERVICES[CONTROLLER])


def test_a_call_without_a_namespace_is_refused(daemon, refused):
    with Client(daemon.listen, "grpc", namespace="", service=CONTROLLER) as nameless:
        for method in SERVICES[CONTROLLER]:
            message = refused(StatusCode.INVALID_ARGUMENT, getattr(nameless, method), sandbox_id="x")
            assert "containerd-namespace" in message


def test_namespaces_do_not_see_each_other(daemon, sandbox, refused):
    with Client(daemon.listen, "grpc", namespace="other", service=CONTROLLER) as other:
        refused(StatusCode.NOT_FOUND, other.Status, sandbox_id=sandbox)
        other.Create(sandbox_id=sandbox)
        other.Shutdown(sandbox_id=sandbox)


def test_update_is_taken(sandboxes, sandbox):
    sandboxes.Update(sandbox_id=sandbox, sandbox=Sandbox(labels={"a": "b"}), fields=["extensions"])


@pytest.mark.parametrize("extension", [b"", b"[]", b"{}", b"\xff", b'{"Metadata": 3}'])
def test_metadata_that_makes_no_sense_is_passed_over(sandboxes, ident, extension):
    made = Sandbox(extensions={"metadata": AnyMessage(type_url=typeurl.SANDBOX_METADATA, value=extension)})
    sandboxes.Create(sandbox_id=ident, sandbox=made)
    sandboxes.Shutdown(sandbox_id=ident)


def test_options_that_make_no_sense_are_refused(sandboxes, ident, refused):
    options = AnyMessage(type_url="runtime.v1.PodSandboxConfig", value=b"\xff\xff")
    assert "options" in refused(StatusCode.INVALID_ARGUMENT, sandboxes.Create, sandbox_id=ident, options=options)


# ---- its containers ----


def test_stop_ends_its_containers_and_only_those(sandboxes, ttrpc, sandbox, container, bundle, ident):
    inside = [container(f"{ident}-{number}", module) for number, module in enumerate(("sleep", "spin", "flood"))]
    never = container(f"{ident}-never", start=False)
    ttrpc.Create(id=f"{ident}-o", bundle=str(bundle("sleep", "forever", name="outside").folder))
    ttrpc.Start(id=f"{ident}-o")
    ttrpc.Pause(id=inside[1])
    waits = [ttrpc.begin("Wait", id=each) for each in (*inside, never)]
    begun = time.monotonic()
    sandboxes.Stop(sandbox_id=sandbox)
    assert time.monotonic() - begun < 1
    assert [wait.result(1).exit_status for wait in waits] == [137] * 4
    assert ttrpc.State(id=inside[0]).status == STOPPED  # containerd deletes them later
    assert ttrpc.State(id=f"{ident}-o").status != STOPPED
    ttrpc.Kill(id=f"{ident}-o", signal=9)
    ttrpc.Wait(id=f"{ident}-o")
    ttrpc.Delete(id=f"{ident}-o")


def test_shutdown_deletes_what_containerd_left(
    sandboxes, ttrpc, sandbox, container, daemon, tmp_path, ident, refused
):
    ids = [container(f"{ident}-{number}") for number in range(3)]
    assert daemon.mounts(tmp_path)
    sandboxes.Shutdown(sandbox_id=sandbox)  # without a Stop before
    for each in ids:
        refused(StatusCode.NOT_FOUND, ttrpc.State, id=each)
    assert daemon.mounts(tmp_path) == []
    assert daemon.records() == []


def test_nothing_is_created_in_a_sandbox_that_is_stopped(
    sandboxes, ttrpc, sandbox, bundle, daemon, tmp_path, ident, refused
):
    sandboxes.Stop(sandbox_id=sandbox)
    made = bundle("hello", annotations={SANDBOX_ID: sandbox})
    message = refused(StatusCode.FAILED_PRECONDITION, ttrpc.Create, id=f"{ident}-c", bundle=str(made.folder))
    assert f"sandbox {sandbox} is stopped" in message
    assert daemon.mounts(tmp_path) == []


def test_what_is_being_created_when_a_sandbox_stops_does_not_run_in_it(
    sandboxes, ttrpc, sandbox, bundle, daemon, tmp_path, ident, slow
):
    made = bundle("sleep", "forever", annotations={SANDBOX_ID: sandbox})
    creating = ttrpc.begin("Create", id=f"{ident}-c", bundle=str(made.folder), stdout=slow)
    time.sleep(0.1)
    sandboxes.Stop(sandbox_id=sandbox)
    with pytest.raises(RpcError, match="is stopped"):
        creating.result(10)
    with pytest.raises(RpcError, match="no container"):
        ttrpc.State(id=f"{ident}-c")
    assert daemon.mounts(tmp_path) == []
    assert not [group for group in daemon.groups() if ident in group.name]


@pytest.mark.parametrize("anew", [False, True], ids=["removed", "made anew"])
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_what_is_being_created_when_a_sandbox_is_removed_does_not_outlive_it(
    sandboxes, ttrpc, sandbox, bundle, daemon, tmp_path, ident, slow, isolation, anew
):
    annotations = {SANDBOX_ID: sandbox, "wasm-sandboxer.io/isolation": isolation}
    made = bundle("sleep", "forever", annotations=annotations, linux={"cgroupsPath": f"/wst-{ident}/c"})
    creating = ttrpc.begin("Create", id=f"{ident}-c", bundle=str(made.folder), stdout=slow)
    time.sleep(0.1)
    sandboxes.Stop(sandbox_id=sandbox)
    sandboxes.Shutdown(sandbox_id=sandbox)
    if anew:
        sandboxes.Create(sandbox_id=sandbox)
        sandboxes.Start(sandbox_id=sandbox)
    with pytest.raises(RpcError, match=rf"cannot (create|make a control group for) container {ident}-c"):
        creating.result(10)
    with pytest.raises(RpcError, match="no container"):
        ttrpc.State(id=f"{ident}-c")
    if anew:
        sandboxes.Shutdown(sandbox_id=sandbox)
    assert daemon.mounts(tmp_path) == []
    assert daemon.records() == []
    assert not [group for group in daemon.groups() if sandbox in group.name]


def test_a_creation_that_its_caller_gave_up_can_be_deleted(ttrpc, bundle, daemon, tmp_path, ident, slow):
    """After a failed Create containerd sends Delete, which may come while it is still being made."""
    made = bundle("hello")
    with pytest.raises(RpcError) as caught:
        ttrpc.begin("Create", id=ident, bundle=str(made.folder), stdout=slow, timeout=0.1).result(10)
    assert caught.value.code is StatusCode.DEADLINE_EXCEEDED
    ttrpc.Delete(id=ident)
    time.sleep(0.6)
    with pytest.raises(RpcError, match="no container"):
        ttrpc.State(id=ident)
    assert daemon.mounts(tmp_path) == []
    assert daemon.records() == []


def test_stop_and_shutdown_may_come_at_once_and_again(sandboxes, sandbox, container, ident, daemon):
    for number in range(3):
        container(f"{ident}-{number}", "spin")
    calls = [sandboxes.begin("Stop", sandbox_id=sandbox) for _ in range(5)]
    calls += [sandboxes.begin("Shutdown", sandbox_id=sandbox) for _ in range(5)]
    errors = [call.exception(10) for call in calls]
    assert {error.code for error in errors if error} <= {StatusCode.NOT_FOUND}
    assert None in errors[5:]
    assert daemon.records() == []


def test_verbose_status_names_the_containers(sandboxes, sandbox, container, ident):
    container(f"{ident}-b")
    container(f"{ident}-a")
    assert sandboxes.Status(sandbox_id=sandbox, verbose=True).info["containers"] == f"{ident}-a,{ident}-b"


def test_a_guest_whose_start_never_ends_can_be_stopped(ttrpc, sandboxes, sandbox, bundle, ident):
    from tests.support.modules import binary
    from tests.support.wat import STUCK_START

    made = bundle("hello", annotations={SANDBOX_ID: sandbox})
    (made.root / "stuck.wasm").write_bytes(binary(STUCK_START))
    made.configure("/stuck.wasm", annotations={SANDBOX_ID: sandbox})
    for how in ("kill", "stop"):
        ttrpc.Create(id=f"{ident}-{how}", bundle=str(made.folder))
        waiting = ttrpc.begin("Wait", id=f"{ident}-{how}")
        starting = ttrpc.begin("Start", id=f"{ident}-{how}")
        time.sleep(0.05)
        if how == "kill":
            ttrpc.Kill(id=f"{ident}-{how}", signal=signal.SIGTERM)
            assert waiting.result(10).exit_status == 143
            ttrpc.Delete(id=f"{ident}-{how}")
        else:
            sandboxes.Stop(sandbox_id=sandbox)
            assert waiting.result(10).exit_status == 137
        starting.exception(10)


def test_records_are_for_the_daemon_alone(sandbox, daemon):
    assert daemon.records()
    assert daemon.state.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "pod",
    [
        {"hostname": "web\n6.6.6.6 bank"},
        {"dns_config": {"servers": ["10.0.0.1\noptions x"]}},
        {"dns_config": {"searches": ["one two"]}},
        {"dns_config": {"options": ["a\x00"]}},
    ],
)
def test_names_that_would_be_more_than_a_word_are_refused(sandboxes, ident, refused, pod):
    options = typeurl.pack(cri_pb2.PodSandboxConfig(**pod))
    message = refused(StatusCode.INVALID_ARGUMENT, sandboxes.Create, sandbox_id=ident, options=options)
    assert "is no host name, address, domain or option" in message


def test_odd_metadata_of_a_sandbox_is_no_hindrance(sandboxes, daemon, ident):
    for number, metadata in enumerate(({"IP": 7, "AdditionalIPs": "x"}, [], {"AdditionalIPs": [None, "fd00::1"]})):
        value = json.dumps({"Metadata": metadata}).encode()
        extension = {"metadata": AnyMessage(type_url=typeurl.SANDBOX_METADATA, value=value)}
        name = f"{ident}-{number}"
        sandboxes.Create(sandbox_id=name, sandbox=Sandbox(extensions=extension), netns_path="/run/netns/x")
        sandboxes.Start(sandbox_id=name)
        hosts = (daemon.state / "sandboxes" / "test" / name / "hosts").read_text()
        assert ("fd00::1" in hosts) is (number == 2)
        sandboxes.Shutdown(sandbox_id=name)
