"""The committed examples are what their sources give, and each does its main job."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import wasmtime

ROOT = Path(__file__).resolve().parents[2]
WASM = ROOT / "examples" / "wasm"
COMPONENT = b"\0asm\x0d\0\1\0"
MIB = 1 << 20

Background = Callable[..., "subprocess.Popen[bytes]"]


def build(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, ROOT / "examples" / "build.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- building


@pytest.mark.timeout(900)  # the first time, the compiler builds its C library
def test_committed_files_are_what_the_sources_give() -> None:
    checked = build("--check")
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout + checked.stderr


def test_committed_files_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in WASM.glob("*.wasm")}
    assert len(sizes) >= 16
    assert all(size < 100_000 for size in sizes.values()), sizes


def test_every_committed_file_has_a_source() -> None:
    sources = {path.stem for kind in ("*.c", "*.wat") for path in (WASM / "src").glob(kind)}
    assert {path.stem for path in WASM.glob("*.wasm")} == sources


def test_build_takes_a_name_and_a_folder(tmp_path: Path) -> None:
    built = build("hello", "reactor", "--out", str(tmp_path))
    assert built.returncode == 0, built.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hello.wasm", "reactor.wasm"]
    assert (tmp_path / "hello.wasm").read_bytes() == (WASM / "hello.wasm").read_bytes()


def test_build_refuses_an_unknown_name() -> None:
    refused = build("nothing")
    assert refused.returncode == 2
    assert "nothing: no such example" in refused.stderr


@pytest.mark.timeout(900)  # the first time, Go builds its standard library
def test_go_program_builds_and_runs(guest: ModuleType, tmp_path: Path) -> None:
    built = build("hello-go")
    assert built.returncode == 0, built.stderr
    path = Path(built.stdout.strip())
    (tmp_path / "file").write_text("content\n")
    ended = guest.run(path, "/file", folder=tmp_path)
    assert (ended.code, ended.lines) == (
        0,
        ["Hello from Go!", "slept 10ms", "slept 20ms", "slept 30ms", "/file: 8 bytes", "content"],
    )
    assert guest.run(path, "exit").code == 7
    assert guest.run(path, "/absent", folder=tmp_path).code == 1


# --- programs


def test_hello_prints_one_line(guest: ModuleType) -> None:
    assert guest.run("hello") == guest.Ended(code=0, stdout=b"Hello from WebAssembly!\n", stderr="")


def test_cat_copies_stdin_byte_for_byte(guest: ModuleType) -> None:
    everything = bytes(range(256)) * 1000
    assert guest.run("cat", stdin=everything).stdout == everything


def test_cat_copies_the_named_files(guest: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    ended = guest.run("cat", "a", "absent", "b", folder=tmp_path)
    assert (ended.code, ended.stdout) == (1, b"onetwo")
    assert ended.stderr == "cat: absent: No such file or directory\n"


def test_args_prints_arguments_and_sorted_environment(guest: ModuleType) -> None:
    ended = guest.run("args", "x y", "", env={"Z": "1", "A": "b=c"})
    assert ended.lines == ["argv[0]=args", "argv[1]=x y", "argv[2]=", "A=b=c", "Z=1"]


def test_files_changes_the_folder_it_was_given(guest: ModuleType, tmp_path: Path) -> None:
    def files(*arguments: str) -> list[str]:
        ended = guest.run("files", *arguments, folder=tmp_path)
        assert (ended.code, ended.stderr) == (0, "")
        return ended.lines

    files("write", "a", "hello")
    files("append", "a", " you")
    assert (tmp_path / "a").read_text() == "hello you"
    assert files("read", "/a") == ["hello you"]
    files("mkdir", "d")
    files("link", "a", "d/b")
    files("symlink", "a", "s")
    assert files("ls", ".") == ["a", "d/", "s@"]
    files("touch", "a", "1000000000")
    assert files("stat", "a") == ["type=file size=9 links=2 mtime=1000000000"]
    assert files("stat", "s")[0].startswith("type=symlink ")
    assert files("stat", "s")[0].endswith(" target=a")
    files("mv", "d/b", "c")
    files("truncate", "c")
    assert (tmp_path / "a").read_bytes() == b""
    files("rm", "c")
    files("rm", "d")
    files("touch", "new")
    assert files("ls", "/") == ["a", "new", "s@"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["read", "absent"], "files: read: absent: No such file or directory\n"),
        (["mkdir", "there"], "files: mkdir: there: File exists\n"),
        (["write", "../out", "x"], "files: write: ../out: Operation not permitted\n"),
        (["write", "absent/x", "x"], "files: write: absent/x: No such file or directory\n"),
    ],
)
def test_files_says_what_failed(guest: ModuleType, tmp_path: Path, arguments: list[str], told: str) -> None:
    (tmp_path / "there").touch()
    ended = guest.run("files", *arguments, folder=tmp_path)
    assert (ended.code, ended.stdout, ended.stderr) == (1, b"", told)


@pytest.mark.parametrize("name", ["sleep", "sleep-component"])
def test_sleep_waits_for_fractions_of_a_second(guest: ModuleType, name: str) -> None:
    started = time.monotonic()
    assert guest.run(name, "0.2").stdout == b"slept\n"
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize(
    "command", [["sleep", "forever"], ["sleep-component"], ["spin"], ["memhog", "1", "1", "hold"]]
)
def test_some_programs_go_on_for_ever(background: Background, command: list[str]) -> None:
    process = background(*command)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)


@contextmanager
def ticking(engine: wasmtime.Engine) -> Iterator[None]:
    """Bumps the engine's epoch again and again."""
    enough = threading.Event()

    def tick() -> None:
        while not enough.wait(0.1):
            engine.increment_epoch()

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        yield
    finally:
        enough.set()
        ticker.join()


def test_spin_for_ever_can_be_stopped(guest: ModuleType) -> None:
    with ticking(guest.engine()), pytest.raises(wasmtime.Trap) as trapped:
        guest.run("spin")
    assert trapped.value.trap_code is wasmtime.TrapCode.INTERRUPT


def test_spin_can_end_by_itself(guest: ModuleType) -> None:
    assert guest.run("spin", "0.05").stdout == b"spun\n"


def test_memhog_takes_what_it_is_told(guest: ModuleType) -> None:
    ended = guest.run("memhog", "5", "2", memory=6 * MIB)
    assert (ended.code, ended.lines) == (0, ["2 MiB", "4 MiB", "5 MiB"])


def test_memhog_tells_when_it_is_refused(guest: ModuleType) -> None:
    ended = guest.run("memhog", "100", memory=3 * MIB)
    assert (ended.code, ended.lines) == (3, ["1 MiB", "2 MiB", "refused at 2 MiB"])


def test_memhog_can_abort_when_it_is_refused(guest: ModuleType) -> None:
    with pytest.raises(wasmtime.Trap) as trapped:
        guest.run("memhog", "100", "1", "abort", memory=3 * MIB)
    assert trapped.value.trap_code is wasmtime.TrapCode.UNREACHABLE


def test_memhog_holds_what_it_has(background: Background) -> None:
    process = background("memhog", "64", "64", "hold")
    assert process.stdout is not None
    assert process.stdout.readline() == b"64 MiB\n"
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert resident is not None
    assert int(resident[1]) > 64 * 1024


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("unreachable", wasmtime.TrapCode.UNREACHABLE),
        ("divide", wasmtime.TrapCode.INTEGER_DIVISION_BY_ZERO),
        ("bounds", wasmtime.TrapCode.MEMORY_OUT_OF_BOUNDS),
        ("stack", wasmtime.TrapCode.STACK_OVERFLOW),
        ("indirect", wasmtime.TrapCode.BAD_SIGNATURE),
        ("integer-overflow", wasmtime.TrapCode.INTEGER_OVERFLOW),
        ("conversion", wasmtime.TrapCode.BAD_CONVERSION_TO_INTEGER),
    ],
)
def test_trap_traps_as_told_in_a_function_of_that_name(guest: ModuleType, kind: str, code: wasmtime.TrapCode) -> None:
    with pytest.raises(wasmtime.Trap) as trapped:
        guest.run("trap", kind)
    assert trapped.value.trap_code is code
    assert trapped.value.frames[0].func_name == kind.replace("-", "_")
    if kind != "stack":  # that one has more frames than the engine keeps
        assert trapped.value.frames[-1].func_name == "_start"


def test_trap_without_a_kind_is_unreachable(guest: ModuleType) -> None:
    with pytest.raises(wasmtime.Trap) as trapped:
        guest.run("trap")
    assert trapped.value.trap_code is wasmtime.TrapCode.UNREACHABLE


def test_trap_refuses_an_unknown_kind(guest: ModuleType) -> None:
    ended = guest.run("trap", "unreach")
    assert ended.code == 2
    assert ended.stderr == "trap: no such kind of trap; see trap.wat for all\n"


@pytest.mark.parametrize("code", [0, 1, 42, 125])
def test_exit_ends_with_that_code(guest: ModuleType, code: int) -> None:
    assert guest.run("exit", str(code)).code == code


def test_exit_passes_big_codes_on_unchanged(guest: ModuleType) -> None:
    store = guest.new_store()
    told = []
    wasi = wasmtime.WasiConfig()
    wasi.argv = ["exit", "70000"]
    store.set_wasi(wasi)
    linker = wasmtime.Linker(guest.engine())
    linker.define_wasi()
    linker.allow_shadowing = True
    takes_code = wasmtime.FuncType([wasmtime.ValType.i32()], [])
    linker.define_func("wasi_snapshot_preview1", "proc_exit", takes_code, told.append)
    module = guest.load(WASM / "exit.wasm")
    with pytest.raises(wasmtime.Trap):  # proc_exit must not come back
        linker.instantiate(store, module).exports(store)["_start"](store)
    assert told == [70000]


@pytest.mark.parametrize("verb", ["clock", "abs", "realtime", "realtime-abs"])
def test_poll_waits_on_each_clock(guest: ModuleType, verb: str) -> None:
    said = re.fullmatch(rb"clock (\d+) ms\n", guest.run("poll", verb, "30").stdout)
    assert said is not None
    assert int(said[1]) >= 29


def test_poll_says_which_came_first_stdin_or_the_clock(background: Background) -> None:
    silent = background("poll", "stdin", "50")
    assert silent.stdout is not None
    assert silent.stdout.readline().startswith(b"clock ")
    spoken = background("poll", "stdin", "60000")
    assert spoken.communicate(b"x")[0] == b"stdin\n"


def test_poll_finds_streams_and_files_ready(guest: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    assert guest.run("poll", "stdout").stdout == b"ready\n"
    assert re.fullmatch(rb"ready \d+\n", guest.run("poll", "file", "file", folder=tmp_path).stdout)


def test_poll_reports_what_cannot_be_waited_for(guest: ModuleType) -> None:
    bad_fd, invalid = 8, 28
    assert guest.run("poll", "badfd").stdout == f"call errno {bad_fd}\n".encode()
    assert guest.run("poll", "none").stdout == f"call errno {invalid}\n".encode()


def test_poll_tells_which_of_many_clocks_came(guest: ModuleType) -> None:
    said = re.fullmatch(rb"(\d) events:((?: \d+)+)\n", guest.run("poll", "many").stdout)
    assert said is not None
    userdata = [int(number) for number in said[2].split()]
    assert len(userdata) == int(said[1])
    assert userdata == [10, 20, 30][: len(userdata)]


def test_reactor_keeps_its_state_between_calls(guest: ModuleType) -> None:
    store = guest.new_store()
    instance = wasmtime.Instance(store, guest.load(WASM / "reactor.wasm"), [])
    call = {name: instance.exports(store)[name] for name in ("counter", "add", "scale", "wide", "pair", "fail")}
    assert call["counter"](store) == 0
    instance.exports(store)["_initialize"](store)
    assert [call["counter"](store) for _ in range(2)] == [40, 41]
    assert call["add"](store, 2, -5) == -3
    assert call["scale"](store, 1.25, 4.0) == 5.0
    assert call["wide"](store, 0x1_0000_0002) == 0x2_0000_0001
    assert call["pair"](store) == [42, 42 * 42]
    with pytest.raises(wasmtime.Trap) as trapped:
        call["fail"](store)
    assert trapped.value.frames[0].func_name == "fail"


def ask(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", *headers, "", ""]).encode()


def bodies(stdout: bytes) -> list[tuple[int, bytes]]:
    """Each answer's status and body, split where its content-length says."""
    found = []
    while stdout:
        head, _, rest = stdout.partition(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        assert length is not None
        found.append((int(head.split()[1]), rest[: int(length[1])]))
        stdout = rest[int(length[1]) :]
    return found


def test_worker_answers_one_request_after_the_other(guest: ModuleType) -> None:
    asked = b"".join(
        [
            ask("/", "Host: here"),
            b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody",
            ask("/echo/a%20b"),
            ask("/env/NAME"),
            ask("/env/NONE"),
            ask("/else"),
            ask("/exit/9"),
            ask("/"),
        ]
    )
    ended = guest.run("worker", stdin=asked, env={"NAME": "value"})
    assert ended.code == 9
    assert bodies(ended.stdout) == [
        (200, b"Hello from a worker! This is request 1.\n"),
        (405, b"only GET\n"),
        (200, b"a%20b"),
        (200, b"value"),
        (404, b"no such variable\n"),
        (404, b"no such path\n"),
        (200, b"bye\n"),
    ]


def test_worker_closes_when_asked_to_and_when_it_must(guest: ModuleType) -> None:
    ended = guest.run("worker", stdin=ask("/", "Connection: close") + ask("/"))
    assert (ended.code, len(bodies(ended.stdout))) == (0, 1)
    ended = guest.run("worker", stdin=b"\x16\x03\x01 what is this\r\n" + ask("/"))
    assert (ended.code, bodies(ended.stdout)) == (1, [(400, b"not a request\n")])


def test_worker_answers_while_stdin_stays_open(background: Background) -> None:
    worker = background("worker")
    assert worker.stdin is not None
    assert worker.stdout is not None
    for number in (1, 2):
        worker.stdin.write(ask("/"))
        worker.stdin.flush()
        answer = [worker.stdout.readline() for _ in range(5)]
        assert answer[-1] == f"Hello from a worker! This is request {number}.\n".encode()


def test_flood_writes_exactly_so_many_bytes(guest: ModuleType) -> None:
    written = guest.run("flood", "100000").stdout
    assert len(written) == 100_000
    assert {len(line) for line in written.splitlines()[:-1]} == {63}


def test_flood_goes_on_for_ever(background: Background) -> None:
    process = background("flood")
    assert process.stdout is not None
    assert len(process.stdout.read(10 * MIB)) == 10 * MIB


# --- components


@pytest.mark.parametrize("name", ["hello-component", "sleep-component", "tcp-server"])
def test_components_are_components(name: str) -> None:
    assert (WASM / f"{name}.wasm").read_bytes().startswith(COMPONENT)


def test_hello_component_says_what_it_was_told(guest: ModuleType) -> None:
    ended = guest.run("hello-component", "one", "two", env={"K": "v"})
    assert (ended.code, ended.lines) == (0, ["Hello from a component!", "one", "two", "K=v"])


def test_hello_component_exits_with_an_error_when_told_to(guest: ModuleType) -> None:
    ended = guest.run("hello-component", "exit")
    assert (ended.code, ended.lines) == (1, ["Hello from a component!"])


def test_hello_component_takes_much_from_its_host(guest: ModuleType) -> None:
    long = "x" * 200_000
    assert guest.run("hello-component", long).lines[1] == long


def listening_port(server: "subprocess.Popen[bytes]") -> int:
    assert server.stdout is not None
    said = re.fullmatch(rb"listening on port (\d+)\n", server.stdout.readline())
    assert said is not None
    return int(said[1])


def test_tcp_server_greets_each_connection(background: Background) -> None:
    port = listening_port(background("tcp-server", "0"))
    for number in (1, 2, 3):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            assert connection.makefile("rb").read() == f"hello {number}\n".encode()


def test_tcp_server_outlives_clients_that_go_away(background: Background) -> None:
    port = listening_port(background("tcp-server", "0"))
    linger_not = b"\1\0\0\0\0\0\0\0"  # close with a reset
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        assert connection.recv(100).startswith(b"hello ")


def test_tcp_server_says_why_it_cannot_listen(background: Background) -> None:
    port = listening_port(background("tcp-server", "0"))
    refused = background("tcp-server", str(port))
    assert refused.stdout is not None
    assert refused.stdout.read() == b"tcp-server: bind: error 12\n"
    assert refused.wait() == 1


def test_tcp_server_needs_a_network(guest: ModuleType) -> None:
    ended = guest.run("tcp-server", "0")
    assert (ended.code, ended.stdout) == (1, b"tcp-server: bind: error 1\n")
