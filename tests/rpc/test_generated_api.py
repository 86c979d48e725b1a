import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty

from wasm_sandboxer.api import cgroups_v1_pb2, cgroups_v2_pb2, cri_pb2, sandbox_pb2, task_pb2, typeurl
from wasm_sandboxer.api.services import ADMIN, CONTROLLER, EVENTS, SERVICES, TASK

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "admin": "wasm_sandboxer.admin.v1",
    "cgroups_v1": "io.containerd.cgroups.v1",
    "cgroups_v2": "io.containerd.cgroups.v2",
    "cri": "runtime.v1",
    "events": "containerd.services.events.v1",
    "rpc_status": "google.rpc",
    "runc": "containerd.runc.v1",
    "runtimeoptions": "runtimeoptions.v1",
    "sandbox": "containerd.services.sandbox.v1",
    "task": "containerd.task.v3",
    "task_events": "containerd.events",
    "task_types": "containerd.v1.types",
    "ttrpc": "ttrpc",
    "types": "containerd.types",
}


def test_generated_code_is_in_step_with_the_protos():
    command = [sys.executable, PROJECT / "tools/generate_api.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_generated_code_is_all_there_is_and_has_no_grpc_stubs():
    generated = {path.stem.removesuffix("_pb2") for path in (PROJECT / "src/wasm_sandboxer/api").glob("*_pb2.py")}
    assert generated == PACKAGES.keys()
    assert not list((PROJECT / "src/wasm_sandboxer/api").glob("*_grpc.py"))


@pytest.mark.parametrize("name", PACKAGES)
def test_the_packages_on_the_wire_are_containerds_and_our_own(name):
    module = importlib.import_module(f"wasm_sandboxer.api.{name}_pb2")
    assert module.DESCRIPTOR.package == PACKAGES[name]
    assert module.DESCRIPTOR.name == f"wasm_sandboxer/api/{name}.proto"


def test_every_method_is_in_the_table():
    controller = {"Create", "Start", "Platform", "Stop", "Wait", "Status", "Shutdown", "Metrics", "Update"}
    task = {"State", "Create", "Start", "Delete", "Pids", "Pause", "Resume", "Checkpoint", "Kill", "Exec"}
    task |= {"ResizePty", "CloseIO", "Update", "Wait", "Stats", "Connect", "Shutdown"}
    assert {name: methods.keys() for name, methods in SERVICES.items()} == {
        ADMIN: {"List"},
        CONTROLLER: controller,
        EVENTS: {"Publish", "Forward", "Subscribe"},
        TASK: task,
    }


def test_the_table_gives_the_generated_classes():
    assert SERVICES[TASK]["State"] == (task_pb2.StateRequest, task_pb2.StateResponse, False)
    assert SERVICES[TASK]["Kill"] == (task_pb2.KillRequest, Empty, False)
    assert SERVICES[CONTROLLER]["Wait"].response is sandbox_pb2.ControllerWaitResponse
    assert [name for methods in SERVICES.values() for name, rpc in methods.items() if rpc.streams] == ["Subscribe"]


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (cgroups_v1_pb2.Metrics(), "io.containerd.cgroups.v1.Metrics"),
        (cgroups_v2_pb2.Metrics(), "io.containerd.cgroups.v2.Metrics"),
        (cri_pb2.PodSandboxConfig(hostname="h"), "runtime.v1.PodSandboxConfig"),
    ],
)
def test_an_any_is_named_by_the_bare_full_name(message, name):
    packed = typeurl.pack(message)
    assert packed.type_url == name
    assert typeurl.holds(packed, type(message))
    assert typeurl.unpack(packed, type(message)) == message


def test_an_any_named_as_protobuf_does_is_understood_too():
    packed = Any()
    packed.Pack(cri_pb2.PodSandboxConfig(hostname="h"))
    assert typeurl.unpack(packed, cri_pb2.PodSandboxConfig).hostname == "h"


def test_an_any_of_json_is_known_by_its_path():
    process = Any(type_url="types.containerd.io/opencontainers/runtime-spec/1/Process", value=b"{}")
    assert typeurl.holds(process, typeurl.PROCESS)
    assert not typeurl.holds(process, typeurl.SPEC)


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (Any(), "expected runtime.v1.PodSandboxConfig, not nothing"),
        (Any(type_url="runtime.v1.Other"), "not runtime.v1.Other"),
        (Any(type_url="runtime.v1.PodSandboxConfig", value=b"\xff"), "not a runtime.v1.PodSandboxConfig"),
    ],
)
def test_an_any_that_holds_something_else_is_a_value_error(packed, why):
    with pytest.raises(ValueError, match=why):
        typeurl.unpack(packed, cri_pb2.PodSandboxConfig)
