"""What Prometheus is told: the real daemon's answers, after real containers have run; and clients that mean harm."""

import http.client
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.bundles import Bundle
from tests.support.daemon import Daemon, DaemonError
from tests.support.modules import binary
from tests.support.rpc import Client, controller
from wasm_sandboxer.api import typeurl
from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode

DOCUMENT = Path(__file__).parents[2] / "docs" / "statistics.md"
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"


@pytest.fixture
def told(own_daemon: Callable[..., Daemon]) -> Iterator[Daemon]:
    """A daemon with an empty module store that tells its metrics."""
    made = own_daemon("--metrics-listen", "127.0.0.1:0", "--root", Path("/nowhere"))
    made.command[made.command.index(Path("/nowhere"))] = made.folder / "store"
    with made as running:
        yield running


@pytest.fixture
def client(told: Daemon, connect: Callable[..., Client]) -> Client:
    return connect(to=told)


def port(daemon: Daemon) -> int:
    found = re.search(r"metrics at http://127\.0\.0\.1:(\d+)/metrics", daemon.log)
    assert found, daemon.log
    return int(found[1])


def ask(daemon: Daemon, path: str = "/metrics", method: str = "GET") -> tuple[int, str, bytes]:
    """Status, content type, body."""
    connection = http.client.HTTPConnection("127.0.0.1", port(daemon), timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


def scrape(daemon: Daemon) -> dict[tuple[str, ...], float]:
    """Samples by their name and the values of their labels, in the order of those' names."""
    status, kind, text = ask(daemon)
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name.removeprefix("wasm_sandboxer_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture
def run(client: Client, bundle: Callable[..., Bundle]) -> Callable[..., str]:
    """Creates and starts a container; its id."""
    count = 0

    def start(module: str, *arguments: str, pod: str = "", wait: bool = True, data: bytes = b"") -> str:
        nonlocal count
        count += 1
        ident = f"c{count}"
        folder = bundle("hello", name=ident)
        if data:
            (folder.root / f"{module}.wasm").write_bytes(data)
        else:
            folder.add(module)
        folder.configure(f"/{module}.wasm", *arguments, annotations={SANDBOX_ID: pod} if pod else {})
        client.Create(id=ident, bundle=str(folder.folder))
        client.Start(id=ident)
        if wait:
            client.Wait(id=ident)
        return ident

    return start


def test_before_anything_has_run_all_is_told_as_zero(told: Daemon) -> None:
    found = scrape(told)
    assert found["sandboxes", "ready"] == found["containers", "running"] == found["execs",] == 0
    assert found["exits_total", "container", "trapped"] == 0
    assert found["start_seconds_count", "container"] == 0
    assert found["module_loads_total", "compiled"] == 0
    assert found["memory_bytes",] == 0 < found["memory_limit_bytes",]
    assert found["process_resident_memory_bytes",] > 10 << 20


def test_containers_are_counted_by_how_they_ended(told: Daemon, client: Client, run: Callable[..., str]) -> None:
    for _ in range(3):
        run("hello")
    run("exit", "7")
    run("trap", "unreachable")
    sleeper = run("sleep", "forever", wait=False)
    client.Kill(id=sleeper, signal=signal.SIGKILL)
    client.Wait(id=sleeper)
    found = scrape(told)
    assert found["exits_total", "container", "exited"] == 4
    assert found["exits_total", "container", "trapped"] == 1
    assert found["exits_total", "container", "stopped"] == 1
    assert found["start_seconds_count", "container"] == 6
    assert 0 < found["start_seconds_sum", "container"] < 60
    assert found["start_seconds_bucket", "container", "+Inf"] == 6
    assert found["start_failures_total", "container"] == 0
    assert found["containers", "stopped"] == 6


def test_execs_and_failures_are_counted_apart(told: Daemon, client: Client, run: Callable[..., str]) -> None:
    sleeper = run("sleep", "forever", wait=False)
    spec = {"spec": typeurl_of("/sleep.wasm", "forever")}
    client.Exec(id=sleeper, exec_id="e", **spec)
    client.Start(id=sleeper, exec_id="e")
    with pytest.raises(RpcError):  # it needs more memory than it may have
        run("greedy", data=binary('(module (memory (export "memory") 70000) (func (export "_start")))'))
    found = scrape(told)
    assert found["execs",] == 1
    assert found["start_seconds_count", "exec"] == 1
    assert found["containers", "running"] == 1
    assert found["module_loads_total", "failed"] == 1
    client.Kill(id=sleeper, exec_id="e", signal=signal.SIGKILL)
    client.Wait(id=sleeper, exec_id="e")
    found = scrape(told)
    assert found["execs",] == 0
    assert found["exits_total", "exec", "stopped"] == 1


def test_a_module_is_compiled_once_and_found_afterwards(
    told: Daemon, run: Callable[..., str], connect: Callable[..., Client], bundle: Callable[..., Bundle]
) -> None:
    for _ in range(3):
        run("hello")
    found = scrape(told)
    assert found["module_loads_total", "compiled"] == 1
    assert found["module_loads_total", "memory"] == 2
    assert found["module_loads_total", "store"] == 0
    assert found["compile_seconds_count",] == 1
    assert 0 < found["compile_seconds_sum",] < 60
    told.stop()
    told.log_file.unlink()
    told.start()
    again, folder = connect(to=told), bundle("hello", name="again")
    again.Create(id="again", bundle=str(folder.folder))
    found = scrape(told)
    assert found["module_loads_total", "store"] == 1
    assert found["module_loads_total", "compiled"] == found["compile_seconds_count",] == 0


def test_sandboxes_memory_and_time_are_those_of_now(told: Daemon, client: Client, run: Callable[..., str]) -> None:
    with controller(told.listen) as pods:
        for name in ("one", "two"):
            pods.Create(sandbox_id=name)
            pods.Start(sandbox_id=name)
        pods.Stop(sandbox_id="two")
        spinner = run("spin", pod="one", wait=False)
        time.sleep(0.2)
        found = scrape(told)
        assert found["sandboxes", "ready"] == found["sandboxes", "not_ready"] == 1
        assert found["memory_bytes",] >= 1 << 16
        assert found["guest_cpu_seconds_total",] > 0.01
        client.Pause(id=spinner)
        assert scrape(told)["containers", "paused"] == 1
        pods.Shutdown(sandbox_id="one")
        found = scrape(told)
        assert found["memory_bytes",] == found["containers", "running"] == found["containers", "paused"] == 0
        assert found["sandboxes", "ready"] == 0
        assert found["guest_cpu_seconds_total",] > 0.01


def test_calls_are_counted_by_method_and_code(told: Daemon, client: Client, run: Callable[..., str]) -> None:
    run("hello")
    with pytest.raises(RpcError):
        client.State(id="nobody")
    with controller(told.listen) as pods, pytest.raises(RpcError):
        pods.Status(sandbox_id="nobody")
    found = scrape(told)
    task, control = "containerd.task.v3.Task", "containerd.services.sandbox.v1.Controller"
    assert found["rpc_seconds_count", "ok", "Create", task] == 1
    assert found["rpc_seconds_count", "not_found", "State", task] == 1
    assert found["rpc_seconds_count", "not_found", "Status", control] == 1
    assert found["rpc_seconds_bucket", "ok", "+Inf", "Create", task] == 1


def test_methods_that_nobody_offers_are_one(told: Daemon) -> None:
    import asyncio

    from google.protobuf.empty_pb2 import Empty

    from wasm_sandboxer.rpc.ttrpc import TtrpcClient

    async def call() -> None:
        async with await TtrpcClient.connect(told.task_listen) as client:
            for number in range(20):
                with pytest.raises(RpcError) as caught:
                    await client.call(f"no.Service{number}", f"Nothing{number}", Empty(), Empty)
                assert caught.value.code is StatusCode.UNIMPLEMENTED

    asyncio.run(call())
    found = scrape(told)
    assert found["rpc_seconds_count", "unimplemented", "other", "other"] == 20
    assert not [name for name in found if "no.Service1" in name]


def test_every_metric_stands_in_the_document_and_the_other_way_round(told: Daemon, run: Callable[..., str]) -> None:
    run("hello")
    _, _, text = ask(told)
    families = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(text.decode())
        if not family.name.endswith("_created")
    }
    documented = set(
        re.findall(
            r"^\| `([a-z_]+)(?:\{[a-z,]+\})?` \| (?:gauge|counter|histogram)", DOCUMENT.read_text(), re.MULTILINE
        )
    )
    assert families == documented


# ---- clients ----


def test_other_paths_and_methods_are_refused(told: Daemon) -> None:
    assert ask(told, "/")[0] == 404
    assert b"/metrics" in ask(told, "/")[2]
    assert ask(told, "/metrics?x=1")[0] == 200
    assert ask(told, method="POST")[0] == 405
    status, _, body = ask(told, method="HEAD")
    assert (status, body) == (200, b"")


@pytest.mark.parametrize("sent", [b"", b"GET /metrics", b"\x00" * 100_000, b"x" * 9000 + b"\r\n\r\n", b"\r\n\r\n"])
def test_clients_that_send_something_else_or_nothing_hold_nobody_up(told: Daemon, sent: bytes) -> None:
    others = [socket.create_connection(("127.0.0.1", port(told))) for _ in range(10)]
    for other in others:
        other.sendall(sent)
    assert scrape(told)["execs",] == 0
    for other in others:
        other.close()


def test_clients_that_do_not_read_hold_nobody_up(told: Daemon, client: Client) -> None:
    others = []
    for _ in range(10):
        other = socket.socket()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        other.connect(("127.0.0.1", port(told)))
        other.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        others.append(other)
    assert scrape(told)["execs",] == 0
    with pytest.raises(RpcError):  # and it answers as ever
        client.State(id="nobody")
    for other in others:
        other.close()


def test_more_clients_than_are_served_are_turned_away(told: Daemon) -> None:
    others = [socket.create_connection(("127.0.0.1", port(told))) for _ in range(40)]
    time.sleep(0.2)
    open_sockets = [each for each in told.descriptors() if each.startswith("socket:")]
    assert len(open_sockets) < 35
    for other in others:
        other.close()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert scrape(told)["execs",] == 0
            break
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < deadline


def test_an_address_that_is_taken_keeps_the_daemon_from_starting(own_daemon: Callable[..., Daemon]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = own_daemon("--metrics-listen", address)
        with pytest.raises(DaemonError, match=f"cannot serve metrics at {address}: "):
            daemon.start()


def test_an_address_that_is_none_is_refused(own_daemon: Callable[..., Daemon]) -> None:
    daemon = own_daemon("--metrics-listen", "nine")
    with pytest.raises(DaemonError, match="'nine' is not an address; write ADDR:PORT"):
        daemon.start()


def test_a_daemon_that_is_not_asked_to_tells_nobody(daemon: Daemon) -> None:
    assert "metrics at" not in daemon.log


def typeurl_of(*arguments: str) -> Any:
    """A process as exec takes it."""
    import json

    from google.protobuf.any_pb2 import Any as AnyMessage

    return AnyMessage(type_url=typeurl.PROCESS, value=json.dumps({"args": arguments, "cwd": "/"}).encode())
