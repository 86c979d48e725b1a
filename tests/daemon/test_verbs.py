"""The command line that asks a running daemon: ps, show, kill, stats; and what it says when there is none."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.bundles import Bundle
from tests.support.cli import PROGRAM
from tests.support.daemon import Daemon
from tests.support.rpc import Client
from wasm_sandboxer.api import admin_pb2

ANNOTATIONS = {
    "io.kubernetes.cri.container-name": "sleeper",
    "io.kubernetes.cri.sandbox-name": "pod",
    "io.kubernetes.cri.image-name": "localhost/sleep:1",
}


@pytest.fixture
def ask(daemon: Daemon) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs a verb against the daemon."""

    def run(verb: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [PROGRAM, verb, "--address", str(daemon.task_listen), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture
def sleeper(ttrpc: Client, bundle: Callable[..., Bundle], ident: str) -> Iterator[str]:
    """A container that runs until it is killed."""
    made = bundle("sleep", "forever", annotations=ANNOTATIONS, memory=64 << 20)
    ttrpc.Create(id=ident, bundle=str(made.folder))
    ttrpc.Start(id=ident)
    yield ident
    ttrpc.Kill(id=ident, signal=9) if ttrpc.State(id=ident).status != 3 else None
    ttrpc.Wait(id=ident)
    ttrpc.Delete(id=ident)


def test_ps_lists_what_runs(ask: Callable[..., "subprocess.CompletedProcess[str]"], sleeper: str) -> None:
    listed = ask("ps")
    assert listed.returncode == 0
    header, *rows = listed.stdout.splitlines()
    assert header.split() == ["CONTAINER", "POD", "NAME", "MODULE", "STATE", "CREATED", "TID"]
    row = next(row.split() for row in rows if row.startswith(sleeper))
    assert row[1:5] == ["pod", "sleeper", "/sleep.wasm", "running"]


def test_ps_lists_what_has_ended_only_when_asked(
    ask: Callable[..., "subprocess.CompletedProcess[str]"], ttrpc: Client, sleeper: str
) -> None:
    ttrpc.Kill(id=sleeper, signal=15)
    ttrpc.Wait(id=sleeper)
    assert sleeper not in ask("ps").stdout
    assert "stopped (143)" in next(row for row in ask("ps", "--all").stdout.splitlines() if row.startswith(sleeper))


def test_show_tells_all_of_a_container_by_id_or_name(
    ask: Callable[..., "subprocess.CompletedProcess[str]"], sleeper: str
) -> None:
    shown = json.loads(ask("show", "--json", sleeper).stdout)
    assert shown["id"] == sleeper
    assert shown["image"] == "localhost/sleep:1"
    assert shown["args"] == ["forever"]
    assert int(shown["memory_limit"]) == 64 << 20
    assert int(shown["memory"]) > 0
    assert shown["preopens"][0]["guest"] == "/"
    assert f"id:              {sleeper}" in ask("show", "sleeper").stdout


@pytest.mark.parametrize("verb", [("ps", "--all"), ("show",)])
def test_json_has_every_field_and_numbers_as_numbers(
    ask: Callable[..., "subprocess.CompletedProcess[str]"],
    ttrpc: Client,
    bundle: Callable[..., Bundle],
    ident: str,
    verb: tuple[str, ...],
) -> None:
    ttrpc.Create(id=ident, bundle=str(bundle().folder))
    command = (*verb, "--json", *((ident,) if verb[0] == "show" else ()))
    created = _json(ask(*command).stdout, ident)
    ttrpc.Start(id=ident)
    ttrpc.Wait(id=ident)
    ended = _json(ask(*command).stdout, ident)
    ttrpc.Delete(id=ident)
    assert set(created) == set(ended) == {field.name for field in admin_pb2.Container.DESCRIPTOR.fields}
    assert (created["started_at"], created["exited_at"], created["state"]) == (None, None, "created")
    assert ended["exited_at"].startswith("20")
    assert [ended[name] for name in ("exit_status", "memory", "memory_kills", "pod", "args")] == [0, 0, 0, "", []]
    numbers = ("pid", "cpu_usec", "memory_peak", "memory_limit", "memory_resident", "threads", "execs")
    assert {type(ended[name]) for name in numbers} == {int}


def _json(text: str, ident: str) -> "dict[str, Any]":
    """The object of this id, alone or as a line."""
    found = [json.loads(text)] if text.startswith("{\n") else [json.loads(line) for line in text.splitlines()]
    return next(each for each in found if each["id"] == ident)


def test_show_tells_that_a_container_ended_with_0(
    ask: Callable[..., "subprocess.CompletedProcess[str]"], ttrpc: Client, bundle: Callable[..., Bundle], ident: str
) -> None:
    ttrpc.Create(id=ident, bundle=str(bundle().folder))
    assert "exit_status" not in ask("show", ident).stdout
    ttrpc.Start(id=ident)
    ttrpc.Wait(id=ident)
    assert ["exit_status:", "0"] in [line.split() for line in ask("show", ident).stdout.splitlines()]
    ttrpc.Delete(id=ident)


def test_names_of_an_image_command_no_terminal(
    ask: Callable[..., "subprocess.CompletedProcess[str]"], ttrpc: Client, bundle: Callable[..., Bundle], ident: str
) -> None:
    annotations = {name: f"{value}\nforged \x1b[2J\u202e" for name, value in ANNOTATIONS.items()}
    made = bundle("sleep")
    (made.root / "sleep.wasm").rename(made.root / "\x1b[31mX.wasm")
    made.configure("/\x1b[31mX.wasm", "forever", "\x07\n", annotations=annotations)
    ttrpc.Create(id=ident, bundle=str(made.folder))
    ttrpc.Start(id=ident)
    for verb in (
        ("ps",),
        ("show", ident),
        ("stats", "--interval", "0.1"),
        ("ps", "--json"),
        ("show", ident, "--json"),
    ):
        lines = ask(*verb).stdout.splitlines()
        assert all(line.isprintable() for line in lines), verb
        assert not any(line.startswith("forged") for line in lines), verb
    assert r"sleeper forged \x1b[2J\u202e" in ask("ps").stdout
    ttrpc.Kill(id=ident, signal=9)
    ttrpc.Wait(id=ident)
    ttrpc.Delete(id=ident)


def test_stats_measures_memory_and_cpu(ask: Callable[..., "subprocess.CompletedProcess[str]"], sleeper: str) -> None:
    lines = ask("stats", "--json", "--interval", "0.1").stdout.splitlines()
    row = next(row for row in map(json.loads, lines) if row["id"] == sleeper)
    assert row["memory_limit"] == 64 << 20
    assert 0 < row["memory"] <= 64 << 20
    assert row["cpu_percent"] < 100
    assert ask("stats", "--interval", "0.1").stdout.startswith("CONTAINER")


def test_stats_goes_on_until_it_is_interrupted(daemon: Daemon, sleeper: str) -> None:
    command = [PROGRAM, "stats", "--address", str(daemon.task_listen), "--watch", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        headers = rows = 0
        while headers < 3:
            line = process.stdout.readline()
            headers += line.startswith("CONTAINER")  # what clears a screen goes to a terminal only
            rows += line.startswith(sleeper)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert "Traceback" not in process.stderr.read()
        assert rows >= 2


def test_kill_sends_a_signal_by_name_and_says_whom(
    ask: Callable[..., "subprocess.CompletedProcess[str]"], ttrpc: Client, sleeper: str
) -> None:
    killed = ask("kill", "--signal", "TERM", sleeper)
    assert (killed.returncode, killed.stdout) == (0, f"{sleeper}\n")
    assert ttrpc.Wait(id=sleeper).exit_status == 128 + signal.SIGTERM


@pytest.mark.parametrize("verb", ["show", "kill"])
def test_an_unknown_container_is_one_line(ask: Callable[..., "subprocess.CompletedProcess[str]"], verb: str) -> None:
    answer = ask(verb, "nobody")
    assert answer.returncode == 2
    assert answer.stderr == "wasm-sandboxer: no container 'nobody'; `wasm-sandboxer ps --all` lists them\n"


def test_an_unknown_signal_is_one_line(ask: Callable[..., "subprocess.CompletedProcess[str]"], sleeper: str) -> None:
    answer = ask("kill", "-s", "NOPE", sleeper)
    assert answer.returncode == 2
    assert answer.stderr == "wasm-sandboxer: 'NOPE' is not a signal; write KILL, TERM, STOP, CONT or a number\n"


@pytest.mark.parametrize("verb", ["ps", "stats"])
def test_no_daemon_is_one_line(verb: str) -> None:
    answer = subprocess.run(
        [PROGRAM, verb, "--address", "/nowhere.sock"], capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 2
    assert answer.stderr == (
        "wasm-sandboxer: no daemon answers at /nowhere.sock (No such file or directory); "
        "is `wasm-sandboxer serve` up?\n"
    )


@pytest.mark.parametrize("version", ["3", "4"])
def test_the_configuration_for_containerd_is_toml_of_its_version(version: str) -> None:
    import tomllib

    command = [PROGRAM, "containerd-config", "--config-version", version, "--handler", "edge", "--address", "/x.sock"]
    table = tomllib.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert table["version"] == int(version)
    assert table["proxy_plugins"]["wasm-sandboxer"] == {"type": "sandbox", "address": "/x.sock"}
    runtimes = table["plugins"]["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]
    assert runtimes["edge"]["sandboxer"] == "wasm-sandboxer"
    assert runtimes["edge"]["runtime_type"] == "io.containerd.wasm-sandboxer.v1"


def test_the_configuration_for_containerd_says_how_the_shim_finds_another_task_socket() -> None:
    def printed(*words: str) -> str:
        command = [PROGRAM, "containerd-config", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    assert "WASM_SANDBOXER_TASK_SOCKET" not in printed()
    assert printed("--task-address", "/run/wasm-sandboxer/task.sock") == printed()
    other = printed("--task-address", "/x/t.sock")
    assert other.startswith(printed())
    assert "#   Environment=WASM_SANDBOXER_TASK_SOCKET=/x/t.sock\n" in other
    assert all(line.startswith("#") for line in other.removeprefix(printed()).strip().splitlines())
