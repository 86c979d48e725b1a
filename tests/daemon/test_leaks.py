"""Nothing stays of what has ended: descriptors, threads, mounts, records, control groups. No containerd."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from tests.support.bundles import Bundle, bind
from tests.support.cli import PATIENCE
from tests.support.rpc import controller
from wasm_sandboxer.api import typeurl
from wasm_sandboxer.config import Config
from wasm_sandboxer.rpc.ttrpc import RpcError

SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
HELLO = AnyMessage(type_url=typeurl.PROCESS, value=json.dumps({"args": ["/hello.wasm"], "cwd": "/"}).encode())


def held(daemon, folder):
    """All that a daemon holds that could grow."""
    return {
        "descriptors": len(daemon.descriptors()),
        "threads": len(daemon.threads()),
        "mounts": len(daemon.mounts(folder)),
        "records": len(daemon.records()),
        "groups": len(daemon.groups()),
        "namespaces": sum(1 for each in daemon.descriptors() if each.startswith("net:")),
    }


def settled(daemon, folder, wanted=None):
    """What it holds, once that is `wanted`, or after a while; without `wanted` once it does not change."""
    deadline = time.monotonic() + PATIENCE
    last = None
    while time.monotonic() < deadline:
        found = held(daemon, folder)
        if found == (last if wanted is None else wanted) and not has_helpers(daemon):
            break
        last = found
        time.sleep(0.1)
    return found


def has_helpers(daemon):
    """Whether there are workers that were only made since others were long at it: they go after some seconds."""
    return sum(name.startswith("worker-") for name in daemon.threads()) > Config().workers


@pytest.fixture
def bundles(tmp_path):
    """Bundles for workers of their own, of all that can be held: volumes, FIFOs, terminals."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "file").write_text("x")
    made = []
    for number in range(8):
        bundle = Bundle(tmp_path / f"b{number}")
        bundle.add("hello", "exit", "sleep")
        made.append(bundle)
    yield made
    for bundle in made:
        bundle.close()


def live(client, bundle, ident, number, folder):
    """One container's life, in one of several ways."""
    mounts = [bind(folder / "volume", "/data", "ro"), bind(folder / "file", "/etc/file")]
    terminal = number % 5 == 1
    command = ["/sleep.wasm", "forever"] if number % 3 == 0 else ["/hello.wasm"]
    bundle.configure(*command, mounts=mounts, terminal=terminal, readonly=number % 2 == 0)
    for name in ("stdin", "stdout", "stderr"):
        (bundle.folder / name).unlink(missing_ok=True)
    streams = bundle.streams(stdin=True)
    if number % 7 == 6:  # one that cannot be
        bundle.configure("/nowhere.wasm", mounts=mounts)
        with pytest.raises(RpcError):
            client.Create(id=ident, bundle=str(bundle.folder), terminal=terminal, **streams)
        bundle.close()
        return
    client.Create(id=ident, bundle=str(bundle.folder), terminal=terminal, **streams)
    if number % 11 != 10:  # one that is never started
        client.Start(id=ident)
        if number % 3 == 0:
            client.Exec(id=ident, exec_id="e", spec=HELLO)
            client.Start(id=ident, exec_id="e")
            client.Kill(id=ident, signal=signal.SIGKILL)
        client.Wait(id=ident)
    client.Delete(id=ident)
    bundle.close()


@pytest.mark.parametrize("wire", ["ttrpc", "grpc"])
def test_nothing_stays_of_three_hundred_containers(daemon, connect, bundles, tmp_path, wire):
    client = connect(wire)

    def many(worker, count):
        for number in range(count):
            live(client, bundles[worker], f"w{worker}-{number}", number, tmp_path)

    with ThreadPoolExecutor(len(bundles)) as pool:
        list(pool.map(lambda worker: many(worker, 12), range(len(bundles))))  # warm: pools, caches
        before = settled(daemon, tmp_path)
        list(pool.map(lambda worker: many(worker, 38), range(len(bundles))))
    assert settled(daemon, tmp_path, before) == before
    assert before["mounts"] == before["records"] == 0


def test_nothing_stays_of_sandboxes(daemon, connect, bundles, tmp_path, netns):
    client = connect("ttrpc")
    with controller(daemon.listen) as pods:

        def one(number):
            pods.Create(sandbox_id=f"pod{number}", netns_path=str(netns) if number % 4 else "")
            pods.Start(sandbox_id=f"pod{number}")
            waiting = pods.begin("Wait", sandbox_id=f"pod{number}")
            if number % 3:
                bundle = bundles[number % 8]
                bundle.configure("/sleep.wasm", "forever", annotations={SANDBOX_ID: f"pod{number}"})
                client.Create(id=f"c{number}", bundle=str(bundle.folder))
                client.Start(id=f"c{number}")
            if number % 2:
                pods.Stop(sandbox_id=f"pod{number}")
            pods.Shutdown(sandbox_id=f"pod{number}")
            waiting.result(10)

        for number in range(10):
            one(number)
        before = settled(daemon, tmp_path)
        for number in range(60):
            one(number)
        assert settled(daemon, tmp_path, before) == before


def test_nothing_stays_of_clients(daemon, connect, tmp_path):
    from tests.support.rpc import Client

    def come_and_go():
        for wire, path in (("ttrpc", daemon.task_listen), ("grpc", daemon.listen)):
            with Client(path, wire) as client:
                client.Shutdown(id="x")

    come_and_go()
    before = settled(daemon, tmp_path)
    for _ in range(30):
        come_and_go()
    assert settled(daemon, tmp_path, before) == before


def test_memory_stays_level(daemon, connect, bundles):
    """Not what a container costs, but that a thousand lives cost nothing that stays."""
    client = connect("ttrpc")
    folder = str(bundles[0].folder)
    bundles[0].configure("/hello.wasm")

    def many(count):
        for number in range(count):
            client.Create(id=f"m{number}", bundle=folder)
            client.Start(id=f"m{number}")
            client.Wait(id=f"m{number}")
            client.Delete(id=f"m{number}")

    many(200)
    before = _resident(daemon.pid)
    many(400)
    assert _resident(daemon.pid) - before < 4 << 20


def _resident(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
