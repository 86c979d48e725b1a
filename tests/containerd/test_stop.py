"""Stopping: at once, whatever the guest does, also while its log's reader stalls; again, and in any order."""

import signal
import time
from contextlib import contextmanager

import pytest

from tests.support.node import IMAGE

pytestmark = pytest.mark.xdist_group("containerd")


@contextmanager
def within(seconds):
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        (["/sleep.wasm", "forever"], {}),
        (["/spin.wasm"], {}),
        (["/cat.wasm"], {"stdin": True}),
        (["/cat.wasm"], {"stdin": True, "tty": True}),
        (["/flood.wasm"], {}),
        (["/flood.wasm"], {"tty": True}),
        (["/poll.wasm", "clock", "3600000"], {}),
        (["/poll.wasm", "stdin", "3600000"], {"stdin": True}),
        (["/ticker.wasm"], {}),
    ],
)
def test_a_stop_is_immediate_whatever_the_guest_does(cri, run, command, settings):
    """A guest has no handler to wait for: the grace period is not waited out."""
    container = run(*command, **settings)
    time.sleep(0.05)
    with within(3):
        cri.stop(container, grace=30)
    assert cri.status(container).exit_code == 143
    cri.remove(container)


def test_a_stop_without_grace_is_a_kill(cri, run):
    container = run("/spin.wasm")
    with within(3):
        cri.stop(container, grace=0)
    assert cri.status(container).exit_code == 137


def test_the_images_stop_signal_is_sent(node, cri, pod, run):
    from tests.support.cli import example

    image = node.image({"spin.wasm": example("spin").read_bytes()}, entrypoint=["/spin.wasm"], stop_signal="SIGINT")
    container = cri.run(pod, image)
    cri.stop(container, grace=10)
    assert cri.status(container).exit_code == 130


def test_a_guest_stuck_in_a_full_pipe_can_be_stopped_while_containerd_stalls(node, cri, run):
    container = run("/flood.wasm")
    other = run("/sleep.wasm", "forever")
    pid = node.containerd.pid
    import os

    from tests.support.rpc import Client

    os.kill(pid, signal.SIGSTOP)  # it reads no log any more
    try:
        time.sleep(0.2)  # the pipe is full
        with Client(node.daemon.task_listen, namespace="k8s.io") as client:
            for each in (container, other):
                with within(1):
                    client.Kill(id=each.id, signal=15)
                    assert client.Wait(id=each.id).exit_status == 143
    finally:
        os.kill(pid, signal.SIGCONT)
    for each in (container, other):
        assert cri.wait_exit(each).exit_code == 143


def test_stops_and_removals_may_be_repeated(cri, run, pod):
    container = run("/spin.wasm")
    for _ in range(3):
        cri.stop(container, grace=1)
    assert cri.status(container).exit_code == 143
    for _ in range(3):
        cri.remove(container)
    for _ in range(3):
        cri.stop_pod(pod)
    assert cri.pod_state(pod) == "SANDBOX_NOTREADY"
    for _ in range(3):
        cri.remove_pod(pod)
    assert cri.pods() == []


def test_stopping_a_pod_ends_its_containers(node, cri, run, pod):
    containers = [run("/spin.wasm"), run("/sleep.wasm", "forever"), run("/flood.wasm"), run("/cat.wasm", stdin=True)]
    created = cri.create(pod, IMAGE, name="never")
    with within(5):
        cri.stop_pod(pod)
    assert [cri.status(each).exit_code for each in containers] == [137] * 4
    assert cri.state(created) in {"CONTAINER_CREATED", "CONTAINER_EXITED"}
    assert cri.pod_state(pod) == "SANDBOX_NOTREADY"


def test_removing_a_pod_takes_its_containers(node, cri, run, pod):
    for _ in range(3):
        run("/spin.wasm")
    with within(5):
        cri.stop_pod(pod)
        cri.remove_pod(pod)
    assert cri.containers() == []
    assert node.task_mounts() == []
    assert node.daemon.records() == []


def test_nothing_is_created_or_started_in_a_stopped_pod(cri, pod, fails):
    created = cri.create(pod, IMAGE)
    cri.stop_pod(pod)
    for container in (created, cri.create(pod, IMAGE, name="new")):  # that much containerd allows
        assert fails(cri.start, container)
        assert cri.state(container) in {"CONTAINER_CREATED", "CONTAINER_EXITED"}


def test_containers_of_a_pod_stop_at_once(cri, run):
    from concurrent.futures import ThreadPoolExecutor

    containers = [run("/spin.wasm") for _ in range(10)]
    with within(10), ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda container: cri.stop(container, grace=5), containers))
    assert [cri.status(container).exit_code for container in containers] == [143] * 10


def wait_for_its_thread(daemon, container):
    deadline = time.monotonic() + 30
    while container.id[:15] not in daemon.threads():
        assert time.monotonic() < deadline, daemon.threads()
        time.sleep(0.01)


def test_a_guest_that_never_begins_can_be_stopped(cri, node, pod):
    """Its module's own start function runs for ever."""
    from concurrent.futures import ThreadPoolExecutor

    container = cri.create(pod, IMAGE, command=["/stuck.wasm"])
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(cri.start, container)
        wait_for_its_thread(node.daemon, container)
        with within(10):
            cri.stop_pod(pod)
            starting.result(10)
    assert cri.wait_exit(container).exit_code == 137
    cri.remove_pod(pod)
    assert cri.pods() == []
