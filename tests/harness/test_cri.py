import pytest

from testing.cri import Mount

pytestmark = pytest.mark.xdist_group("containerd")


def test_a_container_runs_to_its_exit_code(cri, pod, shell):
    script = "echo out; echo problem >&2; printf unfinished; exit 3"
    container = cri.run(pod, shell.reference, command=["/bin/sh", "-c", script])
    status = cri.wait_exit(container)
    assert status.exit_code == 3
    assert cri.output(container) == b"out\nunfinished"
    assert cri.output(container, "stderr") == b"problem\n"
    assert {line.stream for line in cri.log_lines(container)} == {"stdout", "stderr"}


def test_a_container_gets_its_settings(cri, pod, shell, tmp_path):
    (tmp_path / "given").write_text("from outside")
    container = cri.run(
        pod,
        shell.reference,
        command=["/bin/sh", "-c"],
        args=["pwd; echo $WORD; cat /volume/given; echo; touch /volume/new || echo readonly"],
        envs={"WORD": "of mouth"},
        workdir="/tmp",
        mounts=[Mount(source=tmp_path, target="/volume", readonly=True)],
        annotations={"key": "value"},
    )
    cri.wait_exit(container)
    assert cri.output(container) == b"/tmp\nof mouth\nfrom outside\nreadonly\n"
    assert cri.status(container).annotations["key"] == "value"
    assert cri.info(container)["runtimeSpec"]["process"]["cwd"] == "/tmp"


def test_pods_have_addresses_of_their_own_or_the_hosts_network(cri):
    own, host = cri.run_pod("own", handler="runc"), cri.run_pod("host", handler="runc", host_network=True)
    assert cri.pod_status(own).network.ip.startswith("10.213.")
    assert cri.pod_status(host).network.ip == ""
    cri.discard(own)
    cri.discard(host)
    assert not {own.id, host.id} & {pod.id for pod in cri.pods()}


def test_exec_sync_brings_output_and_exit_code(cri, pod, shell):
    container = cri.run(pod, shell.reference, command=["/bin/sleep", "1000"])
    result = cri.exec_sync(container, ["/bin/sh", "-c", "echo out; echo err >&2; exit 4"])
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 4)


def test_stop_waits_for_the_grace_period(cri, pod, shell):
    script = "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done"
    container = cri.run(pod, shell.reference, command=["/bin/sh", "-c", script])
    cri.wait_output(container, b"up")
    cri.stop(container, grace=10)
    assert cri.status(container).exit_code == 5
    assert cri.output(container).endswith(b"bye\n")
    cri.remove(container)
    assert container.id not in {other.id for other in cri.containers()}


def test_events_tell_of_starts_and_exits(cri, pod, shell):
    with cri.events() as events:
        container = cri.create(pod, shell.reference, command=["/bin/sh", "-c", "exit 6"])
        cri.start(container)
        event = events.wait("STOPPED", container.id)
    assert [status.exit_code for status in event.containers_statuses if status.id == container.id] == [6]
    kinds = [kind for kind, subject in events.seen if subject == container.id]
    assert kinds == ["CREATED", "STARTED", "STOPPED"]


def test_statistics_of_containers_and_pods(containerd, cri, shell):
    pod = cri.run_pod("counted", handler="runc", cgroup_parent=containerd.cgroup_parent("counted"))
    container = cri.run(pod, shell.reference, command=["/bin/sleep", "1000"], resources={"cpu_shares": 100})
    assert cri.stats(container).memory.usage_bytes.value > 0
    assert container.id in {stats.attributes.id for stats in cri.all_stats()}
    assert cri.pod_stats(pod).linux.cpu.usage_core_nano_seconds.value > 0
    cri.update(container, cpu_shares=200)
    assert cri.status(container).resources.linux.cpu_shares == 200
    cri.discard(pod)


def test_a_log_can_be_rotated(cri, pod, shell):
    script = "echo first; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo second"
    container = cri.run(pod, shell.reference, command=["/bin/sh", "-c", script])
    cri.wait_output(container, b"first\n")
    container.log.rename(container.log.with_suffix(".old"))
    cri.reopen_log(container)
    assert cri.exec_sync(container, ["/bin/sh", "-c", "echo > /tmp/go"]).exit_code == 0
    cri.wait_exit(container)
    assert cri.output(container) == b"second\n"


def test_purge_removes_every_pod(cri, shell):
    pods = [cri.run_pod(f"pod{number}", handler="runc") for number in range(2)]
    cri.run(pods[0], shell.reference, command=["/bin/sleep", "1000"])
    cri.purge()
    assert cri.pods() == []
