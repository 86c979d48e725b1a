"""Guests in processes of their own, in the daemon: which guests those are, and what encloses them. No containerd."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import Bundle, bind
from tests.support.daemon import Daemon
from tests.support.proc import gone, links
from tests.support.rpc import Client
from tests.support.waiting import stands_still
from wasm_sandboxer.linux.cgroup.host import find_hierarchies
from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode

ISOLATION = "wasm-sandboxer.io/isolation"


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def groups_of(pid: int) -> dict[str, str]:
    """A process's control groups by their controllers."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {controller: path for _, controller, path in (line.split(":", 2) for line in lines)}


def folders_of(path: str) -> list[Path]:
    """The folders of a control group, in every hierarchy."""
    found = find_hierarchies()
    assert found is not None
    roots = [found.unified] if found.unified is not None else list(found.v1.values())
    return [root / path for root in roots if root is not None and (root / path).exists()]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def start(ttrpc: Client, bundle: Callable[..., Bundle], ident: str) -> Iterator[Callable[..., tuple[int, Bundle]]]:
    """Starts a container of a module with settings of its spec: its pid, and the bundle. It is killed afterwards."""
    started = []

    def begin(module: str, *arguments: str, **settings: Any) -> tuple[int, Bundle]:
        made = bundle(module, *arguments, **settings)
        ttrpc.Create(id=ident, bundle=str(made.folder), **made.streams())
        started.append(ident)
        return ttrpc.Start(id=ident).pid, made

    yield begin
    for each in started:
        with suppress(RpcError):  # it has ended
            ttrpc.Kill(id=each, signal=9, all=True)
        ttrpc.Wait(id=each)
        ttrpc.Delete(id=each)


# ---- which


def test_a_component_runs_in_a_process_and_a_core_module_on_a_thread(
    start: Callable[..., tuple[int, Bundle]], daemon: Daemon
) -> None:
    pid, _ = start("sleep-component")
    assert pid != daemon.pid
    assert status(pid)["Tgid"] == str(pid)
    assert int(status(pid)["PPid"]) != daemon.pid  # but the fork server's


def test_a_core_module_runs_on_a_thread(start: Callable[..., tuple[int, Bundle]], daemon: Daemon) -> None:
    pid, _ = start("sleep", "forever")
    assert status(pid)["Tgid"] == str(daemon.pid)


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_an_annotation_forces_either(
    start: Callable[..., tuple[int, Bundle]], daemon: Daemon, isolation: str
) -> None:
    pid, _ = start("sleep", "forever", annotations={ISOLATION: isolation})
    owner = {"thread": daemon.pid, "process": pid}[isolation]
    assert status(pid)["Tgid"] == str(owner)


def test_a_component_runs_on_a_thread_only_where_the_configuration_lets_it(
    own_daemon: Callable[..., Daemon],
    bundle: Callable[..., Bundle],
    ttrpc: Client,
    ident: str,
    refused: Callable[..., str],
) -> None:
    made = bundle("hello-component", annotations={ISOLATION: "thread"})
    message = refused(StatusCode.INVALID_ARGUMENT, ttrpc.Create, id=ident, bundle=str(made.folder))
    assert "(component_threads)" in message
    with own_daemon(settings="component_threads = true") as daemon, Client(daemon.task_listen) as task:
        task.Create(id=ident, bundle=str(made.folder), **made.streams())
        task.Start(id=ident)
        assert task.Wait(id=ident).exit_status == 0
        assert made.read() == b"Hello from a component!\nPWD=/\nHOME=/\n"
        assert f"{ident} ended" in daemon.log
        task.Delete(id=ident)


def test_an_annotation_that_is_none_is_refused(
    ttrpc: Client, bundle: Callable[..., Bundle], ident: str, refused: Callable[..., str]
) -> None:
    made = bundle("hello", annotations={ISOLATION: "maybe"})
    message = refused(StatusCode.INVALID_ARGUMENT, ttrpc.Create, id=ident, bundle=str(made.folder))
    assert message == f"{ISOLATION} must be one of auto, thread, process, not 'maybe'"


def test_the_configuration_forces_either(
    own_daemon: Callable[..., Daemon], bundle: Callable[..., Bundle], ident: str
) -> None:
    with (
        own_daemon(settings='shutdown_timeout = 2.0\nisolation = "process"') as daemon,
        Client(daemon.task_listen) as task,
    ):
        made = bundle("sleep", "forever")
        task.Create(id=ident, bundle=str(made.folder))
        pid = task.Start(id=ident).pid
        assert status(pid)["Tgid"] == str(pid)
        assert [each.pid for each in task.Pids(id=ident).processes] == [pid]
        task.Kill(id=ident, signal=9)
        assert task.Wait(id=ident).exit_status == 137
        task.Delete(id=ident)
        made.configure("/sleep.wasm", annotations={ISOLATION: "thread"})  # what the node insists on stays
        with pytest.raises(RpcError, match="configuration has processes for all"):
            task.Create(id=ident, bundle=str(made.folder))


# ---- what it is like


def test_a_components_arguments_variables_streams_and_exit(
    start: Callable[..., tuple[int, Bundle]], ttrpc: Client, ident: str
) -> None:
    _, made = start("hello-component", "one", env={"K": "V"})
    assert made.read() == b"Hello from a component!\none\nK=V\nPWD=/\nHOME=/\n"
    assert ttrpc.Wait(id=ident).exit_status == 0


def test_a_process_is_killed_while_it_waits_in_native_code(
    start: Callable[..., tuple[int, Bundle]], ttrpc: Client, ident: str
) -> None:
    pid, made = start("sleep-component")
    time.sleep(0.1)
    ttrpc.Kill(id=ident, signal=15)
    assert ttrpc.Wait(id=ident).exit_status == 143
    assert gone(pid)
    assert made.read() == b""  # its output has come to its end


def test_execs_run_as_their_own_modules_do(
    start: Callable[..., tuple[int, Bundle]], ttrpc: Client, ident: str, daemon: Daemon
) -> None:
    pid, made = start("sleep-component")
    made.add("hello", "hello-component", "sleep")
    for number, (module, said) in enumerate(
        [("hello", b"Hello from WebAssembly!\n"), ("hello-component", b"Hello from a component!\n")]
    ):
        spec = {"args": [f"/{module}.wasm"], "cwd": "/"}
        name = f"exec{number}"
        ttrpc.Exec(id=ident, exec_id=name, spec=process(spec), **made.streams(name))
        ttrpc.Start(id=ident, exec_id=name)
        assert made.read(f"{name}stdout").startswith(said)
        assert ttrpc.Wait(id=ident, exec_id=name).exit_status == 0
        ttrpc.Delete(id=ident, exec_id=name)
    assert not gone(pid)


def process(spec: dict[str, Any]) -> Any:
    from google.protobuf.any_pb2 import Any as Message

    from wasm_sandboxer.api import typeurl

    return Message(type_url=typeurl.PROCESS, value=json.dumps(spec).encode())


def test_the_death_of_the_daemon_is_the_end_of_its_processes(
    own_daemon: Callable[..., Daemon], bundle: Callable[..., Bundle], ident: str
) -> None:
    path = f"/wst-{ident}-dead"
    with own_daemon() as daemon, Client(daemon.task_listen) as task:
        made = bundle("sleep-component", linux={"cgroupsPath": path})
        task.Create(id=ident, bundle=str(made.folder))
        pid = task.Start(id=ident).pid
        assert folders_of(path[1:])
        daemon.kill()
        until(lambda: gone(pid))
        daemon.start()
        assert folders_of(path[1:]) == []  # and its successor has tidied up
        with Client(daemon.task_listen) as again:
            assert again.Wait(id=ident).exit_status == 255
            again.Delete(id=ident)


def test_after_its_death_no_group_is_made_for_containers_that_had_none(
    own_daemon: Callable[..., Daemon], bundle: Callable[..., Bundle], ident: str
) -> None:
    with own_daemon() as daemon, Client(daemon.task_listen) as task:
        made = bundle("sleep", "forever", linux={"cgroupsPath": f"/wst-{ident}/pod/c"})
        task.Create(id=ident, bundle=str(made.folder))
        task.Start(id=ident)
        daemon.kill()
        daemon.start()
        assert folders_of(f"wst-{ident}") == []
        with Client(daemon.task_listen) as again:
            assert again.Delete(id=ident).exit_status == 255


# ---- what it sees and may do


def test_a_process_sees_its_containers_root_and_nothing_else(
    start: Callable[..., tuple[int, Bundle]], tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "given").write_text("from outside")
    pid, _ = start("sleep-component", mounts=[bind(volume, "/data", "ro")])
    root = Path(f"/proc/{pid}/root")
    assert sorted(path.name for path in root.iterdir()) == ["data", "sleep-component.wasm"]
    assert (root / "data/given").read_text() == "from outside"
    points = [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    assert points == ["/", "/data"]
    with pytest.raises(OSError, match="Read-only file system"):
        (root / "data/new").write_text("no")


def test_a_process_has_volumes_by_their_places_also_behind_links(
    start: Callable[..., tuple[int, Bundle]], tmp_path: Path, bundle: Callable[..., Bundle], ttrpc: Client, ident: str
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("found")
    made = bundle(
        "cat", "/data/file", mounts=[bind(volume, "/data")], annotations={ISOLATION: "process"}, name="linked"
    )
    (made.root / "data").symlink_to("/elsewhere")
    ttrpc.Create(id=ident, bundle=str(made.folder), **made.streams())
    ttrpc.Start(id=ident)
    assert made.read() == b"found"
    assert ttrpc.Wait(id=ident).exit_status == 0
    ttrpc.Delete(id=ident)


def test_a_process_is_the_user_that_its_spec_names_without_any_privilege(
    start: Callable[..., tuple[int, Bundle]],
) -> None:
    user = {"uid": 1234, "gid": 2345, "additionalGids": [7, 8], "umask": 0o27}
    pid, _ = start("sleep-component", process={"user": user})
    found = status(pid)
    assert found["Uid"].split() == ["1234"] * 4
    assert found["Gid"].split() == ["2345"] * 4
    assert found["Groups"].split() == ["7", "8"]
    assert found["Umask"] == "0027"
    assert {int(found[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert found["NoNewPrivs"] == "1"


def test_a_process_keeps_those_capabilities_that_a_guest_can_use(start: Callable[..., tuple[int, Bundle]]) -> None:
    names = ["CAP_CHOWN", "CAP_NET_BIND_SERVICE", "CAP_SYS_ADMIN", "CAP_KILL"]
    pid, _ = start(
        "sleep-component", process={"capabilities": {"bounding": names, "effective": names, "permitted": names}}
    )
    found = status(pid)
    assert {int(found[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Bnd")} == {1 << 0 | 1 << 10}
    assert found["NoNewPrivs"] == "1"


def test_a_process_has_its_specs_limits(start: Callable[..., tuple[int, Bundle]]) -> None:
    limits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 1, "hard": 1}]
    pid, _ = start("sleep-component", process={"rlimits": limits, "oomScoreAdj": 321})
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    assert next(line.split()[3:5] for line in lines if line.startswith("Max open files")) == ["100", "200"]
    assert next(line.split()[4:6] for line in lines if line.startswith("Max core file size")) == ["0", "0"]
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "321"


def test_a_process_has_its_specs_filter_of_system_calls(
    start: Callable[..., tuple[int, Bundle]], ttrpc: Client, ident: str
) -> None:
    refusing = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
    }
    pid, _ = start("sleep-component", linux={"seccomp": refusing})
    assert (status(pid)["Seccomp"], status(pid)["NoNewPrivs"]) == ("2", "1")


def test_a_filter_that_makes_no_sense_is_refused(
    ttrpc: Client, bundle: Callable[..., Bundle], ident: str, refused: Callable[..., str]
) -> None:
    made = bundle("sleep-component", linux={"seccomp": {"defaultAction": "SCMP_ACT_NONSENSE"}})
    message = refused(StatusCode.INVALID_ARGUMENT, ttrpc.Create, id=ident, bundle=str(made.folder))
    assert "linux.seccomp has the action 'SCMP_ACT_NONSENSE'" in message


def test_a_process_has_no_descriptor_but_its_own(start: Callable[..., tuple[int, Bundle]]) -> None:
    pid, _ = start("sleep-component")
    allowed = ("/dev/null", "pipe:", "fifo", "socket:", "anon_inode:")
    found = set(links(pid).values())
    strange = [each for each in found if not (each.startswith(allowed) or "/std" in each or each.endswith(".cwasm"))]
    assert set(strange) <= {str(Path(f"/proc/{pid}/root").readlink())}


# ---- control groups


def test_a_process_lives_in_the_group_that_its_spec_names(
    start: Callable[..., tuple[int, Bundle]], ttrpc: Client, ident: str
) -> None:
    path = f"/wst-{ident}/inner"
    pid, _ = start(
        "sleep-component",
        linux={"cgroupsPath": path, "resources": {"memory": {"limit": 64 << 20}, "cpu": {"shares": 512}}},
    )
    assert set(groups_of(pid).values()) >= {path}
    assert all(
        path == found for name, found in groups_of(pid).items() if name in ("cpu", "memory", "pids", "freezer")
    )
    assert groups_of(os.getpid()) != groups_of(pid)
    folders = folders_of(path[1:])
    assert folders
    limits = [
        (folder / name).read_text()
        for folder in folders
        for name in ("memory.limit_in_bytes", "memory.max")
        if (folder / name).exists()
    ]
    assert [int(limit) for limit in limits] == [64 << 20]
    ttrpc.Kill(id=ident, signal=9)
    ttrpc.Wait(id=ident)


def test_a_group_goes_with_its_container_and_what_was_made_around_it(
    ttrpc: Client, bundle: Callable[..., Bundle], ident: str
) -> None:
    path = f"wst-{ident}/a/b"
    made = bundle("hello-component", linux={"cgroupsPath": f"/{path}"})
    ttrpc.Create(id=ident, bundle=str(made.folder))
    assert folders_of(path)
    ttrpc.Start(id=ident)
    ttrpc.Wait(id=ident)
    ttrpc.Delete(id=ident)
    assert folders_of(f"wst-{ident}") == []


def test_a_group_of_systemds_naming(start: Callable[..., tuple[int, Bundle]], ident: str) -> None:
    pid, _ = start("sleep-component", linux={"cgroupsPath": f"wst-{ident}.slice:cri-containerd:{ident}"})
    assert f"/wst.slice/wst-{ident}.slice/cri-containerd-{ident}.scope" in groups_of(pid).values()


def test_a_group_that_others_are_in_is_refused(
    ttrpc: Client,
    bundle: Callable[..., Bundle],
    ident: str,
    refused: Callable[..., str],
    start: Callable[..., tuple[int, Bundle]],
) -> None:
    pid, _ = start("sleep-component", linux={"cgroupsPath": f"/wst-{ident}"})
    made = bundle("hello-component", linux={"cgroupsPath": f"/wst-{ident}"}, name="second")
    message = refused(StatusCode.FAILED_PRECONDITION, ttrpc.Create, id=f"{ident}-2", bundle=str(made.folder))
    assert message == f"the control group /wst-{ident} of container {ident}-2 has processes in it already"
    assert not gone(pid)


@pytest.mark.parametrize("path", ["/", "/../x", "a/../../b"])
def test_a_group_outside_of_all_groups_is_refused(
    ttrpc: Client, bundle: Callable[..., Bundle], ident: str, refused: Callable[..., str], path: str
) -> None:
    made = bundle("hello-component", linux={"cgroupsPath": path})
    message = refused(StatusCode.INVALID_ARGUMENT, ttrpc.Create, id=ident, bundle=str(made.folder))
    assert message == f"config.json.linux.cgroupsPath is {path!r}, which is no group's path"


def test_a_process_without_a_path_lives_in_its_sandboxs_group(
    start: Callable[..., tuple[int, Bundle]], ident: str, daemon: Daemon
) -> None:
    pid, _ = start("sleep-component")
    guest, daemons = groups_of(pid), groups_of(daemon.pid)
    controller = "cpu" if "cpu" in guest else ""  # version 2 has one group for all
    assert guest[controller] != daemons[controller]
    assert guest[controller].endswith(f"--{ident}")


def test_a_paused_process_stands_still_and_dies_when_it_is_told(
    start: Callable[..., tuple[int, Bundle]], ttrpc: Client, ident: str
) -> None:
    pid, _ = start("spin", annotations={ISOLATION: "process"}, linux={"cgroupsPath": f"/wst-{ident}"})

    ttrpc.Pause(id=ident)
    before = stands_still(lambda: used(pid))
    ttrpc.Resume(id=ident)
    until(lambda: used(pid) - before > 3)
    ttrpc.Pause(id=ident)
    ttrpc.Kill(id=ident, signal=9)
    assert ttrpc.Wait(id=ident).exit_status == 137


def used(pid: int) -> int:
    """Ticks of CPU of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_processes_of_a_container_are_paused_and_ended_each_by_itself(
    start: Callable[..., tuple[int, Bundle]], ttrpc: Client, ident: str
) -> None:
    """Though they share a group of the kernel's."""
    pid, made = start("spin", annotations={ISOLATION: "process"}, linux={"cgroupsPath": f"/wst-{ident}"})
    made.add("sleep")
    sleep = process({"args": ["/sleep.wasm", "forever"], "cwd": "/"})
    for name in ("one", "two"):
        ttrpc.Exec(id=ident, exec_id=name, spec=sleep)
        ttrpc.Start(id=ident, exec_id=name)
    ttrpc.Kill(id=ident, exec_id="one", signal=signal.SIGSTOP)
    before = used(pid)
    until(lambda: used(pid) - before > 3)  # only the other is held
    ttrpc.Pause(id=ident)
    ttrpc.Kill(id=ident, exec_id="one", signal=signal.SIGKILL)
    assert ttrpc.Wait(id=ident, exec_id="one").exit_status == 137
    stands_still(lambda: used(pid))  # the container is still held
    ttrpc.Kill(id=ident, signal=signal.SIGTERM)
    assert ttrpc.Wait(id=ident).exit_status == 143
    assert ttrpc.Wait(id=ident, exec_id="two").exit_status == 137


def test_a_process_that_is_paused_while_it_is_killed_ends(
    ttrpc: Client, bundle: Callable[..., Bundle], ident: str
) -> None:
    for number in range(12):
        name = f"{ident}-{number}"
        linux = {"cgroupsPath": f"/wst-{name}"}
        made = bundle("spin", name=name, annotations={ISOLATION: "process"}, linux=linux)
        ttrpc.Create(id=name, bundle=str(made.folder))
        ttrpc.Start(id=name)
        calls = [ttrpc.begin("Kill", id=name, signal=signal.SIGTERM), ttrpc.begin("Pause", id=name)]
        for call in calls:
            call.exception(20)
        assert ttrpc.Wait(id=name).exit_status == 143
        ttrpc.Delete(id=name)


# For memhog with 39 MiB: its linear memory and tables, of 39.3 or so, may have what the group may, but its process
# needs some too.
JUST_TOO_LITTLE = (39 << 20) + (512 << 10)
OF_A_SLEEPER = 320 << 10  # linear memory and tables of one more, which hardly touches them


def test_a_process_that_the_kernel_kills_for_memory_is_out_of_it(
    start: Callable[..., tuple[int, Bundle]], ttrpc: Client, ident: str, daemon: Daemon
) -> None:
    linux = {"cgroupsPath": f"/wst-{ident}", "resources": {"memory": {"limit": JUST_TOO_LITTLE}}}
    start("memhog", "39", annotations={ISOLATION: "process"}, linux=linux)
    assert ttrpc.Wait(id=ident).exit_status == 137
    until(lambda: "ended: out-of-memory with code 137" in daemon.log)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (0, 137)], ids=["stopped", "killed-by-others"])
def test_a_kill_for_memory_is_that_process_end_and_no_others(
    start: Callable[..., tuple[int, Bundle]], ttrpc: Client, ident: str, daemon: Daemon, number: int, code: int
) -> None:
    linux = {"cgroupsPath": f"/wst-{ident}", "resources": {"memory": {"limit": JUST_TOO_LITTLE + OF_A_SLEEPER}}}
    pid, made = start("sleep", "forever", annotations={ISOLATION: "process"}, linux=linux)
    made.add("memhog")
    for name in ("one", "two"):
        ttrpc.Exec(id=ident, exec_id=name, spec=process({"args": ["/memhog.wasm", "39"], "cwd": "/"}))
        ttrpc.Start(id=ident, exec_id=name)
        assert ttrpc.Wait(id=ident, exec_id=name).exit_status == 137
    until(lambda: daemon.log.count(f"container {ident} exec two ended: out-of-memory with code 137"))
    if number:
        ttrpc.Kill(id=ident, signal=number)
    else:
        os.kill(pid, signal.SIGKILL)
    assert ttrpc.Wait(id=ident).exit_status == code
    until(lambda: f"container {ident} ended: stopped with code {code}" in daemon.log)


# ---- network


def test_a_process_outside_of_a_pod_has_no_network(start: Callable[..., tuple[int, Bundle]], daemon: Daemon) -> None:
    pid, _ = start("sleep-component")
    assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink(f"/proc/{daemon.pid}/ns/net")  # noqa: PTH115
    interfaces = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]


def test_a_process_has_the_network_namespace_that_its_spec_names(
    start: Callable[..., tuple[int, Bundle]], netns: Path
) -> None:
    pid, _ = start("sleep-component", linux={"namespaces": [{"type": "network", "path": str(netns)}]})
    assert os.stat(f"/proc/{pid}/ns/net").st_ino == netns.stat().st_ino  # noqa: PTH116


def test_a_process_has_the_hosts_network_where_its_spec_lists_none(
    start: Callable[..., tuple[int, Bundle]], daemon: Daemon
) -> None:
    pid, _ = start("sleep-component", linux={"namespaces": [{"type": "mount"}, {"type": "pid"}]})
    assert os.readlink(f"/proc/{pid}/ns/net") == os.readlink(f"/proc/{daemon.pid}/ns/net")  # noqa: PTH115


@pytest.mark.parametrize("module", ["sleep-component", "sleep"])
def test_an_ordinary_guests_process_runs_no_python(start: Callable[..., tuple[int, Bundle]], module: str) -> None:
    """Or it would have copied the interpreter's memory: a thousand pages and more."""
    pid, _ = start(
        module, "9", annotations={ISOLATION: "process"}, linux={"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}
    )
    faults = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])
    assert faults < 500


# ---- what it could do, had it broken out of its engine


def test_a_process_has_the_fixed_filter_beside_its_specs(start: Callable[..., tuple[int, Bundle]]) -> None:
    pid, _ = start("sleep-component", linux={"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}})
    assert status(pid)["Seccomp_filters"] == "2"


def test_a_process_cannot_write_to_its_code(start: Callable[..., tuple[int, Bundle]]) -> None:
    pid, _ = start("sleep-component")
    mapped = Path(f"/proc/{pid}/map_files").iterdir()
    codes = [path for path in mapped if os.readlink(path) == "/"]  # noqa: PTH115  # a mount of its own
    assert codes
    for path in codes:
        with pytest.raises(OSError, match="Read-only file system"):
            os.close(os.open(path, os.O_RDWR))


@pytest.mark.parametrize("module", ["sleep-component", "sleep"])
def test_a_process_shares_no_memory_but_its_pools(start: Callable[..., tuple[int, Bundle]], module: str) -> None:
    """Not even such as cannot be written to now: whoever has broken out can change that."""
    pid, _ = start(module, "9", annotations={ISOLATION: "process"})
    maps = [line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    shared = {
        name for _, rights, _, _, inode, *name in maps if rights.endswith("s") and inode != "0" for name in name
    }
    files = {name for name in shared if name.startswith("/usr/") and "(deleted)" not in name}
    assert {name.strip() for name in shared - files} == {"/memfd:pool (deleted)"}


@pytest.mark.parametrize(("module", "words"), [("files", ["ls", "/"]), ("hello-component", [])])
def test_a_limit_of_one_process_leaves_room_for_the_engines_threads(
    start: Callable[..., tuple[int, Bundle]], ttrpc: Client, ident: str, module: str, words: list[str]
) -> None:
    linux = {"cgroupsPath": f"/wst-{ident}", "resources": {"pids": {"limit": 1}}}
    start(module, *words, annotations={ISOLATION: "process"}, linux=linux)
    assert ttrpc.Wait(id=ident).exit_status == 0
