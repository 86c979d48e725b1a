"""Control groups: version 2 on plain files, telling hosts apart, and the kernel's own of whichever version it has."""

import itertools
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.proc import links
from wasm_sandboxer.errors import Unsupported
from wasm_sandboxer.linux.cgroup.charges import v1_memory, v2_memory
from wasm_sandboxer.linux.cgroup.files import Budget, Counters
from wasm_sandboxer.linux.cgroup.host import Host, Version, detect
from wasm_sandboxer.linux.cgroup.protocol import Group, GroupLimits, MemoryUsage, Usage, past
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
T = TypeVar("T")


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


def filled_folder(folder: Path) -> None:
    """A new folder with the files of a version 2 group."""
    folder.mkdir(parents=True)
    filled(folder)


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


def test_v2_usage_that_was_kept_is_told_whatever_becomes_of_the_group(domain: Path) -> None:
    group, folder = group_in(domain)
    before = group.usage()
    group.keep_usage()
    for name in ("cpu.stat", "pids.current"):
        (folder / name).unlink()
    assert group.usage() == replace(before, pids=0)
    group.keep_usage()
    assert group.usage().cpu == 42


def test_v2_adds_threads_by_their_ids(domain: Path) -> None:
    group, folder = group_in(domain)
    group.add_thread(1234)
    assert (folder / "cgroup.threads").read_text() == "1234"


@pytest.mark.parametrize(("shares", "weight"), [(0, 1), (2, 1), (1024, 39), (262144, 10000), (10**9, 10000)])
def test_shares_become_weights(shares: int, weight: int) -> None:
    assert weight_of(shares) == weight


def test_limits_of_controllers_that_are_missing_are_left_out() -> None:
    limits = GroupLimits(shares=2, quota=1000, period=1000, burst=0, cpus="0", mems="0", pids=1)
    assert limits.without(["cpu"]) == GroupLimits(cpus="0", mems="0", pids=1)
    assert limits.without(["pids", "cpuset"]) == GroupLimits(shares=2, quota=1000, period=1000, burst=0)
    assert limits.without([]) == limits


def test_counters_are_kept_open_until_their_group_goes(tmp_path: Path) -> None:
    """Whoever asks while it goes would keep them open for good."""
    (tmp_path / "pids.current").write_text("5\n")
    path, counters = str(tmp_path / "pids.current"), Counters(Budget())

    def opened() -> list[str]:
        return [each for each in links(os.getpid()).values() if each == path]

    assert counters.read(path) == b"5\n"
    assert opened() == [path]
    counters.close()
    assert counters.read(path) == b"5\n"
    assert opened() == []
    counters.close()


# ---- memory that the kernel charges, of groups of processes ----


def test_what_has_ended_has_no_memory_but_its_peak() -> None:
    memory = MemoryUsage(used=9, resident=8, reclaimable=7, faults=6, peak=10, limit=20, refused=2, kills=1)
    usage = Usage(cpu=5, user=4, periods=3, pids=2, memory=memory)
    ended = MemoryUsage(faults=6, peak=10, limit=20, refused=2, kills=1)
    assert past(usage) == Usage(cpu=5, user=4, periods=3, memory=ended)


def test_v2_memory_is_read_as_the_kernel_tells_it(tmp_path: Path) -> None:
    files = {
        "memory.stat": "anon 4096\nfile 900\ninactive_file 800\npgfault 12\npgmajfault 3\n",
        "memory.events": "low 0\nhigh 0\nmax 6\noom 2\noom_kill 1\noom_group_kill 0\n",
        "memory.current": "5000\n",
        "memory.max": "max\n",
    }
    found = v2_memory(lambda name: _content(files, name))
    assert found == MemoryUsage(
        used=5000, resident=4096, reclaimable=800, faults=12, major_faults=3, peak=5000, refused=6, kills=1
    )
    files |= {"memory.max": "8192\n", "memory.peak": "7000\n"}
    found = v2_memory(lambda name: _content(files, name))
    assert (found.limit, found.peak) == (8192, 7000)


def _content(files: dict[str, str], name: str) -> bytes:
    if name not in files:
        raise FileNotFoundError(name)
    return files[name].encode()


def test_v1_memory_is_what_a_process_has() -> None:
    top = Path("/sys/fs/cgroup/memory")
    if not (top / "memory.usage_in_bytes").exists() or os.geteuid() != 0:
        pytest.skip("NOT RUN: needs root and version 1's memory controller")
    group = top / f"wasm-sandboxer-test-{os.getpid()}-{next(_NUMBERS)}"
    group.mkdir()
    hog = "x = bytearray(32 << 20); print(flush=True); input()"
    process = subprocess.Popen(["python3", "-c", f"input(); {hog}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        (group / "memory.limit_in_bytes").write_text(str(128 << 20))
        (group / "cgroup.procs").write_text(str(process.pid))
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        found = v1_memory(lambda name: (group / name).read_bytes())
        assert 32 << 20 <= found.resident <= found.used <= found.peak <= 128 << 20
        assert (found.limit, found.kills) == (128 << 20, 0)
        assert found.faults > 0
    finally:
        process.kill()
        process.communicate()
        for _ in range(100):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.02)


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
    with pytest.raises(Unsupported, match="no cpu, cpuset, pids controller: no cgroup file system is mounted"):
        host.root("any")


def test_a_group_is_found_where_only_a_part_of_the_hierarchy_is_mounted(tmp_path: Path) -> None:
    """As in a container without a cgroup namespace: its own group is the root of what it sees."""
    point = tmp_path / "fs"
    filled_folder(point / "inner")
    mountinfo = f"30 1 0:26 /docker/abc {point} rw - cgroup2 cgroup2 rw\n"
    host = detect(process(tmp_path, mountinfo, "0::/docker/abc/inner\n"))
    assert host.domain == point / "inner"


def test_a_group_outside_of_what_is_mounted_is_its_root(tmp_path: Path) -> None:
    filled_folder(tmp_path / "fs")
    mountinfo = f"30 1 0:26 /docker/abc {tmp_path}/fs rw - cgroup2 cgroup2 rw\n"
    assert detect(process(tmp_path, mountinfo, "0::/elsewhere\n")).domain == tmp_path / "fs"


def test_version_1_knows_the_group_that_threads_come_home_to(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    mountinfo = f"31 1 0:27 / {tmp_path}/cpu rw - cgroup cgroup rw,cpu\n"
    host = detect(process(tmp_path, mountinfo, "2:cpu:/system.slice/w.service\n"))
    assert host.homes == {"cpu": tmp_path / "cpu/system.slice/w.service"}


# ---- the kernel's own ----


@pytest.fixture
def host() -> Host:
    found = detect()
    if found.missing or os.geteuid() != 0:
        pytest.skip(f"NOT RUN: needs root and control groups; this host has {found.describe()}")
    return found


@pytest.fixture
def group(host: Host) -> Iterator[Group]:
    """A group on this host, removed afterwards."""
    made = host.root(f"wasm-sandboxer-test-{os.getpid()}-{next(_NUMBERS)}")
    yield made
    made.remove()


@pytest.fixture
def child(group: Group) -> Iterator[Group]:
    """A group in it."""
    made = group.child("c")
    yield made
    remove(made)


def remove(group: Group) -> None:
    """Remove a group whose threads are still leaving."""
    for _ in range(500):
        try:
            group.remove()
        except OSError:
            time.sleep(0.01)
        else:
            return
    pytest.fail("the group stays busy")


def in_group(group: Group, work: Callable[[], T]) -> T:
    """What `work` gives when it runs in the group; errors are the caller's."""
    with ThreadPoolExecutor(1) as pool:

        def enter() -> T:
            group.add_thread(threading.get_native_id())
            return work()

        return pool.submit(enter).result()


def burn(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_limits_are_the_kernels(child: Group) -> None:
    child.apply(GroupLimits(shares=512, quota=20_000, period=50_000, burst=0, pids=100, cpus="0", mems="0"))
    assert child.usage().pids == 0
    child.apply(GroupLimits(quota=40_000))
    child.apply(GroupLimits(quota=-1, pids=-1))


@pytest.mark.parametrize(
    "limits", [GroupLimits(period=50_000), GroupLimits(quota=0, period=50_000), GroupLimits(quota=-1, period=50_000)]
)
def test_a_period_without_a_quota_is_kept_for_a_quota_to_come(child: Group, limits: GroupLimits) -> None:
    child.apply(limits)
    child.apply(limits)
    child.apply(GroupLimits(quota=5_000))
    in_group(child, lambda: burn(0.5))
    assert 0 < child.usage().throttled_periods <= child.usage().periods
    assert child.usage().cpu < 150_000


def test_what_the_kernel_refuses_is_an_error(child: Group) -> None:
    with pytest.raises(OSError, match=r"Invalid argument|Numerical result out of range"):
        child.apply(GroupLimits(cpus="700-800"))


def test_version_1_refuses_a_quota_beyond_its_parents(host: Host, group: Group, child: Group) -> None:
    group.apply(GroupLimits(quota=20_000, period=100_000))
    if host.version is Version.V2:
        child.apply(GroupLimits(quota=50_000, period=100_000))  # where it only has no effect
        return
    with pytest.raises(OSError, match="Invalid argument"):
        child.apply(GroupLimits(quota=50_000, period=100_000))


def test_one_thread_alone_is_bounded_and_counted(child: Group) -> None:
    """It gets less than it asks for; this thread, outside, is not in the group's count."""
    child.apply(GroupLimits(quota=10_000, period=100_000))

    def work() -> None:
        burn(1.0)

    in_group(child, work)
    usage = child.usage()
    assert usage.throttled_periods > 0
    assert usage.throttled > 0
    assert 0 < usage.cpu < 250_000


def test_a_process_that_a_thread_makes_is_bounded_with_it(child: Group) -> None:
    in_group(
        child, lambda: subprocess.run(["sh", "-c", "i=0; while [ $i -lt 9999 ]; do i=$((i+1)); done"], check=True)
    )
    assert child.usage().cpu > 0


def test_a_thread_comes_and_goes(host: Host, child: Group) -> None:
    def work() -> list[int]:
        inside = child.threads()
        host.home().add_thread(threading.get_native_id())
        return inside

    assert len(in_group(child, work)) == 1
    assert child.threads() == []


def test_no_more_threads_are_born_than_may_be(child: Group) -> None:
    child.apply(GroupLimits(pids=1))

    def work() -> None:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=int).start()

    in_group(child, work)


@pytest.mark.parametrize("late", [False, True], ids=["before", "while it runs"])
def test_a_thread_runs_where_the_groups_around_it_may(group: Group, child: Group, late: bool) -> None:
    last = max(os.sched_getaffinity(0))
    limits = GroupLimits(cpus=str(last))
    if not late:
        group.apply(limits)

    def work() -> set[int]:
        if late:
            child.apply(limits)
        return os.sched_getaffinity(threading.get_native_id())

    assert in_group(child, work) == {last}


def test_what_was_used_in_a_group_is_told_when_it_is_gone(group: Group) -> None:
    child = group.child("c")
    in_group(child, lambda: burn(0.05))
    remove(child.child("d"))
    while child.threads():  # it is leaving
        time.sleep(0.001)
    before = child.usage()
    child.keep_usage()
    remove(child)
    assert group.names() == set()
    assert child.usage() == replace(before, pids=0)
    assert before.cpu > 0


def test_groups_inside_are_named(group: Group, child: Group) -> None:
    assert group.names() == {"c"}
    inner = child.child("d")
    assert child.names() == {"d"}
    inner.remove()
    inner.remove()  # which is well
    assert child.names() == set()
