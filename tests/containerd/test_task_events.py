"""Events as containerd passes them on to its subscribers: `ctr events`, and CRI's own."""

import json
import subprocess
import time

import pytest

from tests.support.node import IMAGE

pytestmark = pytest.mark.xdist_group("containerd")


class Subscriber:
    """`ctr events`, read as it prints them: topics and messages of tasks."""

    def __init__(self, node):
        self._node = node
        self._process = None
        self.open()

    def open(self):
        self._process = subprocess.Popen(
            self._node.ctr.command("events"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        time.sleep(0.3)  # it says nothing of when it has subscribed
        assert self._process.poll() is None

    def close(self):
        """Leave; the events that came, in their order."""
        self._process.terminate()
        out, _ = self._process.communicate(timeout=10)
        events = []
        for line in out.decode().splitlines():
            before, _, after = line.partition(" /tasks/")
            if after:
                topic, _, message = after.partition(" ")
                events.append((topic, json.loads(message)))
                assert " k8s.io" in before
        return events


@pytest.fixture
def subscribe(node):
    made = []

    def make():
        made.append(Subscriber(node))
        return made[-1]

    yield make
    for each in made:
        each._process.kill()
        each._process.communicate()


def of(events, container):
    return [(topic, event) for topic, event in events if event.get("container_id") == container.id]


def test_a_containers_events_come_in_order(cri, run, subscribe):
    subscriber = subscribe()
    container = run("/exit.wasm", "3")
    cri.wait_exit(container)
    cri.remove(container)
    time.sleep(0.2)
    events = of(subscriber.close(), container)
    assert [topic for topic, _ in events] == ["create", "start", "exit", "delete"]
    assert events[2][1]["exit_status"] == 3
    assert events[2][1]["id"] == container.id
    assert events[0][1]["io"]["stdout"]


def test_an_execs_events_come_between(cri, run, subscribe):
    container = run("/sleep.wasm", "forever")
    subscriber = subscribe()
    cri.exec_sync(container, ["/exit.wasm", "4"])
    cri.stop(container, grace=5)
    time.sleep(0.2)
    events = of(subscriber.close(), container)
    assert [topic for topic, _ in events][:5] == ["exec-added", "exec-started", "exit", "exit", "delete"]
    assert [event["exit_status"] for topic, event in events if topic == "exit"] == [4, 143]


def test_pause_and_resume_are_told(node, cri, run, subscribe):
    container = run("/spin.wasm")
    subscriber = subscribe()
    node.ctr("tasks", "pause", container.id)
    node.ctr("tasks", "resume", container.id)
    time.sleep(0.2)
    assert [topic for topic, _ in of(subscriber.close(), container)] == ["paused", "resumed"]


def test_cri_tells_of_starts_and_exits(cri, pod):
    with cri.events() as events:
        container = cri.run(pod, IMAGE, command=["/exit.wasm"], args=["6"])
        stopped = events.wait("STOPPED", container.id)
    assert [status.exit_code for status in stopped.containers_statuses if status.id == container.id] == [6]
    kinds = [kind for kind, subject in events.seen if subject == container.id]
    assert kinds == ["CREATED", "STARTED", "STOPPED"]
