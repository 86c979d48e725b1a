"""What the README has people do by hand: containerd's configuration, crictl's two files.

crictl itself is in no package. Its `run` is these three calls of CRI with the two files as their fields, which are
named as in CRI's own .proto.
"""

import json
import re
import subprocess
import tomllib
from pathlib import Path

from google.protobuf import json_format, message_factory

from testing import oci
from testing.cri import FILE, Container, Pod
from testing.protos import pool
from tests.support.cli import EXAMPLES, PROGRAM

DEPLOY = Path(__file__).parents[2] / "deploy"


def fields(name, kind):
    """A file's fields; a name that CRI does not know is an error."""
    message = message_factory.GetMessageClass(pool(FILE).FindMessageTypeByName(f"runtime.v1.{kind}"))()
    text = (DEPLOY / name).read_text()
    json_format.Parse(text, message, descriptor_pool=pool(FILE))
    return json.loads(text)


def test_crictls_files_run_a_pod_that_says_hello(node, cri, tmp_path):
    config, container = (
        fields("pod-config.json", "PodSandboxConfig"),
        fields("container-config.json", "ContainerConfig"),
    )
    image = container["image"]["image"]
    layer = {"hello.wasm": (EXAMPLES / "hello.wasm").read_bytes()}
    node.containerd.import_image(oci.build(tmp_path / "hello.tar", image, [layer], entrypoint=["/hello.wasm"]))
    config["log_directory"] = str(tmp_path)
    pod = cri.runtime.RunPodSandbox(config=config, runtime_handler="wasm").pod_sandbox_id
    made = cri.runtime.CreateContainer(pod_sandbox_id=pod, config=container, sandbox_config=config).container_id
    cri.runtime.StartContainer(container_id=made)
    log = tmp_path / container["log_path"]
    assert cri.wait_exit(Container(id=made, pod=Pod(id=pod, config=config), log=log)).exit_code == 0
    assert "Hello from WebAssembly!" in log.read_text()


def test_containerd_takes_the_printed_configuration(node, tmp_path):
    printed = subprocess.run(
        [PROGRAM, "containerd-config", "--config-version", "3", "--address", "/x/s.sock"],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    path = tmp_path / "config.toml"
    path.write_text(f'root = "{tmp_path}/root"\nstate = "{tmp_path}/state"\n{_without_version(printed)}')
    path.write_text(f"version = 3\n{path.read_text()}")
    command = [node.containerd.binaries.containerd, "--config", path, "config", "dump"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    table = tomllib.loads(ran.stdout)
    plugin = table["proxy_plugins"]["wasm-sandboxer"]
    assert (plugin["type"], plugin["address"]) == ("sandbox", "/x/s.sock")
    runtime = table["plugins"]["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]["wasm"]
    assert (runtime["runtime_type"], runtime["sandboxer"]) == ("io.containerd.wasm-sandboxer.v1", "wasm-sandboxer")
    assert "Ignoring" not in ran.stderr, ran.stderr


def test_the_runtime_class_names_the_handler_that_is_printed():
    printed = subprocess.run([PROGRAM, "containerd-config"], capture_output=True, text=True, timeout=60, check=True)
    (handler,) = re.findall(r"^handler: (\w+)$", (DEPLOY / "runtimeclass.yaml").read_text(), re.MULTILINE)
    (name,) = re.findall(r"^  name: (\w+)$", (DEPLOY / "runtimeclass.yaml").read_text(), re.MULTILINE)
    assert f".runtimes.{handler}]" in printed.stdout
    assert f"runtimeClassName: {name}\n" in (DEPLOY / "pod.yaml").read_text()


def _without_version(text):
    return re.sub(r"^version = .*$", "", text, flags=re.MULTILINE)
