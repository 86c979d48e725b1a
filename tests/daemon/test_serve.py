"""The daemon's own life: sockets, locks, readiness, signals, configuration, death and return. No containerd."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support.bundles import bind
from tests.support.daemon import mounts
from tests.support.proc import children
from tests.support.rpc import Client, controller
from wasm_sandboxer.api.task_types_pb2 import STOPPED
from wasm_sandboxer.daemon import _lock
from wasm_sandboxer.errors import FailedPrecondition
from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode

SANDBOX_ID = "io.kubernetes.cri.sandbox-id"


def fails(daemon):
    """Starts what must not come up: its exit code and its one line."""
    done = subprocess.run(
        daemon.command, env=daemon.environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if "warning limits" not in line]
    return done.returncode, line


def wait_for_log(daemon, words):
    deadline = time.monotonic() + 10
    while words not in daemon.log:
        assert time.monotonic() < deadline, daemon.log
        time.sleep(0.01)


# ---- sockets and folders ----


def test_sockets_and_folders_are_for_the_daemons_user_alone(own_daemon):
    with own_daemon() as daemon:
        assert daemon.listen.stat().st_mode & 0o777 == 0o600
        assert daemon.task_listen.stat().st_mode & 0o777 == 0o600
        assert daemon.state.stat().st_mode & 0o777 == 0o700
        assert daemon.listen.is_socket()
        assert daemon.task_listen.is_socket()


def test_folders_are_made_for_its_user_alone(own_daemon):
    daemon = own_daemon()
    for name in ("listen", "task_listen", "state"):
        place = daemon.folder / name.replace("_", "-") / "deep"
        setattr(daemon, name, place if name == "state" else place / "s.sock")
        daemon.command[daemon.command.index(f"--{name.replace('_', '-')}") + 1] = getattr(daemon, name)
    daemon.folder.chmod(0o755)
    with daemon:
        for folder in (daemon.listen.parent, daemon.task_listen.parent, daemon.state):
            assert folder.stat().st_mode & 0o777 == 0o700


def test_a_stop_leaves_no_socket(own_daemon):
    daemon = own_daemon()
    daemon.start()
    assert daemon.stop() == 0
    assert not daemon.listen.exists()
    assert not daemon.task_listen.exists()


def test_a_second_daemon_is_refused_in_one_line(own_daemon):
    with own_daemon() as first:
        second = own_daemon(name="2")
        second.command = first.command
        code, line = fails(second)
        assert code == 2
        assert "another daemon serves" in line
        assert str(first.folder) in line
        with Client(first.task_listen) as client:
            client.Shutdown(id="x")  # unharmed


@pytest.mark.parametrize("shared", ["--listen", "--task-listen", "--state"])
def test_a_second_daemon_may_share_nothing(own_daemon, shared):
    """Of a state folder, the second would take the first's containers for dead, and unmount them."""
    with own_daemon() as first:
        second = own_daemon(name="2")
        index = first.command.index(shared) + 1
        second.command[index] = first.command[index]
        code, line = fails(second)
        assert code == 2
        assert "another daemon" in line


def test_whoever_looks_at_a_lock_for_a_moment_keeps_no_daemon_from_starting(tmp_path):
    """As the shim does to see whether a daemon lives."""
    path = tmp_path / "t.sock"
    with (tmp_path / "t.sock.lock").open("w") as other, ExitStack() as undo:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(FailedPrecondition, match="taken"):
            _lock(path, "taken", undo)
        release = threading.Timer(0.05, fcntl.flock, (other, fcntl.LOCK_UN))
        release.start()
        _lock(path, "taken", undo)
        release.join()


def test_one_socket_cannot_be_both(own_daemon):
    daemon = own_daemon()
    daemon.command[daemon.command.index("--listen") + 1] = daemon.task_listen
    code, line = fails(daemon)
    assert code == 2
    assert "listen and task_listen" in line


def test_a_dead_daemons_sockets_are_replaced(own_daemon):
    daemon = own_daemon()
    daemon.start()
    daemon.kill()
    assert daemon.listen.is_socket()
    assert daemon.task_listen.is_socket()
    with daemon, Client(daemon.task_listen) as client:
        client.Shutdown(id="x")


@pytest.mark.parametrize("name", ["listen", "task_listen"])
def test_what_is_no_socket_is_not_removed(own_daemon, name):
    daemon = own_daemon()
    getattr(daemon, name).write_text("precious")
    code, line = fails(daemon)
    assert code == 2
    assert f"{getattr(daemon, name)} is in the way" in line
    assert getattr(daemon, name).read_text() == "precious"
    assert not getattr(daemon, {"listen": "task_listen", "task_listen": "listen"}[name]).exists()


@pytest.mark.parametrize("option", ["--listen", "--task-listen"])
def test_a_socket_that_cannot_be_bound_is_named(own_daemon, option):
    daemon = own_daemon()
    long = daemon.folder / ("x" * 120) / "s.sock"
    daemon.command[daemon.command.index(option) + 1] = long
    code, line = fails(daemon)
    assert code == 2
    assert str(long) in line
    assert "None" not in line


def test_a_state_that_cannot_be_made_is_named(own_daemon):
    daemon = own_daemon()
    daemon.state.write_text("a file")
    code, line = fails(daemon)
    assert code == 2
    assert str(daemon.state) in line


# ---- a full disk ----


@pytest.fixture
def small(own_daemon):
    """A daemon with little room for its state, and a function that takes all of it."""
    daemon = own_daemon()
    daemon.state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", daemon.state], check=True)
    rest = daemon.state / "rest"

    def fill():
        with suppress(OSError), rest.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        return rest

    daemon.start()
    yield daemon, fill
    daemon.kill()
    subprocess.run(["umount", "--lazy", daemon.state], check=True)


def test_a_stop_that_could_not_be_recorded_is_when_it_is_repeated(small):
    daemon, fill = small
    with controller(daemon.listen) as pods:
        pods.Create(sandbox_id="pod")
        pods.Start(sandbox_id="pod")
        rest = fill()
        record = daemon.state / "records/sandboxes/test/pod.json"
        for _ in range(2):
            with pytest.raises(RpcError, match=f"cannot write the record {record}: No space left on device$"):
                pods.Stop(sandbox_id="pod")
            assert pods.Status(sandbox_id="pod").state == "SANDBOX_READY"
        rest.unlink()
        assert daemon.records() == ["sandboxes/test/pod.json"]
        pods.Stop(sandbox_id="pod")
        assert pods.Status(sandbox_id="pod").state == "SANDBOX_NOTREADY"
    daemon.kill()
    daemon.start()
    with controller(daemon.listen) as pods:
        assert pods.Status(sandbox_id="pod").state == "SANDBOX_NOTREADY"


def test_on_a_full_disk_nothing_starts_and_what_is_there_can_be_removed(small, bundle):
    daemon, fill = small
    with controller(daemon.listen) as pods, Client(daemon.task_listen) as client:
        pods.Create(sandbox_id="pod")
        pods.Start(sandbox_id="pod")
        groups = daemon.groups()
        fill()
        pods.Create(sandbox_id="new")
        with pytest.raises(RpcError, match=r"cannot make .*/new: No space left on device$"):
            pods.Start(sandbox_id="new")
        with pytest.raises(RpcError, match=r"cannot write the record .*/c.json: No space left on device$"):
            client.Create(id="c", bundle=str(bundle("hello").folder))
        assert daemon.groups() == groups
        assert [path.name for path in (daemon.state / "sandboxes/test").iterdir()] == ["pod"]
        assert daemon.records() == ["sandboxes/test/pod.json"]
        pods.Shutdown(sandbox_id="pod")
        assert daemon.records() == []


# ---- systemd ----


def test_readiness_is_told_once_both_sockets_answer(own_daemon):
    daemon = own_daemon()
    daemon.start()  # returns at READY=1
    with controller(daemon.listen) as pods, Client(daemon.task_listen) as ttrpc:
        ttrpc.Shutdown(id="x")
        with pytest.raises(RpcError, match="no sandbox"):
            pods.Status(sandbox_id="x")
    assert daemon.told == ["READY=1"]
    daemon.kill()


def test_the_watchdog_is_fed_and_the_end_is_told(own_daemon):
    daemon = own_daemon(environment={"WATCHDOG_USEC": "300000"})
    path = daemon.folder / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        daemon.environment["NOTIFY_SOCKET"] = str(daemon.folder / "own.sock")
        notify.bind(daemon.environment["NOTIFY_SOCKET"])
        notify.settimeout(10)
        process = subprocess.Popen(daemon.command, env=daemon.environment, stderr=subprocess.DEVNULL)
        try:
            assert notify.recv(100) == b"READY=1"
            times = []
            for _ in range(4):
                assert notify.recv(100) == b"WATCHDOG=1"
                times.append(time.monotonic())
            assert times[-1] - times[0] < 3 * 0.3
            os.kill(process.pid, signal.SIGSTOP)
            notify.settimeout(0.4)
            with suppress(TimeoutError):
                while notify.recv(100):
                    assert time.monotonic() - times[-1] < 5  # a frozen daemon feeds no watchdog
            os.kill(process.pid, signal.SIGCONT)
            notify.settimeout(10)
            process.terminate()
            while (message := notify.recv(100)) == b"WATCHDOG=1":
                pass
            assert message == b"STOPPING=1"
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()
    assert not path.exists()


def test_an_abstract_notification_socket_works(own_daemon):
    name = f"wsd-test-{os.getpid()}"
    daemon = own_daemon(environment={"NOTIFY_SOCKET": f"@{name}"})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(f"\0{name}")
        notify.settimeout(20)
        process = subprocess.Popen(daemon.command, env=daemon.environment, stderr=subprocess.DEVNULL)
        try:
            assert notify.recv(100) == b"READY=1"
        finally:
            process.kill()
            process.wait()


# ---- configuration ----


def test_a_configuration_that_makes_no_sense_is_refused_in_one_line(own_daemon):
    daemon = own_daemon(settings="unknown = 1")
    code, line = fails(daemon)
    assert code == 2
    assert f"{daemon.config}: unknown key 'unknown'" in line


def test_the_command_line_goes_before_the_configuration(own_daemon):
    with own_daemon("--log-format", "json", settings='log_level = "error"\nlog_format = "text"') as daemon:
        wait_for_log(daemon, "ready: controller")
        for line in daemon.log.splitlines():
            assert {"time", "level", "logger", "message"} <= set(json.loads(line))


def test_hangup_reads_the_log_level_again(own_daemon):
    daemon = own_daemon(settings='log_level = "info"\nshutdown_timeout = 2.0')
    index = daemon.command.index("--log-level")
    del daemon.command[index : index + 2]

    def hang_up(settings, words):
        daemon.config.write_text(settings)
        daemon.signal(signal.SIGHUP)
        wait_for_log(daemon, words)

    with daemon, Client(daemon.task_listen) as client:
        for level, expected in (("info", 0), ("debug", 1)):
            hang_up(f'log_level = "{level}"', f"log level is {level}")
            with pytest.raises(RpcError):
                client.State(id="nobody")
            time.sleep(0.05)
            assert daemon.log.count("State not_found") == expected
        hang_up("nonsense = 1", "the configuration is not read again")
        client.Shutdown(id="x")


def test_a_call_is_a_line_of_the_log(own_daemon, bundle):
    daemon = own_daemon("--log-format", "json")
    with daemon, Client(daemon.task_listen) as client:
        client.Create(id="c1", bundle=str(bundle("hello").folder))
        with pytest.raises(RpcError):
            client.Create(id="c2", bundle="/no/where")
        client.Delete(id="c1")
        wait_for_log(daemon, '"Delete"')  # written once the answer is on its way
        lines = [json.loads(line) for line in daemon.log.splitlines()]
        calls = {(line["rpc"], line["container"], line["outcome"]): line for line in lines if "rpc" in line}
        assert set(calls) == {("Create", "c1", "ok"), ("Create", "c2", "not_found"), ("Delete", "c1", "ok")}
        line = calls["Create", "c1", "ok"]
        assert line["namespace"] == "test"
        assert 0 < line["ms"] < 10_000
        assert "/no/where/config.json" in calls["Create", "c2", "not_found"]["message"]


@pytest.mark.parametrize("wire", ["ttrpc", "grpc"])
def test_a_calls_line_names_the_sandbox_of_its_container(own_daemon, bundle, wire):
    daemon = own_daemon("--log-format", "json")
    made = bundle("sleep", "forever", annotations={"io.kubernetes.cri.sandbox-id": "pod"})
    with daemon, controller(daemon.listen) as sandboxes:
        sandboxes.Create(sandbox_id="pod")
        sandboxes.Start(sandbox_id="pod")
        with Client(daemon.task_listen if wire == "ttrpc" else daemon.listen, wire) as client:
            client.Create(id="c1", bundle=str(made.folder))
            client.Start(id="c1")
            with pytest.raises(RpcError):
                client.Start(id="c1")
            client.State(id="c1")
            client.Kill(id="c1", signal=9)
            client.Wait(id="c1")
            client.Delete(id="c1")
        wait_for_log(daemon, '"Delete"')  # written once the answer is on its way
        calls = [line for line in map(json.loads, daemon.log.splitlines()) if line.get("container") == "c1"]
        assert {line["rpc"] for line in calls} == {"Create", "Start", "State", "Kill", "Wait", "Delete"}
        assert [line for line in calls if line.get("sandbox") != "pod"] == []


def test_nothing_in_a_request_can_forge_a_line_of_the_log(own_daemon, bundle):
    made = bundle("hello")
    made.configure("/nowhere\nerror forged\x1b[31m.wasm")
    daemon = own_daemon()
    with daemon, Client(daemon.task_listen) as client:
        with pytest.raises(RpcError):
            client.Create(id="c1", bundle=str(made.folder))
        with pytest.raises(RpcError):
            client.State(id="nobody\ninfo forged")
        assert not [line for line in daemon.log.splitlines() if line.startswith(("error forged", "info forged"))]
        assert "\x1b" not in daemon.log


# ---- its end ----


@pytest.fixture
def busy(own_daemon, bundle):
    """A daemon with guests of all kinds, in and out of a sandbox."""
    daemon = own_daemon()
    daemon.start()
    with controller(daemon.listen) as pods, Client(daemon.task_listen) as client:
        pods.Create(sandbox_id="pod")
        pods.Start(sandbox_id="pod")
        for number, module in enumerate(("sleep", "spin", "flood", "cat", "hello")):
            made = bundle(module, *(["forever"] if module == "sleep" else []), name=f"b{number}")
            (made.folder / "file").write_text("x")
            made.configure(
                f"/{module}.wasm", *(["forever"] if module == "sleep" else []),
                annotations={SANDBOX_ID: "pod"} if number % 2 else {},
                mounts=[bind(made.folder / "file", "/etc/file")],
            )  # fmt: skip
            client.Create(id=module, bundle=str(made.folder), **made.streams(stdin=module == "cat"))
            if module != "hello":
                client.Start(id=module)
        client.Pause(id="spin")
        yield daemon, client, pods
    daemon.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_every_guest_and_leaves_no_mount(busy, tmp_path, number):
    daemon, client, _ = busy
    waits = [client.begin("Wait", id=name) for name in ("sleep", "spin", "flood", "cat", "hello")]
    time.sleep(0.1)
    begun = time.monotonic()
    daemon.signal(number)
    assert [wait.result(5).exit_status for wait in waits] == [137] * 5  # told before it goes
    assert daemon._process.wait(5) == 0
    assert time.monotonic() - begun < 2.5
    assert daemon.records() == ["sandboxes/test/pod.json"]
    assert mounts(tmp_path) == []
    assert not [line for line in daemon.log.splitlines() if line.startswith(("error", "Traceback"))]


def test_a_stop_refuses_what_is_new(busy, bundle):
    daemon, client, _ = busy
    daemon.signal(signal.SIGTERM)
    made = bundle("hello", name="new")
    code = StatusCode.OK
    while code is StatusCode.OK:
        try:
            client.Create(id="new", bundle=str(made.folder))
            client.Delete(id="new")
        except RpcError as error:
            code = error.code
    assert code is StatusCode.UNAVAILABLE
    assert daemon._process.wait(5) == 0


def test_a_stop_is_held_up_by_nobody(own_daemon, bundle):
    """Not by a client that waits, one that does not read, a worker that hangs, or a call in progress."""
    daemon = own_daemon()
    daemon.start()
    logger = daemon.folder / "logger"
    logger.write_text("#!/bin/sh\nexec sleep 60\n")  # never says that it is ready
    logger.chmod(0o755)
    with controller(daemon.listen) as pods, Client(daemon.task_listen) as client:
        pods.Create(sandbox_id="pod")
        pods.Start(sandbox_id="pod")
        waiting = pods.begin("Wait", sandbox_id="pod")
        made = bundle("hello")
        creating = client.begin("Create", id="x", bundle=str(made.folder), stdout=f"binary://{logger}")
        time.sleep(0.2)
        begun = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - begun < 3.5
        for call in (waiting, creating):
            assert call.exception(5).code in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}


def test_a_client_that_does_not_read_holds_up_nobody(daemon, connect, bundle, ident):
    from wasm_sandboxer.api.services import TASK
    from wasm_sandboxer.api.task_pb2 import StateRequest
    from wasm_sandboxer.api.ttrpc_pb2 import KeyValue, Request
    from wasm_sandboxer.rpc.ttrpc.frames import REQUEST, encode

    client = connect("ttrpc")
    client.Create(id=ident, bundle=str(bundle("hello").folder))
    request = Request(
        service=TASK, method="State", payload=StateRequest(id=ident).SerializeToString(),
        metadata=[KeyValue(key="containerd-namespace-ttrpc", value="test")],
    ).SerializeToString()  # fmt: skip
    with socket.socket(socket.AF_UNIX) as stalled:
        stalled.connect(str(daemon.task_listen))
        stalled.setblocking(False)
        stream = 1
        with suppress(BlockingIOError):
            for _ in range(100_000):
                stalled.send(encode(stream, REQUEST, request))
                stream += 2
        assert stream > 100
        begun = time.monotonic()
        for wire in ("ttrpc", "grpc"):
            for _ in range(50):
                connect(wire).State(id=ident)
        assert time.monotonic() - begun < 5
    client.Delete(id=ident)


def test_a_frozen_daemon_goes_on_where_it_stood(busy):
    daemon, client, pods = busy
    daemon.signal(signal.SIGSTOP)
    calls = [
        client.begin("State", id="sleep"),
        client.begin("Kill", id="cat", signal=15),
        client.begin("Wait", id="cat"),
    ]
    time.sleep(0.5)
    assert not any(call.done() for call in calls)
    daemon.signal(signal.SIGCONT)
    assert calls[2].result(5).exit_status == 143
    assert pods.Status(sandbox_id="pod").state == "SANDBOX_READY"


# ---- its death ----


def test_after_its_death_sandboxes_are_ready_and_containers_dead(busy, tmp_path, bundle):
    daemon, _, pods = busy
    before = pods.Status(sandbox_id="pod")
    assert daemon.mounts(tmp_path)
    daemon.kill()
    daemon.start()
    with controller(daemon.listen) as pods, Client(daemon.task_listen) as client:
        assert daemon.mounts(tmp_path) == []
        after = pods.Status(sandbox_id="pod")
        assert (after.state, after.address, after.created_at) == ("SANDBOX_READY", before.address, before.created_at)
        for name in ("sleep", "spin", "flood", "cat", "hello"):
            state = client.State(id=name)
            assert (state.status, state.exit_status) == (STOPPED, 255)
            assert state.stdout.endswith("/stdout")
            assert client.Wait(id=name).exit_status == 255
            assert len(client.Pids(id=name).processes) == 1
            client.Connect(id=name)
        made = bundle("hello", name="after", annotations={SANDBOX_ID: "pod"})
        client.Create(id="after", bundle=str(made.folder), **made.streams())
        client.Start(id="after")
        assert made.read("stdout") == b"Hello from WebAssembly!\n"
        for name in ("sleep", "spin"):
            assert client.Delete(id=name).exit_status == 255
        pods.Shutdown(sandbox_id="pod")
        with pytest.raises(RpcError):
            client.State(id="after")
        assert daemon.records() == sorted(f"containers/test/{name}.json" for name in ("flood", "hello"))
        for name in ("flood", "hello"):
            client.Delete(id=name)
        assert daemon.records() == []


def test_death_at_any_moment_leaves_a_state_that_can_be_taken_over(own_daemon, bundle, tmp_path):
    daemon = own_daemon()
    made = bundle("hello")
    (tmp_path / "file").write_text("x")
    made.configure("/hello.wasm", mounts=[bind(tmp_path / "file", "/file")], annotations={SANDBOX_ID: "pod"})
    for number in range(4):
        daemon.start()
        stop = threading.Event()

        def churn(stop=stop):
            with suppress(RpcError, OSError), controller(daemon.listen) as pods, Client(daemon.task_listen) as client:
                with suppress(RpcError):
                    pods.Create(sandbox_id="pod")
                    pods.Start(sandbox_id="pod")
                while not stop.is_set():
                    client.Create(id="c", bundle=str(made.folder))
                    client.Start(id="c")
                    client.Wait(id="c")
                    client.Delete(id="c")

        thread = threading.Thread(target=churn)
        thread.start()
        time.sleep(0.05 + 0.013 * number)
        daemon.kill()
        stop.set()
        thread.join(20)
    daemon.start()
    assert daemon.mounts(tmp_path) == []
    with controller(daemon.listen) as pods:
        assert pods.Status(sandbox_id="pod").state == "SANDBOX_READY"
        pods.Shutdown(sandbox_id="pod")
    assert daemon.records() == []
    daemon.stop()


def test_records_that_make_no_sense_do_not_stop_the_daemon(own_daemon):
    daemon = own_daemon()
    contents = [b"", b"{", b"[]", b"{}", b'{"nonsense": 1}', b"\xff", b"null", b'{"bundle": 1}']
    for kind in ("sandboxes", "containers"):
        folder = daemon.state / "records" / kind / "k8s.io"
        folder.mkdir(parents=True)
        for number, content in enumerate(contents):
            (folder / f"broken{number}.json").write_bytes(content)
        (folder / ".half.tmp").write_bytes(b"{")
    with daemon:
        assert daemon.records() == []
        assert daemon.log.count("broken") >= 2 * len(contents)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dns", {"nameservers": ["1.1.1.1"]}),
        ("dns", {"servers": 5}),
        ("hostname", "two words"),
        ("resources", {"shares": 1}),
        ("resources", {"cpu_quota": "much"}),
    ],
)
def test_an_odd_field_of_a_record_costs_no_other_sandbox(own_daemon, field, value):
    daemon = own_daemon()
    daemon.start()
    with controller(daemon.listen) as pods:
        for name in ("odd", "other"):
            pods.Create(sandbox_id=name)
            pods.Start(sandbox_id=name)
    daemon.kill()
    path = daemon.state / "records/sandboxes/test/odd.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with daemon, controller(daemon.listen) as pods:
        assert pods.Status(sandbox_id="other").state == "SANDBOX_READY"
        assert [line for line in daemon.log.splitlines() if "warning" in line and "odd" in line]


def test_of_a_sandbox_that_was_stopped_nothing_is_left_after_a_death(own_daemon):
    daemon = own_daemon()
    daemon.start()
    before = daemon.groups()
    with controller(daemon.listen) as pods:
        pods.Create(sandbox_id="pod")
        pods.Start(sandbox_id="pod")
        pods.Stop(sandbox_id="pod")
    daemon.kill()
    with daemon, controller(daemon.listen) as pods:
        assert pods.Status(sandbox_id="pod").state == "SANDBOX_NOTREADY"
        pods.Shutdown(sandbox_id="pod")
        assert daemon.groups() == before
        assert daemon.records() == list((daemon.state / "sandboxes").glob("*/*")) == []


def test_nothing_runs_on_when_the_daemon_dies(busy):
    daemon, _, _ = busy
    its_own = children(daemon.pid)
    assert its_own  # the fork server
    daemon.kill()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{child}").exists() for child in its_own):
        assert time.monotonic() < deadline
        time.sleep(0.01)
