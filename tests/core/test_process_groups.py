"""What a daemon that died has left of its containers' groups of processes: version 1's and 2's, on plain files."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wasm_sandboxer.core.process_groups import ProcessGroups
from wasm_sandboxer.linux.cgroup.host import Hierarchies, find_hierarchies

CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "pids", "freezer")
KUBELETS = "/kubepods/burstable/pod7/c1"
PATHS = {
    KUBELETS: KUBELETS[1:],
    "kubepods-pod7.slice:cri-containerd:c1": "kubepods.slice/kubepods-pod7.slice/cri-containerd-c1.scope",
}


@pytest.fixture(params=["v1", "v2"])
def hierarchies(request: pytest.FixtureRequest, tmp_path: Path) -> Hierarchies:
    """Plain folders, and what version 2 asks the root for."""
    if request.param == "v2":
        for name in ("cgroup.controllers", "cgroup.subtree_control"):
            (tmp_path / name).write_text("")
        return Hierarchies(v1={}, unified=tmp_path)
    for name in CONTROLLERS:
        (tmp_path / name).mkdir()
    return Hierarchies(v1={name: tmp_path / name for name in CONTROLLERS}, unified=None)


def roots(hierarchies: Hierarchies) -> list[Path]:
    return list(hierarchies.v1.values()) if hierarchies.unified is None else [hierarchies.unified]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are made from here on, those that go again too."""
    made: list[str] = []

    def noting(mkdir: Callable[..., None]) -> Callable[..., None]:
        def make(path: object, *arguments: int, **more: int) -> None:
            made.append(str(path))
            mkdir(path, *arguments, **more)

        return make

    monkeypatch.setattr(os, "mkdir", noting(os.mkdir))
    return made


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("around", [False, True], ids=["the pod is gone", "the pod is there"])
def test_where_no_group_is_none_is_made(hierarchies: Hierarchies, calls: list[str], path: str, around: bool) -> None:
    for root in roots(hierarchies):
        if around:
            (root / PATHS[path]).parent.mkdir(parents=True)
    before = sorted(each for root in roots(hierarchies) for each in root.rglob("*"))
    calls.clear()
    ProcessGroups(hierarchies).forget(path)
    assert calls == []
    assert sorted(each for root in roots(hierarchies) for each in root.rglob("*")) == before


@pytest.mark.parametrize("path", PATHS)
def test_a_group_goes_and_those_around_it_stay(hierarchies: Hierarchies, path: str) -> None:
    for root in roots(hierarchies)[:2]:  # a daemon may die before it has made all
        (root / PATHS[path]).mkdir(parents=True)
    ProcessGroups(hierarchies).forget(path)
    for root in roots(hierarchies)[:2]:
        assert not (root / PATHS[path]).exists()
        assert (root / PATHS[path]).parent.exists()


@pytest.mark.parametrize("path", ["/", "/../x", "a.slice:b:c/d", "no:slice:x", "/a/" + "x" * 300, "/cgroup.procs/x"])
def test_what_is_no_path_is_passed_over(hierarchies: Hierarchies, path: str) -> None:
    for root in roots(hierarchies):
        (root / "cgroup.procs").write_text("")
    ProcessGroups(hierarchies).forget(path)


@pytest.fixture
def pod() -> Iterator[list[Path]]:
    """A group of this test's own in all of the kernel's hierarchies that a container's is made in."""
    found = find_hierarchies()
    if os.geteuid() != 0 or found is None:
        pytest.skip("NOT RUN: needs root and control groups")
    tops = [found.unified] if found.unified is not None else [found.v1[n] for n in CONTROLLERS if n in found.v1]
    folders = [top / f"wst-forget-{os.getpid()}" for top in tops]
    for folder in folders:
        folder.mkdir()
    yield folders
    for folder in folders:
        for inner in folder.glob("*/"):
            inner.rmdir()
        folder.rmdir()


def test_what_the_kernel_has_in_such_a_group_is_ended(pod: list[Path]) -> None:
    groups = ProcessGroups(find_hierarchies())
    groups.forget(f"/{pod[0].name}/c1")
    assert [inner for folder in pod for inner in folder.glob("*/")] == []
    for folder in pod:
        if folder.parent.name != "cpuset":  # in which a new group has no processors, and nobody can be
            (folder / "c1").mkdir()
    left = subprocess.Popen(["sleep", "60"])
    try:
        for folder in pod:
            if (folder / "c1").exists():
                (folder / "c1/cgroup.procs").write_text(str(left.pid))
        groups.forget(f"/{pod[0].name}/c1")
        assert left.wait(5) == -9
    finally:
        left.kill()
        left.wait()
    assert [inner for folder in pod for inner in folder.glob("*/")] == []
