"""Pausing and measuring through the real containerd: `ctr tasks`, CRI's statistics, updates."""

import re
import time

import pytest

from tests.support.node import IMAGE

pytestmark = pytest.mark.xdist_group("containerd")


def cpu_seconds(cri, container):
    return cri.stats(container).cpu.usage_core_nano_seconds.value / 1e9


@pytest.fixture
def spinner(run):
    return run("/spin.wasm")


def test_a_paused_container_uses_no_time_and_goes_on(node, cri, spinner):
    node.ctr("tasks", "pause", spinner.id)
    assert re.search(rf"{spinner.id}\s+\d+\s+PAUSED", node.ctr("tasks", "list").stdout.decode())
    time.sleep(0.05)
    before = cpu_seconds(cri, spinner)
    time.sleep(0.3)
    assert cpu_seconds(cri, spinner) == before
    node.ctr("tasks", "resume", spinner.id)
    time.sleep(0.2)
    assert cpu_seconds(cri, spinner) > before + 0.02
    assert cri.state(spinner) == "CONTAINER_RUNNING"


def test_a_paused_container_can_be_stopped(node, cri, spinner):
    node.ctr("tasks", "pause", spinner.id)
    cri.stop(spinner, grace=10)
    assert cri.status(spinner).exit_code in {137, 143}


def test_statistics_of_a_container(cri, spinner):
    time.sleep(0.2)
    stats = cri.stats(spinner)
    assert stats.attributes.id == spinner.id
    assert 0.02 < stats.cpu.usage_core_nano_seconds.value / 1e9 < 10
    assert stats.memory.timestamp > 0


def test_statistics_of_many_containers_at_once(cri, run):
    containers = [run("/sleep.wasm", "forever") for _ in range(20)] + [run("/spin.wasm")]
    ended = run("/hello.wasm")
    cri.wait_exit(ended)
    found = {stats.attributes.id for stats in cri.all_stats()}
    assert {container.id for container in containers} <= found


def test_statistics_tell_linear_memory_what_of_it_is_there_and_the_limit(cri, run):
    limit, taken = 64 << 20, 24 << 20
    hog = run("/memhog.wasm", "24", "8", "hold", resources={"memory_limit_in_bytes": limit})
    cri.wait_output(hog, b"24 MiB")
    memory = cri.stats(hog).memory
    assert taken <= memory.usage_bytes.value <= taken + (1 << 20)
    assert taken <= memory.rss_bytes.value <= memory.usage_bytes.value
    assert memory.working_set_bytes.value == memory.usage_bytes.value
    assert memory.available_bytes.value == limit - memory.usage_bytes.value


def test_the_rate_of_cpu_comes_of_two_listings(cri, run):
    spinner, sleeper = run("/spin.wasm"), run("/sleep.wasm", "forever")
    rates = {}
    for _ in range(2):
        time.sleep(0.3)
        rates = {each.attributes.id: each.cpu.usage_nano_cores.value for each in cri.all_stats()}
    assert rates[spinner.id] > 10e6
    assert rates[sleeper.id] < 5e6


def test_statistics_of_a_pod(node, cri):
    pod = cri.run_pod("counted", cgroup_parent=node.containerd.cgroup_parent("counted"))
    spinner = cri.run(pod, IMAGE, name="spinner", command=["/spin.wasm"])
    hog = cri.run(pod, IMAGE, name="hog", command=["/memhog.wasm"], args=["8", "8", "hold"])
    cri.wait_output(hog, b"8 MiB")
    time.sleep(0.1)
    stats = cri.pod_stats(pod)
    assert stats.attributes.id == pod.id
    found = {each.attributes.id: each for each in stats.linux.containers}
    assert set(found) == {spinner.id, hog.id}
    assert found[spinner.id].cpu.usage_core_nano_seconds.value > 10e6
    assert found[hog.id].memory.usage_bytes.value >= 8 << 20
    assert stats.linux.process.process_count.value == 2
    assert pod.id in {each.attributes.id for each in cri.all_pod_stats()}


def test_a_pods_own_figures_are_those_of_its_cgroup_until_containerd_asks_the_sandboxer(node, cri):
    """Up to 2.3 they are those of `cgroup_parent`, in which no thread of ours may be; its containers' are right."""
    pod = cri.run_pod("outside", cgroup_parent=node.containerd.cgroup_parent("outside"))
    cri.run(pod, IMAGE, command=["/spin.wasm"])
    time.sleep(0.1)
    stats = cri.pod_stats(pod).linux
    assert (stats.cpu.usage_core_nano_seconds.value > 10e6) is (node.containerd.binaries.version >= (2, 4))
    assert stats.containers[0].cpu.usage_core_nano_seconds.value > 10e6


def test_metrics_through_ctr(node, cri, spinner):
    time.sleep(0.1)
    text = node.ctr("tasks", "metrics", spinner.id).stdout.decode()
    assert spinner.id in text
    assert "cpu" in text.lower()


def test_limits_are_updated_in_place(cri, run):
    container = run("/spin.wasm", resources={"cpu_shares": 512, "memory_limit_in_bytes": 64 << 20})
    cri.update(container, cpu_shares=1024, memory_limit_in_bytes=128 << 20)
    assert cri.status(container).resources.linux.cpu_shares == 1024
    assert cri.status(container).resources.linux.memory_limit_in_bytes == 128 << 20
    assert cri.state(container) == "CONTAINER_RUNNING"


def test_processes_of_a_container_are_listed(node, cri, spinner):
    with cri.exec(spinner, ["/cat.wasm"], stdin=True) as session:
        session.send(b"x\n")
        session.read_until(b"x\n")
        lines = node.ctr("tasks", "ps", spinner.id).stdout.decode().splitlines()
        assert len(lines) == 3  # a heading, the container's first process, the exec's
