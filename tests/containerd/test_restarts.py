"""Restarts and deaths in the midst: containerd's, which guests must not notice, and the daemon's own."""

import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from testing.streaming import Wire
from tests.support.node import IMAGE, eventually
from tests.support.rpc import Client

pytestmark = pytest.mark.xdist_group("containerd")


@pytest.fixture
def node(rough_node):
    """This module's own; afterwards nothing is left, whatever was killed."""
    yield rough_node
    if not rough_node.daemon.running:
        rough_node.daemon.start()
    if not rough_node.containerd.alive:
        rough_node.containerd.start()
    eventually(rough_node.cri.purge)
    assert rough_node.task_mounts() == []
    assert rough_node.daemon.records() == []


def lines_of(cri, container):
    """The numbers of the lines that the ticker has logged so far."""
    return [int(number) for number in re.findall(rb"^line (\d+)$", cri.output(container), re.MULTILINE)]


def wait_for_line(cri, container, number):
    deadline = time.monotonic() + 20
    while (found := lines_of(cri, container)) == [] or found[-1] < number:
        assert time.monotonic() < deadline, found[-3:]
        time.sleep(0.02)
    return found


def leave(node, ticker, *, crash):
    """Have containerd go while the ticker holds its breath: what it has read and not written goes with it."""
    with Client(node.daemon.task_listen, namespace="k8s.io") as client:
        client.Pause(id=ticker.id)
        time.sleep(0.3)  # until it is written
        (node.containerd.kill if crash else node.containerd.stop)()
        client.Resume(id=ticker.id)


# ---- containerd's ----


@pytest.mark.parametrize("crash", [False, True], ids=["restart", "crash"])
def test_guests_do_not_notice_a_restart_of_containerd(node, cri, pod, run, crash):
    ticker, spinner, reader = run("/ticker.wasm"), run("/spin.wasm"), run("/cat.wasm", stdin=True)
    wait_for_line(cri, ticker, 20)
    daemon, threads = node.daemon.pid, node.daemon.threads()
    for _ in range(2):
        leave(node, ticker, crash=crash)
        node.containerd.start()
        assert cri.pod_state(pod) == "SANDBOX_READY"
        assert {cri.state(each) for each in (ticker, spinner, reader)} == {"CONTAINER_RUNNING"}
        last = lines_of(cri, ticker)[-1]
        wait_for_line(cri, ticker, last + 100)
    numbers = wait_for_line(cri, ticker, 0)
    assert numbers == list(range(len(numbers)))  # no gap, none twice
    assert node.daemon.pid == daemon
    assert [name for name in threads if len(name) == 15] == [
        name for name in node.daemon.threads() if len(name) == 15
    ]
    assert cri.exec_sync(spinner, ["/exit.wasm", "5"]).exit_code == 5
    with cri.attach(reader, stdin=True, wire=Wire.SPDY) as session:
        session.ask(b"still here\n", b"still here\n")
    for each in (ticker, spinner, reader):
        cri.stop(each, grace=5)
        assert cri.status(each).exit_code == 143
    assert cri.wait_exit(cri.run(pod, IMAGE, name="after")).exit_code == 0


@pytest.mark.parametrize("crash", [False, True], ids=["restart", "crash"])
def test_what_ends_while_containerd_is_away_is_told_afterwards(node, cri, run, crash):
    containers = {
        name: run(f"/{name}.wasm", *arguments) for name, *arguments in (("spin",), ("sleep", "forever"), ("flood",))
    }
    (node.containerd.kill if crash else node.containerd.stop)()
    with Client(node.daemon.task_listen, namespace="k8s.io") as client:
        for container, number in zip(containers.values(), (9, 15, 2), strict=True):
            client.Kill(id=container.id, signal=number)
            client.Wait(id=container.id)
    node.containerd.start()
    assert [cri.wait_exit(container).exit_code for container in containers.values()] == [137, 143, 130]


def test_output_of_while_containerd_was_away_is_logged(node, cri, run):
    container = run("/ticker.wasm")
    wait_for_line(cri, container, 5)
    leave(node, container, crash=True)
    time.sleep(1)
    node.containerd.start()
    numbers = wait_for_line(cri, container, 600)
    assert numbers == list(range(len(numbers)))


def test_a_created_container_survives_a_restart_of_containerd(node, cri, pod):
    container = cri.create(pod, IMAGE)
    node.containerd.restart()
    assert cri.state(container) == "CONTAINER_CREATED"
    cri.start(container)
    assert cri.wait_exit(container).exit_code == 0


# ---- the daemon's ----


def test_after_the_daemons_death_its_pods_live_and_their_containers_start_anew(node, cri, pod, run):
    containers = [run("/spin.wasm"), run("/ticker.wasm"), run("/cat.wasm", stdin=True, tty=True)]
    other = cri.run_pod("other", uid="other")
    status = cri.pod_status(pod)
    address = node.daemon.task_listen
    node.daemon.kill()
    assert [cri.wait_exit(each).exit_code for each in containers] == [255] * 3
    assert address.is_socket()  # a dead one's
    node.daemon.start()
    assert node.task_mounts() == []
    assert eventually(cri.pod_state, pod) == eventually(cri.pod_state, other) == "SANDBOX_READY"
    assert cri.pod_status(pod).created_at == status.created_at
    assert cri.pod_status(pod).network.ip == status.network.ip
    for number, container in enumerate(containers):
        again = cri.run(pod, IMAGE, name=f"c{number + 1}", attempt=1, command=["/args.wasm"], args=[str(number)])
        assert cri.wait_exit(again).exit_code == 0
        assert f"argv[1]={number}".encode() in cri.output(again)
        cri.remove(container)
    running = run("/spin.wasm", name="new")
    assert cri.exec_sync(running, ["/exit.wasm", "3"]).exit_code == 3
    cri.discard(pod)
    cri.discard(other)
    assert node.daemon.records() == []


def test_a_daemon_that_dies_again_and_again_loses_no_pod(node, cri, pod, run):
    for _ in range(3):
        container = run("/spin.wasm")
        node.daemon.kill()
        node.daemon.start()
        assert cri.wait_exit(container).exit_code == 255
        assert eventually(cri.pod_state, pod) == "SANDBOX_READY"
    assert cri.wait_exit(run("/hello.wasm")).exit_code == 0


def test_a_daemon_that_is_stopped_ends_its_guests_and_comes_back(node, cri, pod, run):
    containers = [run("/spin.wasm"), run("/flood.wasm"), run("/sleep.wasm", "forever"), run("/cat.wasm", stdin=True)]
    begun = time.monotonic()
    assert node.daemon.stop() == 0
    assert time.monotonic() - begun < 2.5  # its shutdown_timeout is two seconds
    assert node.task_mounts() == []
    assert {cri.wait_exit(each).exit_code for each in containers} <= {137, 255}
    node.daemon.start()
    assert eventually(cri.pod_state, pod) == "SANDBOX_READY"
    assert cri.wait_exit(run("/hello.wasm")).exit_code == 0


def test_a_daemon_that_stands_still_for_a_while_loses_nothing(node, cri, pod, run):
    ticker = run("/ticker.wasm")
    last = wait_for_line(cri, ticker, 10)[-1]
    node.daemon.signal(signal.SIGSTOP)
    time.sleep(3)
    node.daemon.signal(signal.SIGCONT)
    numbers = wait_for_line(cri, ticker, last + 100)
    assert numbers == list(range(len(numbers)))
    assert cri.state(ticker) == "CONTAINER_RUNNING"
    assert cri.pod_state(pod) == "SANDBOX_READY"
    assert cri.exec_sync(ticker, ["/hello.wasm"]).exit_code == 0
    cri.stop(ticker, grace=5)
    assert cri.status(ticker).exit_code == 143


def test_a_containerd_that_starts_before_the_daemon_can_be_cleaned_up(node, cri, pod, run):
    container = run("/spin.wasm")
    node.containerd.stop()
    node.daemon.kill()
    node.containerd.start()
    assert cri.wait_exit(container).exit_code == 255
    node.daemon.start()
    assert node.task_mounts() == []
    eventually(cri.discard, pod)
    new = cri.run_pod("new", uid="new")
    assert cri.wait_exit(cri.run(new, IMAGE)).exit_code == 0


def test_a_daemon_that_dies_in_the_midst_of_many_starts_leaves_nothing_stuck(node, cri):
    stop = threading.Event()

    def churn(number):
        while not stop.is_set():
            try:
                pod = cri.run_pod(f"pod{number}", uid=f"uid{number}-{time.monotonic()}")
                cri.run(pod, IMAGE, command=["/spin.wasm"])
                cri.discard(pod)
            except grpc.RpcError:
                time.sleep(0.05)

    with ThreadPoolExecutor(6) as pool:
        workers = [pool.submit(churn, number) for number in range(6)]
        for _ in range(2):
            time.sleep(0.7)
            node.daemon.kill()
            node.daemon.start()
        time.sleep(0.5)
        stop.set()
        for worker in workers:
            worker.result(60)
    eventually(cri.purge, seconds=30)
    assert node.task_mounts() == []
