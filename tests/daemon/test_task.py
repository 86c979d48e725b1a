"""The Task service, alike over ttrpc and gRPC: every RPC, every refusal. No containerd."""

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from tests.support.cli import PATIENCE
from tests.support.modules import binary
from tests.support.rpc import Client
from tests.support.waiting import stands_still
from tests.support.wat import STUCK_START
from wasm_sandboxer import __version__
from wasm_sandboxer.api import cgroups_v1_pb2, cgroups_v2_pb2, typeurl
from wasm_sandboxer.api.services import SERVICES, TASK
from wasm_sandboxer.api.task_types_pb2 import CREATED, PAUSED, RUNNING, STOPPED
from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode


def process(*args, **fields):
    """What Exec sends."""
    spec = {"args": list(args), "env": [], "cwd": "/", **fields}
    return AnyMessage(type_url=typeurl.PROCESS, value=json.dumps(spec).encode())


def resources(**fields):
    return AnyMessage(type_url=typeurl.LINUX_RESOURCES, value=json.dumps(fields).encode())


@pytest.fixture
def sleeper(task, bundle, ident):
    """A running container that waits for ever; ended and deleted afterwards."""
    made = bundle("sleep", "forever")
    made.add("exit", "hello", "cat", "spin")
    task.Create(id=ident, bundle=str(made.folder))
    task.Start(id=ident)
    yield made
    try:
        task.Kill(id=ident, signal=signal.SIGKILL, all=True)
        task.Wait(id=ident)
    except RpcError:
        pass
    task.Delete(id=ident)


def test_a_container_lives_from_create_to_delete(task, daemon, bundle, ident):
    made = bundle("hello")
    streams = made.streams()
    assert task.Create(id=ident, bundle=str(made.folder), **streams).pid > 0
    state = task.State(id=ident)
    assert (state.id, state.bundle, state.status, state.exit_status) == (ident, str(made.folder), CREATED, 0)
    assert (state.stdin, state.stdout, state.stderr, state.terminal) == (
        "",
        streams["stdout"],
        streams["stderr"],
        False,
    )
    assert not state.HasField("exited_at")
    assert len(task.Pids(id=ident).processes) == 1
    connected = task.Connect(id=ident)
    assert (connected.shim_pid, connected.version) == (daemon.pid, __version__)
    assert connected.task_pid == state.pid > 0

    waiting = task.begin("Wait", id=ident)
    assert task.Start(id=ident).pid > 0
    ended = waiting.result(10)
    assert ended.exit_status == 0
    assert abs(ended.exited_at.ToSeconds() - time.time()) < 10
    assert made.read("stdout") == b"Hello from WebAssembly!\n"
    assert made.read("stderr") == b""
    state = task.State(id=ident)
    assert (state.status, state.exited_at) == (STOPPED, ended.exited_at)
    assert len(task.Pids(id=ident).processes) == 1

    deleted = task.Delete(id=ident)
    assert (deleted.exit_status, deleted.exited_at) == (0, ended.exited_at)
    with pytest.raises(RpcError, match="no container"):
        task.State(id=ident)


@pytest.mark.parametrize("code", [0, 1, 7, 127, 128, 200, 255])
def test_wait_tells_the_exit_code(task, bundle, ident, code):
    made = bundle("exit", str(code))
    task.Create(id=ident, bundle=str(made.folder))
    task.Start(id=ident)
    assert task.Wait(id=ident).exit_status == code
    assert task.Wait(id=ident).exit_status == code  # again: at once
    assert task.Delete(id=ident).exit_status == code


def test_many_wait_at_once(task, bundle, ident, sleeper):
    waits = [task.begin("Wait", id=ident) for _ in range(100)]
    task.Kill(id=ident, signal=signal.SIGTERM)
    assert {wait.result(10).exit_status for wait in waits} == {143}


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, 137), (signal.SIGINT, 130), (signal.SIGUSR1, 138)]
)
def test_a_signal_ends_a_guest_at_once(task, ident, sleeper, number, code):
    task.Kill(id=ident, signal=number)
    assert task.Wait(id=ident).exit_status == code


@pytest.mark.parametrize("number", [0, signal.SIGWINCH, signal.SIGCHLD, signal.SIGURG, signal.SIGCONT])
def test_a_signal_that_programs_ignore_changes_nothing(task, ident, sleeper, number):
    task.Kill(id=ident, signal=number)
    assert task.State(id=ident).status == RUNNING


def test_what_is_no_signal_is_refused(task, ident, sleeper, refused):
    assert "65 is not a signal" in refused(StatusCode.INVALID_ARGUMENT, task.Kill, id=ident, signal=65)


def test_a_container_that_is_killed_before_its_start_is_stopped(task, bundle, ident, refused):
    made = bundle("hello")
    task.Create(id=ident, bundle=str(made.folder), **made.streams())
    waiting = task.begin("Wait", id=ident)
    task.Kill(id=ident, signal=signal.SIGTERM)
    assert waiting.result(10).exit_status == 143
    assert task.State(id=ident).status == STOPPED
    assert made.read("stdout") == b""  # its readers come to the end
    assert "it is stopped" in refused(StatusCode.FAILED_PRECONDITION, task.Start, id=ident)
    assert task.Delete(id=ident).exit_status == 143


@pytest.mark.parametrize("terminal", [False, True])
def test_a_container_that_never_started_can_be_deleted(task, daemon, bundle, ident, terminal):
    made = bundle("hello", terminal=terminal)
    task.Create(id=f"{ident}-first", bundle=str(bundle("hello", name="first").folder))  # its module stays open
    task.Delete(id=f"{ident}-first")
    before = len(daemon.descriptors())
    task.Create(id=ident, bundle=str(made.folder), terminal=terminal, **made.streams(stdin=True))
    waiting = task.begin("Wait", id=ident)
    task.Delete(id=ident)
    assert made.read("stdout") == b""
    assert waiting.result(10)  # whoever waits is let go
    deadline = time.monotonic() + 10
    while len(daemon.descriptors()) > before + 1:  # the wire's own; others come and go by themselves
        assert time.monotonic() < deadline, daemon.descriptors()
        time.sleep(0.02)


def test_a_container_starts_once(task, ident, sleeper, refused):
    assert "it is running" in refused(StatusCode.FAILED_PRECONDITION, task.Start, id=ident)


def test_a_running_container_cannot_be_deleted(task, ident, sleeper, refused):
    assert "it is running" in refused(StatusCode.FAILED_PRECONDITION, task.Delete, id=ident)
    task.Pause(id=ident)
    assert "it is paused" in refused(StatusCode.FAILED_PRECONDITION, task.Delete, id=ident)


def test_a_container_that_has_ended_cannot_be_killed(task, bundle, ident, refused):
    task.Create(id=ident, bundle=str(bundle("hello").folder))
    task.Start(id=ident)
    task.Wait(id=ident)
    # Not FAILED_PRECONDITION: with that containerd fails StopContainer where the guest ended in the meantime.
    assert "has ended already" in refused(StatusCode.NOT_FOUND, task.Kill, id=ident, signal=9)
    task.Delete(id=ident)


def test_an_id_is_taken_until_it_is_deleted(task, bundle, ident, refused):
    folder = str(bundle("hello").folder)
    task.Create(id=ident, bundle=folder)
    assert "exists" in refused(StatusCode.ALREADY_EXISTS, task.Create, id=ident, bundle=folder)
    assert task.State(id=ident).status == CREATED  # the first is unharmed
    task.Delete(id=ident)
    task.Create(id=ident, bundle=folder)
    task.Delete(id=ident)


def test_two_creates_of_one_id_at_once_make_one(task, bundle, ident):
    folder = str(bundle("hello").folder)
    calls = [task.begin("Create", id=ident, bundle=folder) for _ in range(8)]
    errors = [call.exception(10) for call in calls]
    assert errors.count(None) == 1
    assert {error.code for error in errors if error} == {StatusCode.ALREADY_EXISTS}
    task.Delete(id=ident)


@pytest.mark.parametrize(
    "bad", ["", "..", ".", "../../etc/cron.d/x", "a/b", "/abs", "a\0b", "a b", "-a", "a..b", "x" * 77]
)
def test_an_id_that_could_be_a_path_is_refused(task, bundle, sleeper, ident, bad, refused):
    folder = str(bundle("hello", name="other").folder)
    assert "must be letters and digits" in refused(StatusCode.INVALID_ARGUMENT, task.Create, id=bad, bundle=folder)
    message = refused(StatusCode.INVALID_ARGUMENT, task.Exec, id=ident, exec_id=bad, spec=process("/exit.wasm"))
    assert "must be letters and digits" in message


@pytest.mark.parametrize("bad", ["..", "a/b", "/"])
def test_a_namespace_that_could_be_a_path_is_refused(connect, wire, bundle, ident, bad, refused):
    other = connect(wire, namespace=bad)
    assert "namespace" in refused(
        StatusCode.INVALID_ARGUMENT, other.Create, id=ident, bundle=str(bundle("hello").folder)
    )


def test_a_call_without_a_namespace_is_refused(connect, wire, ident, refused):
    nameless = connect(wire, namespace="")
    for method in ("State", "Start", "Wait", "Kill", "Delete", "Pids"):
        message = refused(StatusCode.INVALID_ARGUMENT, getattr(nameless, method), id=ident)
        assert "containerd-namespace" in message


def test_namespaces_do_not_see_each_other(connect, wire, task, ident, sleeper, bundle, refused):
    other = connect(wire, namespace="other")
    refused(StatusCode.NOT_FOUND, other.State, id=ident)
    refused(StatusCode.NOT_FOUND, other.Kill, id=ident, signal=9)
    other.Create(id=ident, bundle=str(bundle("hello", name="other").folder))
    other.Delete(id=ident)
    assert task.State(id=ident).status == RUNNING


UNKNOWN = ["State", "Start", "Delete", "Pids", "Pause", "Resume", "Kill", "ResizePty", "CloseIO", "Wait", "Stats",
           "Connect", "Update", "Checkpoint"]  # fmt: skip


@pytest.mark.parametrize("method", UNKNOWN)
def test_an_unknown_container_is_not_found(task, refused, method):
    assert "no container nobody" in refused(StatusCode.NOT_FOUND, getattr(task, method), id="nobody")


def test_an_exec_in_an_unknown_container_is_not_found(task, refused):
    refused(StatusCode.NOT_FOUND, task.Exec, id="nobody", exec_id="e", spec=process("/exit.wasm"))


@pytest.mark.parametrize("method", ["State", "Start", "Delete", "Kill", "ResizePty", "CloseIO", "Wait"])
def test_an_unknown_exec_is_not_found(task, ident, sleeper, refused, method):
    message = refused(StatusCode.NOT_FOUND, getattr(task, method), id=ident, exec_id="nobody")
    assert message == f"no exec nobody in container {ident}"


def test_every_method_was_asked_for_an_unknown_container():
    assert set(UNKNOWN) | {"Create", "Exec", "Shutdown"} == set(SERVICES[TASK])


def test_an_exec_lives_from_exec_to_delete(task, ident, sleeper, refused):
    streams = sleeper.streams("e1-", stdin=True)
    task.Exec(id=ident, exec_id="e1", spec=process("/cat.wasm"), **streams)
    state = task.State(id=ident, exec_id="e1")
    assert (state.id, state.exec_id, state.status) == (ident, "e1", CREATED)
    assert (state.stdin, state.stdout, state.stderr) == (streams["stdin"], streams["stdout"], streams["stderr"])
    assert "exists" in refused(
        StatusCode.ALREADY_EXISTS, task.Exec, id=ident, exec_id="e1", spec=process("/exit.wasm")
    )
    waiting = task.begin("Wait", id=ident, exec_id="e1")
    assert task.Start(id=ident, exec_id="e1").pid not in {0, task.State(id=ident).pid}
    assert len(task.Pids(id=ident).processes) == 2
    sleeper.write(b"through a guest\n", "e1-stdin")
    assert sleeper.read("e1-stdout", until=b"\n") == b"through a guest\n"
    sleeper.close_stdin()
    assert waiting.result(10).exit_status == 0
    assert sleeper.read("e1-stdout") == b""
    assert task.State(id=ident, exec_id="e1").status == STOPPED
    assert task.Delete(id=ident, exec_id="e1").exit_status == 0
    refused(StatusCode.NOT_FOUND, task.State, id=ident, exec_id="e1")
    assert task.State(id=ident).status == RUNNING
    task.Exec(id=ident, exec_id="e1", spec=process("/exit.wasm", "9"))  # its id is free again
    task.Start(id=ident, exec_id="e1")
    assert task.Wait(id=ident, exec_id="e1").exit_status == 9


def test_an_exec_that_was_not_started_can_be_deleted(task, ident, sleeper):
    task.Exec(id=ident, exec_id="e", spec=process("/exit.wasm"), **sleeper.streams("e-"))
    waiting = task.begin("Wait", id=ident, exec_id="e")
    task.Delete(id=ident, exec_id="e")
    assert sleeper.read("e-stdout") == b""
    assert waiting.result(10)


def test_a_running_exec_cannot_be_deleted(task, ident, sleeper, refused):
    task.Exec(id=ident, exec_id="e", spec=process("/spin.wasm"))
    task.Start(id=ident, exec_id="e")
    assert "it is running" in refused(StatusCode.FAILED_PRECONDITION, task.Delete, id=ident, exec_id="e")
    task.Kill(id=ident, exec_id="e", signal=signal.SIGKILL)
    assert task.Wait(id=ident, exec_id="e").exit_status == 137
    assert task.State(id=ident).status == RUNNING


def test_the_end_of_a_container_is_the_end_of_its_execs(task, ident, sleeper, refused):
    for name, module in (("e1", "/spin.wasm"), ("e2", "/sleep.wasm"), ("e3", "/exit.wasm")):
        task.Exec(id=ident, exec_id=name, spec=process(module, *(["forever"] if name == "e2" else [])))
        if name != "e3":  # that one is never started
            task.Start(id=ident, exec_id=name)
    waits = [task.begin("Wait", id=ident, exec_id=name) for name in ("e1", "e2", "e3")]
    task.Kill(id=ident, signal=signal.SIGTERM)
    assert task.Wait(id=ident).exit_status == 143
    assert [wait.result(0.1).exit_status for wait in waits] == [137, 137, 137]  # told before the container's own
    message = refused(StatusCode.FAILED_PRECONDITION, task.Exec, id=ident, exec_id="e4", spec=process("/exit.wasm"))
    assert "it is stopped" in message


def test_the_end_of_a_container_is_the_end_of_an_exec_that_is_starting(task, ident, sleeper):
    """And of those after it; each is told before the container's own."""
    (sleeper.root / "stuck.wasm").write_bytes(binary(STUCK_START))
    task.Exec(id=ident, exec_id="starting", spec=process("/stuck.wasm"))
    task.Exec(id=ident, exec_id="after", spec=process("/spin.wasm"))
    starting = task.begin("Start", id=ident, exec_id="starting")
    task.Start(id=ident, exec_id="after")
    waits = [task.begin("Wait", id=ident, exec_id=name) for name in ("starting", "after")]
    time.sleep(0.1)  # the first has come to its start function
    task.Kill(id=ident, signal=signal.SIGTERM)
    assert task.Wait(id=ident).exit_status == 143
    assert [wait.result(0.1).exit_status for wait in waits] == [137, 137]
    starting.exception(PATIENCE)
    for name in ("starting", "after"):
        assert task.Delete(id=ident, exec_id=name).exit_status == 137


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_execs_that_start_while_their_container_ends_come_to_an_end(ttrpc, daemon, bundle, ident, isolation):
    """As probes do while a pod is being stopped."""
    for number in range(8):
        name = f"{ident}-{number}"
        made = bundle("sleep", "forever", name=name, annotations={"wasm-sandboxer.io/isolation": isolation})
        made.add("hello")
        ttrpc.Create(id=name, bundle=str(made.folder))
        ttrpc.Start(id=name)
        execs = [f"e{each}" for each in range(4)]
        for each in execs:
            ttrpc.Exec(id=name, exec_id=each, spec=process("/hello.wasm"))
        waits = [ttrpc.begin("Wait", id=name, exec_id=each) for each in execs]
        starts = [ttrpc.begin("Start", id=name, exec_id=each) for each in execs]
        time.sleep(0.001 * number)
        ttrpc.Kill(id=name, signal=signal.SIGKILL)
        ttrpc.Wait(id=name)
        assert {wait.result(PATIENCE).exit_status for wait in waits} <= {0, 137, 128}
        for start in starts:
            start.exception(PATIENCE)
        ttrpc.Delete(id=name)
    assert "InvalidStateError" not in daemon.log


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_an_exec_that_is_starting_is_held_with_its_container(ttrpc, daemon, bundle, ident, isolation):
    made = bundle("sleep", "forever", annotations={"wasm-sandboxer.io/isolation": isolation})
    (made.root / "stuck.wasm").write_bytes(binary(STUCK_START))
    ttrpc.Create(id=ident, bundle=str(made.folder))
    ttrpc.Start(id=ident)
    ttrpc.Exec(id=ident, exec_id="e", spec=process("/stuck.wasm"))
    starting = ttrpc.begin("Start", id=ident, exec_id="e")
    pids = lambda: [each.pid for each in ttrpc.Pids(id=ident).processes][1:]  # noqa: E731
    wait_until(pids)
    (pid,) = pids()

    def used():
        stat = Path(
            f"/proc/{pid}/task/{pid}/stat" if isolation == "process" else f"/proc/{daemon.pid}/task/{pid}/stat"
        )
        fields = stat.read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    wait_until(lambda: used() > 2)  # it spins in its start function
    ttrpc.Pause(id=ident)
    before = stands_still(used)
    ttrpc.Resume(id=ident)
    wait_until(lambda: used() - before > 2)
    ttrpc.Pause(id=ident)
    ttrpc.Kill(id=ident, exec_id="e", signal=signal.SIGKILL)
    starting.exception(PATIENCE)
    assert ttrpc.Wait(id=ident, exec_id="e").exit_status == 137
    assert ttrpc.State(id=ident).status == PAUSED
    ttrpc.Kill(id=ident, signal=signal.SIGKILL)
    ttrpc.Wait(id=ident)
    ttrpc.Delete(id=ident)


def test_kill_all_reaches_the_execs(task, ident, sleeper):
    task.Exec(id=ident, exec_id="e", spec=process("/spin.wasm"))
    task.Start(id=ident, exec_id="e")
    task.Kill(id=ident, signal=signal.SIGTERM, all=True)
    assert task.Wait(id=ident, exec_id="e").exit_status == 143


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (AnyMessage(), "the spec is ''"),
        (AnyMessage(type_url="what.is.This", value=b"{}"), "what.is.This"),
        (AnyMessage(type_url=typeurl.PROCESS, value=b"\xff"), "not JSON"),
        (AnyMessage(type_url=typeurl.PROCESS, value=b"[]"), "must be an object"),
        (process(), "args is empty"),
        (process("/nowhere.wasm"), "no such module in the image: /nowhere.wasm"),
        (process("/exit.wasm", cwd=7), "process.cwd must be a string"),
        (process("/exit.wasm", env=["NOTHING"]), "not NAME=VALUE"),
        (process("/exit.wasm#nowhere"), "exports no function 'nowhere'"),
    ],
)
def test_an_exec_that_cannot_be_is_refused_with_the_reason(task, ident, sleeper, refused, spec, words):
    assert words in refused(StatusCode.INVALID_ARGUMENT, task.Exec, id=ident, exec_id="e", spec=spec)
    refused(StatusCode.NOT_FOUND, task.State, id=ident, exec_id="e")


def test_pause_holds_a_container_and_resume_lets_it_go(task, ident, sleeper, refused):
    task.Exec(id=ident, exec_id="e", spec=process("/spin.wasm"))
    task.Start(id=ident, exec_id="e")
    assert "it is running" in refused(StatusCode.FAILED_PRECONDITION, task.Resume, id=ident)
    task.Pause(id=ident)
    assert task.State(id=ident).status == PAUSED
    assert task.State(id=ident, exec_id="e").status == PAUSED
    assert "it is paused" in refused(StatusCode.FAILED_PRECONDITION, task.Pause, id=ident)
    assert "it is paused" in refused(
        StatusCode.FAILED_PRECONDITION, task.Exec, id=ident, exec_id="e2", spec=process("/exit.wasm")
    )
    before = stands_still(lambda: usage(task, ident).cpu)
    task.Resume(id=ident)
    assert task.State(id=ident).status == RUNNING
    wait_until(lambda: usage(task, ident).cpu > before)


def test_a_paused_container_can_be_killed(task, ident, sleeper):
    task.Pause(id=ident)
    task.Kill(id=ident, signal=signal.SIGTERM)
    assert task.Wait(id=ident).exit_status == 143


def test_stop_and_continue_signals_pause_and_resume(task, ident, sleeper):
    task.Kill(id=ident, signal=signal.SIGSTOP)
    assert task.State(id=ident).status == PAUSED
    task.Kill(id=ident, signal=signal.SIGCONT)
    assert task.State(id=ident).status == RUNNING


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@dataclass
class Usage:
    cpu: int  # microseconds
    threads: int
    memory_limit: int


def usage(task, ident):
    """What Stats answers, in the message of the host's cgroup version."""
    stats = task.Stats(id=ident).stats
    # No prefix before the name: one answer with it fails containerd's list of the whole node.
    if stats.type_url == "io.containerd.cgroups.v1.Metrics":
        found = typeurl.unpack(stats, cgroups_v1_pb2.Metrics)
        return Usage(found.cpu.usage.total // 1000, found.pids.current, found.memory.usage.limit)
    assert stats.type_url == "io.containerd.cgroups.v2.Metrics"
    found = typeurl.unpack(stats, cgroups_v2_pb2.Metrics)
    return Usage(found.cpu.usage_usec, found.pids.current, found.memory.usage_limit)


def usage_until(task, ident, holds):
    """Ask until it is so: a guest's thread enters its group with its first instruction."""
    deadline = time.monotonic() + 10
    while not holds(found := usage(task, ident)):
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


def test_stats_tell_what_a_container_uses(task, ident, sleeper):
    usage_until(task, ident, lambda found: found.threads == 1)
    task.Exec(id=ident, exec_id="e", spec=process("/spin.wasm"))
    task.Start(id=ident, exec_id="e")
    usage_until(task, ident, lambda found: found.threads == 2 and found.cpu > 10_000)


def test_stats_of_containers_that_do_not_run(task, bundle, ident):
    task.Create(id=ident, bundle=str(bundle("hello", memory=1 << 25).folder))
    assert usage(task, ident).memory_limit == 1 << 25
    task.Start(id=ident)
    task.Wait(id=ident)
    usage_until(task, ident, lambda found: not found.threads)  # they may be about to leave
    assert usage(task, ident).memory_limit == 1 << 25
    task.Delete(id=ident)


def test_update_takes_resources(task, ident, sleeper, refused):
    task.Update(id=ident, resources=resources(memory={"limit": 1 << 24}, cpu={"shares": 512}))
    assert usage(task, ident).memory_limit == 1 << 24
    task.Update(id=ident)
    assert "no Linux resources" in refused(
        StatusCode.INVALID_ARGUMENT, task.Update, id=ident, resources=AnyMessage(type_url="x", value=b"{}")
    )
    assert "resources.memory must be an object" in refused(
        StatusCode.INVALID_ARGUMENT, task.Update, id=ident, resources=resources(memory=7)
    )


def test_checkpoint_says_why_it_is_not_there(task, ident, sleeper, refused):
    message = refused(StatusCode.UNIMPLEMENTED, task.Checkpoint, id=ident)
    assert "no engine here can save a running WebAssembly instance" in message


def test_shutdown_ends_nothing(task, daemon, ident, sleeper):
    task.Shutdown(id=ident)
    task.Shutdown(id=ident, now=True)
    task.Shutdown(id="nobody")
    assert task.State(id=ident).status == RUNNING


def test_a_terminal_is_needed_to_resize_one(task, ident, sleeper, refused):
    assert "no terminal" in refused(StatusCode.FAILED_PRECONDITION, task.ResizePty, id=ident, width=80, height=24)


def test_a_checkpoint_cannot_be_restored(task, bundle, ident, refused):
    folder = str(bundle("hello").folder)
    message = refused(StatusCode.INVALID_ARGUMENT, task.Create, id=ident, bundle=folder, checkpoint="/some/where")
    assert "checkpoint" in message


def test_a_call_that_takes_too_long_leaves_nothing_behind(task, ident, sleeper):
    with pytest.raises(RpcError) as caught:
        task.begin("Wait", id=ident, timeout=0.1).result(10)
    assert caught.value.code is StatusCode.DEADLINE_EXCEEDED
    assert task.State(id=ident).status == RUNNING


def test_both_wires_see_the_same_containers(connect, bundle, ident):
    first, second = connect("ttrpc"), connect("grpc")
    first.Create(id=ident, bundle=str(bundle("sleep", "forever").folder))
    second.Start(id=ident)
    waits = [client.begin("Wait", id=ident) for client in (first, second)]
    assert first.State(id=ident) == second.State(id=ident)
    second.Kill(id=ident, signal=signal.SIGKILL)
    assert [wait.result(10).exit_status for wait in waits] == [137, 137]
    first.Delete(id=ident)
    with pytest.raises(RpcError):
        second.State(id=ident)


def test_a_guest_runs_on_a_thread_named_after_its_container(task, daemon, bundle):
    ident = "0123456789abcdef0123456789abcdef"
    task.Create(id=ident, bundle=str(bundle("sleep", "forever").folder))
    pid = task.Start(id=ident).pid
    assert Path(f"/proc/{daemon.pid}/task/{pid}/comm").read_text() == "0123456789abcde\n"
    wait_until(lambda: os.getpriority(os.PRIO_PROCESS, pid) == 0)  # as soon as it has entered its group
    task.Kill(id=ident, signal=9)
    task.Wait(id=ident)
    task.Delete(id=ident)


def test_a_client_that_leaves_takes_nothing_with_it(connect, wire, daemon, bundle, ident):
    with Client(daemon.task_listen if wire == "ttrpc" else daemon.listen, wire) as leaving:
        leaving.Create(id=ident, bundle=str(bundle("sleep", "forever").folder))
        leaving.Start(id=ident)
        leaving.begin("Wait", id=ident)
    staying = connect(wire)
    assert staying.State(id=ident).status == RUNNING
    staying.Kill(id=ident, signal=9)
    assert staying.Wait(id=ident).exit_status == 137
    staying.Delete(id=ident)
