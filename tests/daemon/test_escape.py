"""What a guest reaches that has broken out of WasmEdge: a program in WasmEdge's place, with all that it is given."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import Bundle
from tests.support.daemon import Daemon
from tests.support.rpc import Client

_SOURCE = Path(__file__).parents[1] / "support" / "escaped.c"
_CACHE = Path(__file__).parents[2] / ".cache" / "zig"
# It compiles and tries modules as WasmEdge does, as far as the daemon sees, and then runs what plays the guest.
_WASMEDGE = """#!/bin/sh
case "$*" in
--version) echo "wasmedge version 0.14.1"; exit ;;
compile*) while [ $# -gt 2 ]; do shift; done; exec cp "$1" "$2" ;;
*/fd/3/*) exec {program} "$@" ;;
esac
echo "A function name is required"
exit 1
"""
_CAPABILITIES = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_MKNOD",
    "CAP_SYS_CHROOT",
]  # fmt: skip


@pytest.fixture(scope="module")
def daemon(short_folder: Path, store_root: Path) -> Iterator[Daemon]:
    """One whose WasmEdge is that program."""
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: the daemon mounts, which needs root")
    edge, folder = short_folder / "edge", short_folder / "daemon"
    for each in (edge, folder):
        each.mkdir()
    short_folder.chmod(0o755)  # jobs are nobody
    program = edge / "escaped"
    caches = {"ZIG_LOCAL_CACHE_DIR": str(_CACHE), "ZIG_GLOBAL_CACHE_DIR": str(_CACHE)}
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, _SOURCE],
        env=os.environ | caches, check=True, capture_output=True,
    )  # fmt: skip
    script = edge / "wasmedge"
    script.write_text(_WASMEDGE.format(program=program))
    script.chmod(0o755)
    store = short_folder / "store"  # not the session's: what is in it is no module
    with Daemon(folder, store, settings=f'shutdown_timeout = 2.0\nwasmedge = "{script}"') as running:
        yield running


@pytest.fixture
def victim() -> Iterator[int]:
    """A process of the host's, of the same user and with no more than its capabilities."""
    with subprocess.Popen(["setpriv", "--bounding-set=-all", "sleep", "600"]) as process:
        yield process.pid
        process.kill()


@pytest.mark.parametrize("settings", [{}, {"memory": 64 << 20}], ids=["from the store", "with less memory"])
def test_it_reaches_nothing_that_is_not_its_own(
    ttrpc: Client, bundle: Callable[..., Bundle], ident: str, victim: int, settings: dict[str, Any]
) -> None:
    made = bundle(
        "exit",
        str(victim),
        annotations={"wasm-sandboxer.io/engine": "wasmedge"},
        process={"capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES)},
        **settings,
    )
    ttrpc.Create(id=ident, bundle=str(made.folder), **made.streams())
    ttrpc.Start(id=ident)
    told = made.read().decode().splitlines()
    ttrpc.Wait(id=ident)
    ttrpc.Delete(id=ident)
    assert told == ["reads its module", "signals itself", "bounds itself", "has a socket"]
