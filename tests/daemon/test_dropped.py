"""Containers that containerd has dropped, as the shim's script tells the daemon by its `delete`."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.rpc import Client
from wasm_sandboxer.api.task_pb2 import DeleteResponse
from wasm_sandboxer.api.task_types_pb2 import RUNNING
from wasm_sandboxer.rpc.ttrpc import RpcError

SHIM = Path(__file__).parents[2] / "data" / "bin" / "containerd-shim-wasm-sandboxer-v1"
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"


def drop(daemon, ident, namespace="test"):
    """What containerd runs when it lets go of a task."""
    environment = {"PATH": os.environ["PATH"], "WASM_SANDBOXER_TASK_SOCKET": str(daemon.task_listen)}
    command = [SHIM, "-namespace", namespace, "-address", "/none", "-publish-binary", "/none", "-id", ident]
    command += ["-bundle", "/none", "delete"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=10, check=True)
    assert done.stderr == b""
    assert DeleteResponse.FromString(done.stdout).exit_status == 137


def until_gone(client, ident):
    deadline = time.monotonic() + 10
    while True:
        try:
            client.State(id=ident)
        except RpcError:
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)


def told(daemon, ident):
    """How often the log says that it was dropped."""
    return daemon.log.count(f"container {ident} is ended and deleted: containerd has dropped it")


@pytest.mark.parametrize("started", [True, False], ids=["running", "created"])
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_what_containerd_has_dropped_is_ended_and_deleted(
    daemon, ttrpc, sandboxes, bundle, tmp_path, ident, isolation, started
):
    sandboxes.Create(sandbox_id=ident)
    sandboxes.Start(sandbox_id=ident)
    annotations = {SANDBOX_ID: ident, "wasm-sandboxer.io/isolation": isolation}
    for name in ("dropped", "kept"):
        made = bundle("sleep", "forever", name=name, annotations=annotations)
        ttrpc.Create(id=f"{ident}-{name}", bundle=str(made.folder), **made.streams())
        if started:
            ttrpc.Start(id=f"{ident}-{name}")
    before = daemon.mounts(tmp_path)
    drop(daemon, f"{ident}-dropped")
    until_gone(ttrpc, f"{ident}-dropped")
    assert daemon.mounts(tmp_path) == [each for each in before if "/dropped/" not in each]
    assert f"containers/test/{ident}-dropped.json" not in daemon.records()
    assert told(daemon, f"{ident}-dropped") == 1
    assert sandboxes.Status(sandbox_id=ident, verbose=True).info["containers"] == f"{ident}-kept"
    sandboxes.Shutdown(sandbox_id=ident)


def test_a_container_of_that_id_in_another_namespace_goes_on(daemon, ttrpc, bundle, ident):
    ttrpc.Create(id=ident, bundle=str(bundle("sleep", "forever").folder))
    ttrpc.Start(id=ident)
    drop(daemon, ident, "other")
    drop(daemon, "start", "delete")  # which are words of the shim's too
    assert ttrpc.State(id=ident).status == RUNNING
    drop(daemon, ident)
    until_gone(ttrpc, ident)


def test_what_is_gone_already_is_nothing_to_tell(daemon, ttrpc, bundle, ident):
    ttrpc.Create(id=ident, bundle=str(bundle("hello").folder))
    ttrpc.Delete(id=ident)
    drop(daemon, ident)
    ttrpc.Shutdown(id=ident)
    told = [line.split()[2] for line in daemon.log.splitlines() if f"container={ident} " in line]
    assert [call for call in told if call != "Shutdown"] == ["Create", "Delete"]
    assert f"container {ident}," not in daemon.log


@pytest.mark.parametrize("there", [True, False], ids=["still there", "deleted"])
def test_what_was_dropped_while_the_daemon_stood_still_does_not_hit_the_next_of_its_id(
    daemon, ttrpc, bundle, ident, there
):
    made, anew = (bundle("sleep", "forever", name=name) for name in ("old", "new"))
    ttrpc.Create(id=ident, bundle=str(made.folder))
    ttrpc.Start(id=ident)
    if not there:
        ttrpc.Kill(id=ident, signal=signal.SIGKILL)
        ttrpc.Wait(id=ident)
        ttrpc.Delete(id=ident)
    daemon.signal(signal.SIGSTOP)
    try:
        drop(daemon, ident)
        creating = ttrpc.begin("Create", id=ident, bundle=str(anew.folder))
        time.sleep(0.1)
    finally:
        daemon.signal(signal.SIGCONT)
    creating.result(10)
    ttrpc.Start(id=ident)
    state = ttrpc.State(id=ident)
    assert (state.status, state.bundle) == (RUNNING, str(anew.folder))
    assert told(daemon, ident) == there
    assert daemon.threads().count(ident) == 1
    ttrpc.Kill(id=ident, signal=signal.SIGKILL)
    ttrpc.Wait(id=ident)
    ttrpc.Delete(id=ident)


def test_what_is_dropped_while_it_is_being_created_is_deleted(daemon, ttrpc, bundle, ident, tmp_path):
    logger = tmp_path / "logger"
    logger.write_text("#!/bin/sh\nsleep 0.4\nexec 5>&-\ncat <&3 >/dev/null\n")
    logger.chmod(0o755)
    creating = ttrpc.begin("Create", id=ident, bundle=str(bundle("hello").folder), stdout=f"binary://{logger}")
    time.sleep(0.1)
    drop(daemon, ident)
    creating.result(10)
    until_gone(ttrpc, ident)
    assert daemon.mounts(tmp_path) == []


def test_a_dead_daemon_is_told_nothing_and_its_successor_drops_what_it_left(own_daemon, bundle):
    daemon = own_daemon()
    daemon.start()
    with Client(daemon.task_listen) as client:
        client.Create(id="c", bundle=str(bundle("hello").folder))
    daemon.kill()
    files = sorted(daemon.folder.iterdir())
    drop(daemon, "c")
    assert sorted(daemon.folder.iterdir()) == files
    with daemon, Client(daemon.task_listen) as client:
        client.State(id="c")
        drop(daemon, "c")
        until_gone(client, "c")
        assert daemon.records() == []


def test_the_shim_makes_nothing_where_no_daemon_was(own_daemon):
    daemon = own_daemon()
    files = sorted(daemon.folder.iterdir())
    drop(daemon, "c")
    assert sorted(daemon.folder.iterdir()) == files
