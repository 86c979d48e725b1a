"""Control groups: version 2 on plain files, version 1 on the kernel's own, and telling hosts apart."""

import itertools
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasm_sandboxer.errors import Unsupported
from wasm_sandboxer.linux.cgroup.host import Version, detect
from wasm_sandboxer.linux.cgroup.protocol import Group, GroupLimits
from wasm_sandboxer.linux.cgroup.v2 import V2Group, weight_of

V2_FILES = {
    "cgroup.controllers": "cpu cpuset io memory pids\n",
    "cgroup.subtree_control": "",
    "cgroup.type": "domain\n",
    "cgroup.threads": "",
    "cpu.max": "max 100000\n",
    "cpu.stat": "usage_usec 42\nnr_periods 7\nnr_throttled 3\nthrottled_usec 9\n",
    "pids.current": "5\n",
}
_NUMBERS = itertools.count()


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    """A folder with the files of a version 2 group."""
    for name, text in V2_FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def filled(folder: Path) -> None:
    """What the kernel would put into a new group."""
    for name, text in V2_FILES.items():
        if not (folder / name).exists():
            (folder / name).write_text(text)


def group_in(domain: Path) -> tuple[V2Group, Path]:
    group = V2Group(domain, frozenset({"cpu", "pids"}), threaded=False).child("pod")
    filled(domain / "pod")
    return group, domain / "pod"


def test_v2_children_are_threaded_and_their_parent_gives_them_controllers(domain: Path) -> None:
    _, folder = group_in(domain)
    assert (folder / "cgroup.type").read_text() == "threaded"
    assert (domain / "cgroup.subtree_control").read_text() == "+cpu +pids"


def test_v2_writes_limits_in_its_own_units(domain: Path) -> None:
    group, folder = group_in(domain)
    group.apply(GroupLimits(shares=1024, quota=20_000, period=50_000, burst=1000, cpus="0-1", mems="0", pids=10))
    written = {
        name: (folder / name).read_text()
        for name in ("cpu.weight", "cpu.max", "cpu.max.burst", "cpuset.cpus", "pids.max")
    }
    assert written == {
        "cpu.weight": "39", "cpu.max": "20000 50000", "cpu.max.burst": "1000", "cpuset.cpus": "0-1", "pids.max": "10",
    }  # fmt: skip


def test_v2_changes_a_quota_and_keeps_the_period(domain: Path) -> None:
    group, folder = group_in(domain)
    group.apply(GroupLimits(quota=30_000, period=200_000))
    group.apply(GroupLimits(quota=60_000))
    assert (folder / "cpu.max").read_text() == "60000 200000"
    group.apply(GroupLimits(quota=-1))
    assert (folder / "cpu.max").read_text() == "max 200000"


def test_v2_leaves_alone_what_is_not_named(domain: Path) -> None:
    group, folder = group_in(domain)
    before = {path.name: path.read_text() for path in folder.iterdir()}
    group.apply(GroupLimits())
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_v2_usage_is_what_the_kernel_counts(domain: Path) -> None:
    usage = group_in(domain)[0].usage()
    assert (usage.cpu, usage.periods, usage.throttled_periods, usage.throttled, usage.pids) == (42, 7, 3, 9, 5)


def test_v2_adds_threads_by_their_ids(domain: Path) -> None:
    group, folder = group_in(domain)
    group.add_thread(1234)
    assert (folder / "cgroup.threads").read_text() == "1234"


@pytest.mark.parametrize(("shares", "weight"), [(0, 1), (2, 1), (1024, 39), (262144, 10000), (10**9, 10000)])
def test_shares_become_weights(shares: int, weight: int) -> None:
    assert weight_of(shares) == weight


@pytest.mark.parametrize(
    ("limits", "controllers"),
    [
        (GroupLimits(), set()),
        (GroupLimits(shares=2), {"cpu"}),
        (GroupLimits(burst=0), {"cpu"}),
        (GroupLimits(cpus="0", pids=1), {"cpuset", "pids"}),
    ],
)
def test_limits_name_the_controllers_they_need(limits: GroupLimits, controllers: set[str]) -> None:
    assert limits.controllers() == controllers


# ---- telling hosts apart ----


def process(folder: Path, mountinfo: str, cgroup: str) -> Path:
    proc = folder / "proc"
    proc.mkdir()
    (proc / "mountinfo").write_text(mountinfo)
    (proc / "cgroup").write_text(cgroup)
    return proc


def test_a_host_with_version_2_alone_is_told_by_its_delegated_group(tmp_path: Path) -> None:
    domain = tmp_path / "fs" / "system.slice" / "w.service"
    domain.mkdir(parents=True)
    filled(domain)
    proc = process(tmp_path, f"30 1 0:26 / {tmp_path}/fs rw - cgroup2 cgroup2 rw\n", "0::/system.slice/w.service\n")
    host = detect(proc)
    assert host.version is Version.V2
    assert host.domain == domain
    assert dict(host.missing) == {}


def test_a_controller_that_is_not_delegated_is_named(tmp_path: Path) -> None:
    domain = tmp_path / "fs"
    domain.mkdir()
    filled(domain)
    (domain / "cgroup.controllers").write_text("memory pids\n")
    host = detect(process(tmp_path, f"30 1 0:26 / {domain} rw - cgroup2 cgroup2 rw\n", "0::/\n"))
    assert host.version is Version.V2
    assert set(host.missing) == {"cpu", "cpuset"}
    assert "Delegate=yes" in host.describe()


def test_a_hybrid_host_is_version_1_where_its_cpu_controller_is(tmp_path: Path) -> None:
    lines = [
        f"31 1 0:27 / {tmp_path}/cpu rw - cgroup cgroup rw,cpu,cpuacct",
        f"32 1 0:28 / {tmp_path}/pids rw - cgroup cgroup rw,pids",
        f"33 1 0:29 / {tmp_path}/unified rw - cgroup2 cgroup2 rw",
    ]
    for name in ("cpu", "pids"):
        (tmp_path / name).mkdir()
    host = detect(process(tmp_path, "\n".join(lines) + "\n", "2:cpu,cpuacct:/\n0::/\n"))
    assert host.version is Version.V1
    assert host.mounts["cpuacct"] == tmp_path / "cpu"
    assert set(host.missing) == {"cpuset"}


def test_a_host_without_control_groups_says_so(tmp_path: Path) -> None:
    host = detect(process(tmp_path, "21 1 8:1 / / rw - ext4 /dev/vda rw\n", "0::/\n"))
    assert host.version is Version.NONE
    with pytest.raises(Unsupported, match="no control groups; no cpu controller: no cgroup file system is mounted"):
        host.root("any")


# ---- version 1, the kernel's own ----


@pytest.fixture
def group() -> Iterator[Group]:
    """A group on this host, removed afterwards."""
    host = detect()
    if host.version is not Version.V1 or os.geteuid() != 0:
        pytest.skip(f"NOT RUN: needs root and cgroup v1; this host has {host.describe()}")
    made = host.root(f"wasm-sandboxer-test-{os.getpid()}-{next(_NUMBERS)}")
    yield made
    made.remove()


def burn(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_v1_limits_are_the_kernels(group: Group) -> None:
    child = group.child("c")
    try:
        child.apply(GroupLimits(shares=512, quota=20_000, period=50_000, pids=100, cpus="0"))
        assert child.usage().pids == 0
        child.apply(GroupLimits(quota=40_000))
        child.apply(GroupLimits(quota=-1, pids=-1))
    finally:
        child.remove()


def test_v1_refuses_a_quota_beyond_its_parents(group: Group) -> None:
    group.apply(GroupLimits(quota=20_000, period=100_000))
    child = group.child("c")
    try:
        with pytest.raises(OSError, match="Invalid argument"):
            child.apply(GroupLimits(quota=50_000, period=100_000))
    finally:
        child.remove()


def test_v1_counts_and_bounds_one_thread_alone(group: Group) -> None:
    """The thread gets less than it asks for; this one, outside, is not in the group's count."""
    child = group.child("c")
    child.apply(GroupLimits(quota=10_000, period=100_000))

    def work() -> None:
        child.add_thread(threading.get_native_id())
        subprocess.run(["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"], check=True)
        burn(0.3)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    usage = child.usage()
    assert usage.throttled_periods > 0
    assert 0 < usage.cpu < 1_000_000
    for _ in range(100):
        try:
            child.remove()
            break
        except OSError:  # the thread is still leaving
            time.sleep(0.01)
    else:
        pytest.fail("the group stays busy")
