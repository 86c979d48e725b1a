"""Pods and their containers through CRI: output, exit codes, settings, volumes, and what cannot run."""

import time

import pytest

from testing.cri import Mount
from tests.support.modules import binary
from tests.support.node import IMAGE

pytestmark = pytest.mark.xdist_group("containerd")

NO_START = '(module (memory (export "memory") 1) (func (export "other")))'
MISSING = '(module (import "env" "magic" (func)) (memory (export "memory") 1) (func (export "_start")))'


def test_a_pod_is_ready_and_has_an_address(cri, pod):
    status = cri.pod_status(pod)
    assert cri.pod_state(pod) == "SANDBOX_READY"
    assert status.network.ip.startswith("10.213.")
    verbose = cri.pod_status(pod, verbose=True)
    assert verbose.status.id == pod.id


def test_a_pod_of_the_hosts_network_has_no_address_of_its_own(cri):
    assert cri.pod_status(cri.run_pod(host_network=True)).network.ip == ""


def test_a_container_writes_to_its_log(run, output):
    assert output(run("/hello.wasm")) == (0, "Hello from WebAssembly!\n")


def test_a_component_writes_to_its_log(run, output):
    code, text = output(run("/hello-component.wasm"))
    assert (code, text.splitlines()[0]) == (0, "Hello from a component!")


@pytest.mark.parametrize("code", [0, 1, 7, 127, 128, 200, 255])
def test_the_exit_code_is_the_guests(cri, run, code):
    status = cri.wait_exit(run("/exit.wasm", str(code)))
    assert status.exit_code == code
    assert status.reason == ("Completed" if code == 0 else "Error")
    assert status.created_at <= status.finished_at  # a guest may end before containerd notes that it has started


@pytest.mark.parametrize("kind", ["unreachable", "divide", "bounds", "stack", "indirect"])
def test_a_trap_is_134_and_its_reason_is_in_the_log(cri, run, output, kind):
    container = run("/trap.wasm", kind)
    assert output(container)[0] == 134
    text = cri.output(container, "stderr").decode()
    assert text.startswith("wasm-sandboxer: /trap.wasm: ")
    assert "backtrace" in text


def test_lines_without_an_end_and_both_streams_are_logged(cri, run):
    container = run("/burst.wasm")
    cri.wait_exit(container)
    lines = {(line.stream, line.partial, line.text) for line in cri.log_lines(container)}
    assert lines == {("stdout", True, b"partial"), ("stderr", True, b"partial")}


def test_every_byte_comes_through(cri, run, tmp_path):
    data = bytes(range(256)) * 400
    (tmp_path / "data").write_bytes(data)
    container = run("/cat.wasm", "/data", mounts=[Mount(source=tmp_path / "data", target="/data", readonly=True)])
    cri.wait_exit(container)
    assert cri.output(container).rstrip(b"\n") == data.rstrip(b"\n")


def test_much_output_comes_through_whole(cri, run):
    container = run("/flood.wasm", "2000000")
    assert cri.wait_exit(container).exit_code == 0
    assert len(cri.output(container)) == 2000000


def test_a_container_without_a_log_runs(cri, run):
    assert cri.wait_exit(run("/flood.wasm", "1000000", log=False)).exit_code == 0


def test_arguments_environment_and_folder_arrive(run, output):
    _, text = output(run("/args.wasm", "one", "two words", "", envs={"WORD": "a=b", "ÜMLAUT": "ü"}, workdir="/etc"))
    lines = text.splitlines()
    assert lines[:4] == ["argv[0]=/args.wasm", "argv[1]=one", "argv[2]=two words", "argv[3]="]
    assert {"WORD=a=b", "ÜMLAUT=ü", "PWD=/etc", "HOSTNAME=pod"} <= set(lines)


def test_the_images_settings_are_the_defaults(node, cri, run, pod, output):
    image = node.image(
        {"bin/program": (node_guest("args")), "bin/other": node_guest("hello")},
        entrypoint=["program", "from-entrypoint"], cmd=["from-cmd"], env={"PATH": "/bin", "WORD": "image"},
        workdir="/bin",
    )  # fmt: skip
    lines = output(cri.run(pod, image))[1].splitlines()
    assert lines[:3] == ["argv[0]=program", "argv[1]=from-entrypoint", "argv[2]=from-cmd"]
    assert {"WORD=image", "PWD=/bin"} <= set(lines)
    lines = output(cri.run(pod, image, name="args", args=["own"], envs={"WORD": "own"}))[1].splitlines()
    assert lines[2] == "argv[2]=own"
    assert "WORD=own" in lines
    assert output(run("other", image=image))[1] == "Hello from WebAssembly!\n"  # found on PATH


def node_guest(name):
    from tests.support.cli import example

    return example(name).read_bytes()


def test_a_function_can_be_named(run, output):
    assert output(run("/reactor.wasm#add", "20", "22")) == (0, "42\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such module in the image: /bad.wasm"),
        (b"#!/bin/sh\necho no", "not WebAssembly but a script"),
        (b"\x7fELF\2\1\1\0", "not WebAssembly but an ELF program"),
        (b"\0asm\1\0\0\0\x0a\x05", "bad.wasm"),
        (binary(NO_START), "it has no _start to run"),
        (binary(MISSING), "magic"),
    ],
)
def test_what_cannot_run_is_refused_with_the_reason_and_leaves_nothing(node, cri, pod, fails, content, words):
    image = node.image({"bad.wasm": content} if content is not None else {"x": b""}, entrypoint=["/bad.wasm"])
    container = cri.create(pod, image)
    assert words in fails(cri.start, container)
    status = cri.status(container)
    assert (cri.state(container), status.exit_code, status.reason) == ("CONTAINER_EXITED", 128, "StartError")
    assert words in status.message
    assert node.task_mounts() == []
    cri.remove(container)
    assert cri.pod_state(pod) == "SANDBOX_READY"


def test_a_container_can_be_started_again_after_a_refusal(cri, pod, fails, run, output):
    container = cri.create(pod, IMAGE, command=["/nowhere.wasm"])
    fails(cri.start, container)
    assert output(run("/hello.wasm", attempt=1, name="main"))[0] == 0


def test_containers_of_a_pod_run_side_by_side(cri, pod, run, output):
    spinner, sleeper = run("/spin.wasm"), run("/sleep.wasm", "forever")
    for number in range(3):
        assert output(run("/exit.wasm", str(number)))[0] == number
    assert {cri.state(spinner), cri.state(sleeper)} == {"CONTAINER_RUNNING"}
    assert len(cri.containers()) == 5


def test_a_container_can_be_removed_while_it_runs(node, cri, run):
    container = run("/spin.wasm")
    cri.remove(container)
    assert cri.containers() == []
    assert node.task_mounts() == []


# ---- volumes ----


def test_volumes_are_what_they_are_made_from(cri, run, output, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "given").write_text("in the folder")
    (tmp_path / "file").write_text("the file")
    volumes = {
        "mounts": [
            Mount(source=tmp_path / "folder", target="/data"),
            Mount(source=tmp_path / "file", target="/data/file"),
            Mount(source=tmp_path / "file", target="/etc/single"),
        ]
    }
    for path, text in (("/data/given", "in the folder"), ("/data/file", "the file"), ("/etc/single", "the file")):
        assert output(run("/files.wasm", "read", path, **volumes)) == (0, text)
    assert output(run("/files.wasm", "write", "/data/new", "from the guest", **volumes))[0] == 0
    assert (tmp_path / "folder" / "new").read_text() == "from the guest"


@pytest.mark.parametrize("arguments", [("write", "/data/x", "y"), ("rm", "/data/given"), ("append", "/file", "more")])
def test_read_only_volumes_cannot_be_changed(run, output, tmp_path, arguments):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "given").write_text("as it was")
    (tmp_path / "file").write_text("as it was")
    volumes = [
        Mount(source=tmp_path / "folder", target="/data", readonly=True),
        Mount(source=tmp_path / "file", target="/file", readonly=True),
    ]
    assert output(run("/files.wasm", *arguments, mounts=volumes))[0] == 1
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["given"]
    assert (tmp_path / "file").read_text() == "as it was"


def test_two_containers_share_an_empty_folder(run, output, tmp_path):
    volume = [Mount(source=tmp_path, target="/shared")]
    assert output(run("/files.wasm", "write", "/shared/note", "from one to the other", mounts=volume))[0] == 0
    assert output(run("/files.wasm", "read", "/shared/note", mounts=volume))[1] == "from one to the other"


def test_a_config_map_is_read_through_its_links_also_after_it_changed(cri, run, output, tmp_path):
    for version in ("..1", "..2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "key").write_text(f"value {version}")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "key").symlink_to("..data/key")
    volume = [Mount(source=tmp_path, target="/etc/config", readonly=True)]
    holder = run("/sleep.wasm", "forever", mounts=volume)
    assert cri.exec_sync(holder, ["/files.wasm", "read", "/etc/config/key"]).stdout == b"value ..1"
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")  # as the kubelet does it
    assert cri.exec_sync(holder, ["/files.wasm", "read", "/etc/config/key"]).stdout == b"value ..2"


def test_a_read_only_root_is_one_but_for_its_volumes(run, output, tmp_path):
    settings = {
        "security": {"readonly_rootfs": True},
        "mounts": [Mount(source=tmp_path, target="/data")],
    }
    assert output(run("/files.wasm", "write", "/x", "y", **settings))[0] == 1
    assert output(run("/files.wasm", "write", "/data/x", "y", **settings))[0] == 0


def test_each_container_has_a_root_of_its_own(run, output):
    assert output(run("/files.wasm", "write", "/note", "mine"))[0] == 0
    assert output(run("/files.wasm", "read", "/note"))[0] == 1


def test_a_volume_that_is_not_there_is_made_as_kubernetes_does(run, output, tmp_path):
    """CRI makes what a hostPath of no type names."""
    assert output(run("/files.wasm", "ls", "/data", mounts=[Mount(source=tmp_path / "new", target="/data")]))[0] == 0


def test_thirty_pods_at_once(node, cri):
    from concurrent.futures import ThreadPoolExecutor

    def one(number):
        pod = cri.run_pod(f"pod{number}", uid=f"uid{number}")
        container = cri.run(pod, IMAGE, command=["/args.wasm"], args=[str(number)])
        status = cri.wait_exit(container, timeout=60)
        text = cri.output(container)
        cri.discard(pod)
        return status.exit_code, f"argv[1]={number}\n".encode() in text

    begun = time.monotonic()
    with ThreadPoolExecutor(30) as pool:
        assert list(pool.map(one, range(30))) == [(0, True)] * 30
    assert time.monotonic() - begun < 60
    assert cri.pods() == []
