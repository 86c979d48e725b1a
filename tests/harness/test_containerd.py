import os
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from testing import guardian, oci
from testing.containerd import Containerd, ContainerdError, Handler, to_toml

pytestmark = pytest.mark.xdist_group("containerd")
REPOSITORY = Path(__file__).parents[2]


def test_cri_says_which_containerd_answers(containerd, cri):
    version = cri.runtime.Version()
    assert version.runtime_name == "containerd"
    assert version.runtime_version.startswith(".".join(map(str, containerd.binaries.version)))
    assert cri.conditions()["RuntimeReady"]
    assert cri.conditions()["NetworkReady"]


def test_an_image_built_by_hand_is_listed_by_cri_and_ctr(containerd, cri, tmp_path):
    image = oci.build(tmp_path / "image.tar", "localhost/hand:1", [{"file": b"content"}], entrypoint=["/file"])
    containerd.import_image(image)
    assert image.reference in cri.image_names()
    assert cri.image(image.reference).id == image.config_digest
    assert image.reference in containerd.ctr.images()
    cri.remove_image(image.reference)
    assert cri.image(image.reference) is None


def test_ctr_runs_a_container(containerd, shell):
    options = [
        "--runc-binary",
        str(containerd.path[-1] / "runc"),
        "--fifo-dir",
        str(containerd.folder / "fifo"),
    ]
    options += ["--snapshotter", containerd.snapshotter]
    done = containerd.ctr("run", "--rm", *options, shell.reference, "by-ctr", "/bin/sh", "-c", "echo $((6 * 7))")
    assert done.stdout == b"42\n"


class Refusing(grpc.GenericRpcHandler):
    """A sandboxer that refuses every call, with a message that tells what it was asked."""

    def __init__(self, name):
        self.name = name

    def service(self, details):
        def refuse(_request, context):
            namespace = dict(details.invocation_metadata)["containerd-namespace"]
            context.abort(grpc.StatusCode.INTERNAL, f"{self.name} refuses {details.method} in {namespace}")

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture
def refusing():
    """Starts a refusing sandboxer on a socket."""
    servers = []

    def start(path):
        server = grpc.server(ThreadPoolExecutor(2), handlers=[Refusing(path.name)])
        server.add_insecure_port(f"unix:{path}")
        server.start()
        servers.append(server)
        return path

    yield start
    for server in servers:
        server.stop(0).wait()


def test_pods_reach_the_sandboxer_of_their_handler(root, tmp_path, refusing):
    sandboxers = {"wasm-sandboxer": refusing(tmp_path / "one"), "other": refusing(tmp_path / "two")}
    handlers = [Handler(), Handler(name="wasm2", sandboxer="other")]
    with Containerd(sandboxers, handlers=handlers) as containerd:
        names = {handler.name for handler in containerd.cri.runtime.Status().runtime_handlers}
        assert {"wasm", "wasm2"} <= names
        create = "/containerd.services.sandbox.v1.Controller/Create in k8s.io"
        with pytest.raises(grpc.RpcError, match=f"one refuses {create}"):
            containerd.cri.run_pod()
        with pytest.raises(grpc.RpcError, match=f"two refuses {create}"):
            containerd.cri.run_pod(handler="wasm2", host_network=True)


@pytest.mark.parametrize("crash", [False, True])
def test_pods_outlive_a_restart(containerd, cri, pod, shell, crash):
    container = cri.run(pod, shell.reference, command=["/bin/sh", "-c", "echo up; sleep 1000"])
    cri.wait_output(container, b"up")
    before = containerd.pid
    containerd.restart(crash=crash)
    assert containerd.pid != before
    assert cri.pod_state(pod) == "SANDBOX_READY"
    assert cri.state(container) == "CONTAINER_RUNNING"
    assert cri.image(shell.reference)


def test_nothing_is_left_after_close(root, shell):
    before = set(Path("/run").iterdir())
    had_group = guardian.cgroups("k8s.io")[0].exists()  # another containerd's, perhaps, which may end meanwhile
    with Containerd(runc=True) as containerd:
        containerd.import_image(shell)
        folder, cri = containerd.folder, containerd.cri
        pod = cri.run_pod(handler="runc", cgroup_parent=containerd.cgroup_parent("pod"))
        cri.run(pod, shell.reference, command=["/bin/sleep", "1000"])
        assert len(containerd.processes()) == 4  # containerd, a shim, pause, sleep
        assert containerd.mounts()
        pid = containerd.pid
    assert not Path(f"/proc/{pid}").exists()
    assert not folder.exists()
    assert not guardian.processes(folder)
    assert not guardian.mounts(folder)
    assert not any(path.exists() for path in guardian.cgroups(folder.name))
    assert set(Path("/run").iterdir()) == before
    assert had_group or not guardian.cgroups("k8s.io")[0].exists()
    assert str(folder) not in Path("/proc/net/unix").read_text()


def test_a_guardian_sweeps_up_after_killed_tests(root, shell):
    script = f"""
        import time
        from testing.containerd import Containerd
        with Containerd(runc=True) as containerd:
            containerd.ctr.import_image({str(shell.archive)!r})
            pod = containerd.cri.run_pod(handler="runc")
            containerd.cri.run(pod, {shell.reference!r}, command=["/bin/sleep", "1000"])
            print(containerd.folder, flush=True)
            time.sleep(1000)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as tests:
        folder = Path(tests.stdout.readline().strip())
        assert len(guardian.processes(folder)) == 4
        os.kill(tests.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not folder.exists()
    assert not guardian.processes(folder)
    assert not guardian.mounts(folder)
    assert not any(path.exists() for path in guardian.cgroups(folder.name))


def test_a_containerd_that_cannot_start_shows_its_log(root):
    containerd = Containerd(settings={"version": 99})
    try:
        with pytest.raises(ContainerdError, match=r"version.*99|99.*version"):
            containerd.start()
    finally:
        containerd.close()


def test_the_native_snapshotter_serves_too(root, shell):
    with Containerd(runc=True, snapshotter="native") as containerd:
        containerd.import_image(shell)
        pod = containerd.cri.run_pod(handler="runc")
        container = containerd.cri.run(pod, shell.reference, command=["/bin/sh", "-c", "exit 7"])
        assert containerd.cri.wait_exit(container).exit_code == 7


def test_settings_are_written_as_toml():
    table = {
        "a": 1,
        "b": {"c.d": {"e": ["x", True], "f": 'quo"te\\'}, "g": False},
        "h": "",
        "i": {},
        "j": [{"k": 2}],
    }
    assert tomllib.loads(to_toml(table)) == table
