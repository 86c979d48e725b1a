"""Guests of a real WasmEdge in the daemon, and what annotations say of it; bundles made by hand, no containerd."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from tests.support.bundles import bind
from tests.support.daemon import Daemon
from tests.support.modules import binary
from tests.support.plugin import PRELOADED, build
from wasm_sandboxer.api import cri_pb2, typeurl
from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode

pytestmark = pytest.mark.xdist_group("wasmedge")
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
ENGINE = "wasm-sandboxer.io/engine"
PLUGINS = "wasm-sandboxer.io/wasmedge-plugin-path"
MODELS = "wasm-sandboxer.io/wasmedge-nn-preload"


@pytest.fixture(scope="module")
def plugins(short_folder: Path) -> Path:
    """Where plugins are allowed; with one that is none, and a link that leads away."""
    folder = short_folder / "plugins"
    folder.mkdir()
    (folder / "some").mkdir()
    (folder / "away").symlink_to("/usr/lib")
    return folder


@pytest.fixture(scope="module")
def daemon(short_folder: Path, store_root: Path, wasmedge: Path, plugins: Path) -> Iterator[Daemon]:
    """One that has a WasmEdge."""
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: the daemon mounts, which needs root")
    folder = short_folder / "daemon"
    folder.mkdir()
    settings = f'shutdown_timeout = 2.0\nwasmedge = "{wasmedge}"\nwasmedge_plugins = "{plugins}"'
    with Daemon(folder, store_root, settings=settings) as running:
        yield running


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ({ENGINE: "v8"}, f"{ENGINE} must be one of auto, wasmtime, wasmedge, not 'v8'"),
        ({PLUGINS: "/usr/lib"}, f"{PLUGINS}: /usr/lib is not below {{plugins}}, where those are that are allowed"),
        ({PLUGINS: "{plugins}/../x"}, f"{PLUGINS}: {{plugins}}/../x is not below {{plugins}}"),
        ({PLUGINS: "{plugins}/away"}, f"{PLUGINS}: {{plugins}}/away is not below {{plugins}}"),
        ({PLUGINS: "{plugins}/none"}, f"{PLUGINS}: there is no {{plugins}}/none"),
        ({MODELS: "default:GGML"}, f"{MODELS}: write NAME:ENCODING:TARGET:/FILE, and commas between several, not"),
        ({MODELS: "d:GGML:AUTO:/none"}, f"{MODELS}: /none: No such file or directory"),
        ({MODELS: "d:GGML:AUTO:/../../../../../../../../etc/passwd"}, f"{MODELS}: /../"),
        ({ENGINE: "wasmedge", MODELS: "d:GGML:AUTO:/hello.wasm"}, "WasmEdge has no plugin wasi_nn here"),
    ],
)
def test_what_makes_no_sense_is_refused(ttrpc, ident, refused, bundle, plugins, annotations, said):
    given = {key: value.format(plugins=plugins) for key, value in annotations.items()}
    made = bundle(annotations=given)
    message = refused(StatusCode.INVALID_ARGUMENT, ttrpc.Create, id=ident, bundle=str(made.folder))
    assert said.format(plugins=plugins) in message


def test_a_wasmedge_that_is_missing_is_missed_only_by_those_who_need_it(own_daemon, connect, bundle, refused):
    sockets = binary("""(module (import "wasi_snapshot_preview1" "sock_open" (func (param i32 i32 i32) (result i32)))
      (memory (export "memory") 1) (func (export "_start")))""")
    daemon = own_daemon(settings='shutdown_timeout = 2.0\nwasmedge = "/nonexistent"')
    with daemon:
        task = connect(to=daemon)
        made = bundle("exit", "3")
        task.Create(id="fine", bundle=str(made.folder))
        task.Start(id="fine")
        assert task.Wait(id="fine").exit_status == 3
        task.Delete(id="fine")
        (made.root / "exit.wasm").write_bytes(sockets)
        assert refused(StatusCode.UNAVAILABLE, task.Create, id="other", bundle=str(made.folder)) == (
            "/exit.wasm: it imports wasi_snapshot_preview1::sock_open, which only WasmEdge offers: "
            "cannot use WasmEdge at /nonexistent: No such file or directory"
        )


def test_the_configuration_chooses_for_those_who_do_not(own_daemon, connect, bundle, wasmedge):
    with own_daemon(settings=f'shutdown_timeout = 2.0\nwasmedge = "{wasmedge}"\nengine = "wasmedge"') as daemon:
        task = connect(to=daemon)
        for ident, annotations in (("left", {}), ("chosen", {ENGINE: "wasmtime"})):
            made = bundle("args", annotations=annotations, name=ident)
            task.Create(id=ident, bundle=str(made.folder), **made.streams())
            task.Start(id=ident)
            # WasmEdge gives a program's name without its folder.
            assert made.read().splitlines()[0] == {"left": b"argv[0]=args.wasm"}.get(ident, b"argv[0]=/args.wasm")
            assert task.Wait(id=ident).exit_status == 0
            task.Delete(id=ident)


def test_plugins_are_refused_where_none_are_allowed(own_daemon, connect, bundle, refused):
    with own_daemon() as daemon:
        made = bundle("hello", annotations={PLUGINS: "/usr/lib"})
        message = refused(StatusCode.INVALID_ARGUMENT, connect(to=daemon).Create, id="c", bundle=str(made.folder))
        assert message == f"{PLUGINS}: none are allowed here; the configuration's wasmedge_plugins says which"


# --- running


@pytest.fixture
def on_wasmedge(bundle):
    """Makes bundles that are to run there."""

    def make(*words, annotations=None, **settings):
        return bundle(*words, annotations={ENGINE: "wasmedge", **(annotations or {})}, **settings)

    return make


@pytest.fixture
def start(ttrpc, ident):
    """Starts a bundle's container: its pid. It is killed afterwards, if it still runs."""
    started = []

    def begin(made, **streams):
        ttrpc.Create(id=ident, bundle=str(made.folder), **(streams or made.streams()))
        started.append(ident)
        return ttrpc.Start(id=ident).pid

    yield begin
    for each in started:
        with suppress(RpcError):  # it has ended
            ttrpc.Kill(id=each, signal=9, all=True)
        ttrpc.Wait(id=each)
        ttrpc.Delete(id=each)


@pytest.fixture
def run(ttrpc, daemon, ident, start):
    """Runs a bundle's container to its end: exit code, what it wrote to stdout and stderr."""

    def to_the_end(made):
        start(made)
        out, err = made.read("stdout"), made.read("stderr")
        return ttrpc.Wait(id=ident).exit_status, out, err

    return to_the_end


def test_a_guest_has_its_arguments_and_variables(run, on_wasmedge):
    code, out, err = run(on_wasmedge("args", "one", "--two", env={"K": "V=1"}))
    assert (code, err) == (0, b"")
    lines = ["argv[0]=args.wasm", "argv[1]=one", "argv[2]=--two", "HOME=/", "K=V=1", "PWD=/"]
    assert out.decode().splitlines() == lines


@pytest.mark.parametrize("code", [0, 7, 126, 255])
def test_exit_codes_are_its_own(run, on_wasmedge, code):
    assert run(on_wasmedge("exit", str(code))) == (code, b"", b"")


def test_a_trap_ends_with_134(run, on_wasmedge, daemon, ident):
    code, out, err = run(on_wasmedge("trap", "divide"))
    assert code == 134
    assert err.startswith(b"wasm-sandboxer: /trap.wasm: trap: WasmEdge says why at the end of its output, ")
    assert b"[error] execution failed: integer divide by zero" in out
    assert f"container {ident} ended: trapped with code 134" in daemon.log


def test_bytes_go_through_as_they_are(ttrpc, ident, start, on_wasmedge):
    made = on_wasmedge("cat")
    start(made, **made.streams(stdin=True))
    data = os.urandom(60_000)
    made.write(data)
    made.close_stdin()
    ttrpc.CloseIO(id=ident, stdin=True)
    assert made.read() == data
    assert ttrpc.Wait(id=ident).exit_status == 0


@pytest.mark.parametrize("annotations", [{}, {"io.kubernetes.cri.sandbox-id": "none"}])
def test_input_may_come_late_and_in_pieces(ttrpc, ident, start, on_wasmedge, annotations):
    made = on_wasmedge("cat", annotations=annotations)
    streams = made.streams(stdin=True)
    opening = threading.Timer(0 if annotations else 0.3, made.write, [b"one"])  # a pod's input stays open by itself
    opening.start()
    start(made, **streams)
    opening.join()
    assert made.read(until=b"one") == b"one"
    time.sleep(0.3)
    made.write(b"two")
    made.close_stdin()
    ttrpc.CloseIO(id=ident, stdin=True)
    assert made.read() == b"two"
    assert ttrpc.Wait(id=ident).exit_status == 0


def test_volumes_are_as_the_spec_says(run, on_wasmedge, tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("from outside")
    mounts = [bind(volume, "/data"), bind(volume, "/fixed", "ro")]
    assert run(on_wasmedge("files", "read", "/fixed/file", mounts=mounts)) == (0, b"from outside", b"")
    assert (volume / "file").read_text() == "from outside"


@pytest.mark.parametrize(("folder", "code"), [("/data", 0), ("/fixed", 1)])
def test_a_volume_is_written_only_where_it_may_be(run, on_wasmedge, tmp_path, folder, code):
    volume = tmp_path / "volume"
    volume.mkdir()
    mounts = [bind(volume, "/data"), bind(volume, "/fixed", "ro")]
    assert run(on_wasmedge("files", "write", f"{folder}/new", "x", mounts=mounts))[0] == code
    assert (volume / "new").exists() == (code == 0)


def test_it_sees_the_libraries_of_the_host_and_nothing_else_of_it(start, on_wasmedge, daemon):
    pid = start(on_wasmedge("sleep", "forever"))
    root = Path(f"/proc/{pid}/root")
    assert (root / "rootfs/sleep.wasm").exists()
    for place in ("etc/passwd", "etc/shadow", "var", "run", "sys", str(daemon.folder)[1:]):
        assert not (root / place).exists(), place
    with pytest.raises(OSError, match="Read-only file system"):
        (root / "usr/new").touch()
    assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()


def test_it_is_the_user_that_the_spec_names(start, on_wasmedge):
    pid = start(on_wasmedge("sleep", "forever", process={"user": {"uid": 1234, "gid": 2345}}))
    assert f"Uid:\t{1234}\t{1234}" in Path(f"/proc/{pid}/status").read_text()


def test_it_runs_as_another_user_to_its_end(run, on_wasmedge):
    assert run(on_wasmedge("hello", process={"user": {"uid": 1234, "gid": 2345}}))[:2] == (
        0,
        b"Hello from WebAssembly!\n",
    )


def test_a_signal_ends_it_at_once_and_with_all_it_is(ttrpc, ident, start, on_wasmedge):
    made = on_wasmedge("sleep", "forever")
    pid = start(made)
    ttrpc.Kill(id=ident, signal=15)
    assert ttrpc.Wait(id=ident).exit_status == 143
    assert not Path(f"/proc/{pid}").exists()
    assert made.read() == b""  # its output has come to its end


def test_memory_is_bounded_by_the_engine_and_the_kernel(run, on_wasmedge, ident):
    made = on_wasmedge("memhog", "200", memory=64 << 20, linux={
        "cgroupsPath": f"/wst-{ident}/edge", "resources": {"memory": {"limit": 64 << 20}},
    })  # fmt: skip
    code, out, _ = run(made)
    # What WasmEdge itself takes is charged too, so the kernel is first.
    assert code == 137
    assert b"refused" not in out


def test_its_limit_is_kept_for_it_in_its_pods_memory(ttrpc, sandboxes, ident, bundle, refused):
    """It tells nobody what it has: so nobody else in the pod gets what it may take."""
    resources = cri_pb2.LinuxContainerResources(memory_limit_in_bytes=64 << 20)
    config = cri_pb2.PodSandboxConfig(linux=cri_pb2.LinuxPodSandboxConfig(resources=resources))
    sandboxes.Create(sandbox_id=ident, options=typeurl.pack(config))
    sandboxes.Start(sandbox_id=ident)

    def make(name, *command, memory=None, **annotations):
        made = bundle(*command, name=f"{ident}-{name}", memory=memory, annotations={SANDBOX_ID: ident, **annotations})
        ttrpc.Create(id=f"{ident}-{name}", bundle=str(made.folder))
        return f"{ident}-{name}"

    edge = make("edge", "sleep", "forever", memory=40 << 20, **{ENGINE: "wasmedge"})
    other = make("other", "sleep", "forever", memory=40 << 20, **{ENGINE: "wasmedge"})
    ttrpc.Start(id=edge)
    said = refused(StatusCode.RESOURCE_EXHAUSTED, ttrpc.Start, id=other)
    assert said == (
        f"container {other} may take 40 MiB of memory, its limit, and its pod's limit is 64 MiB, "
        "of which 40 MiB are in use"
    )
    for number, (isolation, code) in enumerate([("thread", 3), ("process", 3), ("thread", 0)]):
        if not code:
            ttrpc.Kill(id=edge, signal=9)
            ttrpc.Wait(id=edge)
        hog = make(f"hog{number}", "memhog", "32", "4", **{"wasm-sandboxer.io/isolation": isolation})
        ttrpc.Start(id=hog)
        assert ttrpc.Wait(id=hog).exit_status == code
    sandboxes.Shutdown(sandbox_id=ident)


def test_it_cannot_have_more_memory_than_it_was_made_with(ttrpc, ident, start, on_wasmedge, refused):
    linux = {"cgroupsPath": f"/wst-{ident}", "resources": {"memory": {"limit": 128 << 20}}}
    start(on_wasmedge("sleep", "forever", linux=linux))
    for more in (256 << 20, -1):
        limits = AnyMessage(type_url=typeurl.LINUX_RESOURCES, value=b'{"memory": {"limit": %d}}' % more)
        words = refused(StatusCode.FAILED_PRECONDITION, ttrpc.Update, id=ident, resources=limits)
        assert f"{ident} cannot have more memory while it runs" in words
        assert "was given 128 MiB for good" in words
    less = AnyMessage(type_url=typeurl.LINUX_RESOURCES, value=b'{"memory": {"limit": %d}}' % (100 << 20))
    ttrpc.Update(id=ident, resources=less)


def test_execs_choose_for_themselves(ttrpc, ident, start, bundle, on_wasmedge):
    made = on_wasmedge("sleep", "forever")
    made.add("socket-server", "exit")
    start(made)
    spec = {"args": ["/exit.wasm", "9"], "env": [], "cwd": "/"}
    message = AnyMessage(type_url=typeurl.PROCESS, value=json.dumps(spec).encode())
    ttrpc.Exec(id=ident, exec_id="e", spec=message)
    pid = ttrpc.Start(id=ident, exec_id="e").pid
    assert pid
    assert ttrpc.Wait(id=ident, exec_id="e").exit_status == 9
    ttrpc.Delete(id=ident, exec_id="e")


def test_a_plugin_and_its_models_are_those_that_the_annotations_name(run, bundle, plugins):
    build(plugins / "built")
    made = bundle(annotations={PLUGINS: str(plugins / "built"), MODELS: "default:GGML:AUTO:/model"})
    (made.root / "hello.wasm").write_bytes(binary(PRELOADED))
    (made.root / "model").write_text("weights")
    assert run(made)[0] == len("default:GGML:AUTO:/rootfs/model")
