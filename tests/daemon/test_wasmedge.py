"""What annotations say of engines, plugins and models, in bundles made by hand; no containerd."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.modules import binary
from wasm_sandboxer.rpc.ttrpc import StatusCode

pytestmark = pytest.mark.xdist_group("wasmedge")
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


def test_plugins_are_refused_where_none_are_allowed(own_daemon, connect, bundle, refused):
    with own_daemon() as daemon:
        made = bundle("hello", annotations={PLUGINS: "/usr/lib"})
        message = refused(StatusCode.INVALID_ARGUMENT, connect(to=daemon).Create, id="c", bundle=str(made.folder))
        assert message == f"{PLUGINS}: none are allowed here; the configuration's wasmedge_plugins says which"
