"""Events: which, in which order, and that none is lost while containerd is away. With a stand-in for containerd."""

import asyncio
import json
import signal
import socket
import threading
import time

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from tests.support.rpc import Client
from wasm_sandboxer.api import events_pb2, task_events_pb2, typeurl
from wasm_sandboxer.core.events import Event, EventQueue, Topic
from wasm_sandboxer.rpc.ttrpc import Method, RpcError, StatusCode, TtrpcServer

MESSAGES = {
    f"containerd.events.{name}": getattr(task_events_pb2, name)
    for name in ("TaskCreate", "TaskStart", "TaskExit", "TaskDelete", "TaskOOM", "TaskExecAdded", "TaskExecStarted",
                 "TaskPaused", "TaskResumed")
}  # fmt: skip


class FakeContainerd:
    """Takes events on a socket, in a thread; `answer` may raise what it answers with."""

    def __init__(self, path):
        self.path = path.with_name(f"{path.name}.ttrpc")
        self.events = []
        self.answer = lambda _: None
        self._thread = None

    def start(self):
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)))
        self._thread.start()
        started.wait(10)

    def stop(self):
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)
            self._thread = None

    async def _serve(self, started):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self.path))
        method = Method(events_pb2.ForwardRequest, Empty, self._take)
        server = TtrpcServer({"containerd.services.events.ttrpc.v1.Events": {"Forward": method}})
        await server.start(listening)
        started.set()
        await self._stop.wait()
        await server.stop(0)

    async def _take(self, request, call):
        envelope = request.envelope
        waiting = self.answer(envelope)
        if waiting is not None:
            await waiting
        assert call.metadata["containerd-namespace-ttrpc"] == envelope.namespace
        assert envelope.timestamp.seconds > 0
        self.events.append((envelope.topic, typeurl.unpack(envelope.event, MESSAGES[envelope.event.type_url])))
        return Empty()

    def topics(self):
        return [topic.removeprefix("/tasks/") for topic, _ in self.events]

    def wait(self, count):
        deadline = time.monotonic() + 10
        while len(self.events) < count:
            assert time.monotonic() < deadline, self.topics()
            time.sleep(0.005)
        time.sleep(0.02)  # that no more than these come
        assert len(self.events) == count, self.topics()
        return self.events


@pytest.fixture
def node(own_daemon):
    """A daemon, its stand-in for containerd, and a client."""
    daemon = own_daemon()
    fake = FakeContainerd(daemon.folder / "none.sock")
    with daemon, Client(daemon.task_listen) as client:
        fake.start()
        yield daemon, fake, client
        fake.stop()


def process(*args):
    return AnyMessage(type_url=typeurl.PROCESS, value=json.dumps({"args": list(args), "cwd": "/"}).encode())


def test_a_container_is_told_of_from_create_to_delete(node, bundle):
    _, fake, client = node
    made = bundle("exit", "7")
    streams = made.streams()
    client.Create(id="c", bundle=str(made.folder), **streams)
    pid = client.Start(id="c").pid
    ended = client.Wait(id="c")
    client.Delete(id="c")
    (create, start, exited, deleted) = [message for _, message in fake.wait(4)]
    assert fake.topics() == ["create", "start", "exit", "delete"]
    assert (create.container_id, create.bundle, create.io.stdout) == ("c", str(made.folder), streams["stdout"])
    assert (start.container_id, start.pid) == ("c", pid)
    assert (exited.container_id, exited.id, exited.pid, exited.exit_status) == ("c", "c", pid, 7)
    assert exited.exited_at == ended.exited_at
    assert (deleted.container_id, deleted.pid, deleted.exit_status, deleted.id) == ("c", pid, 7, "")
    assert deleted.exited_at == ended.exited_at


def test_an_exec_is_told_of_between_the_containers_start_and_exit(node, bundle):
    _, fake, client = node
    made = bundle("sleep", "forever")
    made.add("exit", "spin")
    client.Create(id="c", bundle=str(made.folder))
    client.Start(id="c")
    client.Exec(id="c", exec_id="e1", spec=process("/exit.wasm", "3"))
    client.Start(id="c", exec_id="e1")
    client.Wait(id="c", exec_id="e1")
    client.Delete(id="c", exec_id="e1")
    client.Exec(id="c", exec_id="e2", spec=process("/spin.wasm"))
    client.Start(id="c", exec_id="e2")
    client.Kill(id="c", signal=signal.SIGTERM)
    client.Wait(id="c")
    client.Delete(id="c")
    events = fake.wait(10)
    once = ["exec-added", "exec-started", "exit"]
    assert fake.topics() == ["create", "start", *once, *once, "exit", "delete"]
    assert [(e.id, e.exit_status) for topic, e in events if topic == "/tasks/exit"] == [
        ("e1", 3),
        ("e2", 137),
        ("c", 143),
    ]
    assert [e.exec_id for topic, e in events if "exec" in topic] == ["e1", "e1", "e2", "e2"]


def test_a_container_that_never_ran_is_told_of(node, bundle):
    _, fake, client = node
    folder = str(bundle("hello").folder)
    client.Create(id="killed", bundle=folder)
    client.Kill(id="killed", signal=15)
    client.Delete(id="killed")
    assert [message.exit_status for topic, message in fake.wait(3) if topic == "/tasks/exit"] == [143]
    client.Create(id="deleted", bundle=folder)
    client.Delete(id="deleted")
    fake.wait(6)
    assert fake.topics() == ["create", "exit", "delete"] * 2


def test_a_refused_creation_is_not_told_of(node, bundle, refused):
    _, fake, client = node
    made = bundle("hello")
    made.configure("/nowhere.wasm")
    refused(StatusCode.INVALID_ARGUMENT, client.Create, id="c", bundle=str(made.folder))
    fake.wait(0)


def test_pause_and_resume_are_told(node, bundle):
    _, fake, client = node
    client.Create(id="c", bundle=str(bundle("sleep", "forever").folder))
    client.Start(id="c")
    client.Pause(id="c")
    client.Resume(id="c")
    fake.wait(4)
    assert fake.topics()[2:] == ["paused", "resumed"]


def test_what_happens_while_containerd_is_away_is_told_when_it_is_back(node, bundle):
    _, fake, client = node
    made = bundle("sleep", "forever")
    client.Create(id="c", bundle=str(made.folder))
    fake.wait(1)
    fake.stop()
    client.Start(id="c")
    client.Kill(id="c", signal=9)
    client.Wait(id="c")
    client.Delete(id="c")
    time.sleep(0.3)
    fake.start()
    fake.wait(4)
    assert fake.topics() == ["create", "start", "exit", "delete"]


def test_an_answer_that_says_not_now_has_the_event_sent_again(node, bundle):
    _, fake, client = node
    failures = [StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.UNAVAILABLE]

    def answer(envelope):
        if failures:
            raise RpcError(failures.pop(), "not now")

    fake.answer = answer
    client.Create(id="c", bundle=str(bundle("hello").folder))
    client.Delete(id="c")
    fake.wait(3)
    assert fake.topics() == ["create", "exit", "delete"]


def test_an_event_that_containerd_will_never_take_holds_up_no_other(node, bundle):
    daemon, fake, client = node

    def answer(envelope):
        if envelope.topic == "/tasks/create":
            raise RpcError(StatusCode.INVALID_ARGUMENT, "never")

    fake.answer = answer
    client.Create(id="c", bundle=str(bundle("hello").folder))
    client.Delete(id="c")
    fake.wait(2)
    assert fake.topics() == ["exit", "delete"]
    assert "/tasks/create" in daemon.log
    assert "never" in daemon.log


def test_a_containerd_that_does_not_answer_holds_up_no_container(node, bundle):
    _, fake, client = node
    fake.answer = lambda _: asyncio.sleep(3600)
    made = bundle("hello")
    begun = time.monotonic()
    for _ in range(10):
        client.Create(id="c", bundle=str(made.folder))
        client.Start(id="c")
        client.Wait(id="c")
        client.Delete(id="c")
    assert time.monotonic() - begun < 3
    assert fake.events == []


def test_a_container_that_died_with_the_daemon_is_told_of(node, bundle):
    daemon, fake, client = node
    client.Create(id="c", bundle=str(bundle("sleep", "forever").folder))
    client.Start(id="c")
    fake.wait(2)
    daemon.kill()
    daemon.start()
    (_, exited) = fake.wait(3)[2]
    assert (exited.container_id, exited.id, exited.exit_status) == ("c", "c", 255)
    with Client(daemon.task_listen) as again:
        again.Delete(id="c")
    fake.wait(4)
    assert fake.topics()[2:] == ["exit", "delete"]


def test_a_dead_container_that_containerd_gave_up_is_told_of_no_more(node, bundle):
    """On the shim's route it deletes the bundle, tells of the end itself, and asks for nothing."""
    daemon, fake, client = node
    gone, anew = bundle("sleep", "forever", name="gone"), bundle("sleep", "forever", name="anew")
    for name, made in (("gone", gone), ("anew", anew)):
        client.Create(id=name, bundle=str(made.folder))
        client.Start(id=name)
    fake.wait(4)
    daemon.kill()
    gone.folder.rename(gone.folder.parent / "elsewhere")
    daemon.start()
    (_, exited) = fake.wait(5)[4]
    assert exited.container_id == "anew"
    assert daemon.records() == ["containers/test/anew.json"]
    with Client(daemon.task_listen) as again:
        again.Create(id="anew", bundle=str(anew.folder))  # in its place
        again.Start(id="anew")
        with pytest.raises(RpcError, match="exists"):
            again.Create(id="anew", bundle=str(anew.folder))
        fake.wait(7)
        assert fake.topics()[5:] == ["create", "start"]
        again.Kill(id="anew", signal=signal.SIGKILL)
        again.Wait(id="anew")
        again.Delete(id="anew")
    assert daemon.records() == []


# ---- the queue ----


def event(number):
    return Event(topic=Topic.START, namespace="n", container=f"c{number}")


def test_a_queue_keeps_the_newest(caplog):
    async def main():
        queue = EventQueue(3)
        for number in range(5):
            queue.add(event(number))
        assert len(queue) == 3
        taken = []
        while len(queue):
            first = await queue.first()
            assert await queue.first() is first  # until it is done
            taken.append(first.container)
            queue.done(first)
        assert taken == ["c2", "c3", "c4"]
        await asyncio.wait_for(queue.drained(), 1)

    asyncio.run(main())
    assert "more than 3 events wait for containerd" in caplog.text
    assert "2 events were dropped" in caplog.text


def test_an_event_that_is_dropped_while_it_is_sent_is_not_done_twice():
    async def main():
        queue = EventQueue(1)
        queue.add(event(0))
        first = await queue.first()
        queue.add(event(1))
        queue.done(first)
        assert (await queue.first()).container == "c1"

    asyncio.run(main())


def test_whoever_waits_for_an_event_gets_it():
    async def main():
        queue = EventQueue(3)
        waiting = asyncio.ensure_future(queue.first())
        await asyncio.sleep(0)
        queue.add(event(0))
        assert (await asyncio.wait_for(waiting, 1)).container == "c0"

    asyncio.run(main())
