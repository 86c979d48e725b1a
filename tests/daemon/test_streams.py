"""A process's streams: FIFOs, terminals, log URIs and none; and readers that stall or leave. No containerd."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.modules import binary
from tests.support.proc import links
from tests.support.rpc import Client
from tests.support.wat import COUNTER, TERMINALS
from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode

DATA = bytes(range(256)) * 2000  # more than a pipe holds


@pytest.fixture
def start(ttrpc, ident):
    """Creates and starts a bundle's container; ended and deleted afterwards."""
    made = []

    def begin(bundle, **fields):
        ttrpc.Create(id=ident, bundle=str(bundle.folder), **fields)
        made.append(ident)
        ttrpc.Start(id=ident)
        return ident

    yield begin
    for each in made:
        try:
            ttrpc.Kill(id=each, signal=signal.SIGKILL, all=True)
            ttrpc.Wait(id=each)
        except RpcError:
            pass
        ttrpc.Delete(id=each)


@pytest.fixture
def terminal(start, bundle):
    """Starts an example on a terminal: its bundle."""

    def begin(module="cat", *arguments, stdin=True):
        made = bundle(module, *arguments, terminal=True)
        streams = made.streams(stdin=stdin)
        del streams["stderr"]
        start(made, terminal=True, **streams)
        return made

    return begin


# ---- FIFOs ----


def test_bytes_pass_unchanged_both_ways(ttrpc, start, bundle, ident):
    made = bundle("cat")
    start(made, **made.streams(stdin=True))
    writer = threading.Thread(target=lambda: (made.write(DATA), made.close_stdin()))
    writer.start()
    assert made.read("stdout") == DATA
    writer.join()
    assert ttrpc.Wait(id=ident).exit_status == 0


def test_input_ends_with_its_writer_outside_a_pod(ttrpc, start, bundle, ident):
    made = bundle("cat")
    start(made, **made.streams(stdin=True))
    made.write(b"one")
    assert made.read("stdout", until=b"one") == b"one"
    made.close_stdin()
    assert ttrpc.Wait(id=ident).exit_status == 0


def test_in_a_pod_input_ends_when_it_is_closed(ttrpc, start, bundle, ident):
    """CRI's clients attach and leave; only CloseIO is the end."""
    made = bundle("cat", annotations={"io.kubernetes.cri.sandbox-id": "none"})
    start(made, **made.streams(stdin=True))
    for word in (b"one", b"two"):
        made.write(word)
        made.close_stdin()
        assert made.read("stdout", until=word) == word
    ttrpc.CloseIO(id=ident)  # says nothing of stdin
    made.write(b"three")
    ttrpc.CloseIO(id=ident, stdin=True)
    assert made.read("stdout", until=b"three") == b"three"
    made.close_stdin()
    assert made.read("stdout") == b""
    assert ttrpc.Wait(id=ident).exit_status == 0
    ttrpc.CloseIO(id=ident, stdin=True)  # again, and too late: no harm


def test_a_guest_without_streams_reads_nothing_and_writes_into_the_void(ttrpc, start, bundle, ident):
    start(bundle("cat"))
    assert ttrpc.Wait(id=ident).exit_status == 0


def test_a_guest_without_a_reader_waits_and_can_be_stopped(ttrpc, start, bundle, ident, daemon):
    made = bundle("flood")
    start(made, **made.streams())
    time.sleep(0.1)  # the pipe is full
    begun = time.monotonic()
    ttrpc.Kill(id=ident, signal=signal.SIGTERM)
    assert ttrpc.Wait(id=ident).exit_status == 143
    assert time.monotonic() - begun < 1
    assert len(made.read("stdout")) == 65536  # what it wrote is not lost


def test_a_reader_that_leaves_and_comes_back_misses_nothing(ttrpc, start, bundle, ident):
    """As containerd when it restarts: no SIGPIPE, no gap."""
    made = bundle("flood", "1000000")
    start(made, **made.streams())
    data = made.read("stdout", until=b"\n")
    made.close()
    time.sleep(0.05)
    made._readers["stdout"] = os.open(made.folder / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    data += made.read("stdout")
    assert ttrpc.Wait(id=ident).exit_status == 0
    assert len(data) == 1000000
    line = b"flood 0123456789 abcdefghijklmnopqrstuvwxyz 0123456789 the end.\n"
    assert data == line * (1000000 // 64)


def test_a_stalled_reader_holds_up_nobody_else(ttrpc, start, bundle, ident):
    stalled = bundle("flood", name="stalled")
    start(stalled, **stalled.streams())
    made = bundle("flood", "1000000")
    ttrpc.Create(id=f"{ident}-2", bundle=str(made.folder), **made.streams())
    ttrpc.Start(id=f"{ident}-2")
    assert len(made.read("stdout")) == 1000000
    assert ttrpc.Wait(id=f"{ident}-2").exit_status == 0
    ttrpc.Delete(id=f"{ident}-2")


def test_what_a_guest_wrote_waits_for_its_reader_until_the_container_is_deleted(ttrpc, start, bundle, ident):
    made = bundle("hello")
    streams = made.streams()
    made.close()
    start(made, **streams)
    assert ttrpc.Wait(id=ident).exit_status == 0
    made._readers["stdout"] = os.open(streams["stdout"], os.O_RDONLY | os.O_NONBLOCK)
    assert made.read("stdout") == b"Hello from WebAssembly!\n"


@pytest.mark.parametrize("on_terminal", [False, True])
def test_a_reader_that_comes_after_the_guest_ended_comes_to_the_end(ttrpc, start, bundle, ident, daemon, on_terminal):
    """As containerd's may, which opens its end in a goroutine of its own, and waits there for a writer."""
    made = bundle("hello", terminal=on_terminal)
    streams = made.streams()
    if on_terminal:
        del streams["stderr"]
    made.close()
    start(made, terminal=on_terminal, **streams)
    assert ttrpc.Wait(id=ident).exit_status == 0
    time.sleep(0.05)  # whatever was to be closed at once has been
    script = "import sys; sys.stdout.write(open(sys.argv[1]).read())"
    late = subprocess.run(
        [sys.executable, "-c", script, streams["stdout"]], check=True, capture_output=True, timeout=10
    )
    assert late.stdout.split() == [b"Hello", b"from", b"WebAssembly!"]
    writing = [each for each in daemon.descriptors() if each == streams["stdout"]]
    assert len(writing) <= 1  # the reading end stays until the container is deleted


def test_readers_that_never_come_leave_nothing_behind(ttrpc, bundle, ident, daemon):
    before = daemon.streams()
    made = bundle("hello")
    streams = made.streams()
    made.close()
    ttrpc.Create(id=ident, bundle=str(made.folder), **streams)
    ttrpc.Start(id=ident)
    assert ttrpc.Wait(id=ident).exit_status == 0
    time.sleep(0.02)
    ttrpc.Delete(id=ident)
    time.sleep(0.3)  # longer than between two looks for a reader
    assert daemon.streams() == before
    assert [each for each in daemon.descriptors() if each.startswith(str(made.folder))] == []


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_stream_that_cannot_be_opened_is_named(ttrpc, bundle, ident, daemon, refused, stream):
    made = bundle()
    for name, words in (
        (f"{made.folder}/nowhere", f"{stream}: cannot open {made.folder}/nowhere: No such file"),
        ("relative", f"{stream}: 'relative' is neither a path nor"),
        ("https://example.com/x", "is neither a path nor"),
        (str(made.folder), f"{stream}: "),
    ):
        if (stream, name) == ("stdin", str(made.folder)):
            continue  # a folder can be opened to read
        before = daemon.streams()
        message = refused(
            StatusCode.INVALID_ARGUMENT, ttrpc.Create, id=ident, bundle=str(made.folder), **{stream: name}
        )
        assert words in message
        assert daemon.streams() == before


# ---- log URIs ----


def test_files_take_both_streams_appending(ttrpc, bundle, ident, tmp_path):
    log = tmp_path / "deep" / "er" / "a log"
    uri = f"file://{tmp_path}/deep/er/a%20log"
    made = bundle("trap", "unreachable")
    made.add("hello")
    for command in (["/hello.wasm"], ["/trap.wasm", "unreachable"], ["/hello.wasm"]):
        made.configure(*command)
        ttrpc.Create(id=ident, bundle=str(made.folder), stdout=uri, stderr=uri)
        assert (ttrpc.State(id=ident).stdout, ttrpc.State(id=ident).stderr) == (uri, uri)
        ttrpc.Start(id=ident)
        ttrpc.Wait(id=ident)
        ttrpc.Delete(id=ident)
    text = log.read_text()
    assert text.startswith("Hello from WebAssembly!\n")
    assert text.endswith("Hello from WebAssembly!\n")
    assert "unreachable" in text


LOGGER = """#!/bin/sh
exec >"$1" 2>&1
echo "id=$CONTAINER_ID namespace=$CONTAINER_NAMESPACE arguments=$*"
trap 'echo terminated; exit 0' TERM
exec 5>&-
cat <&3
cat <&4 | sed 's/^/err: /'
echo done
while :; do sleep 0.05; done
"""


def make_logger(folder, script=LOGGER):
    path = folder / "logger"
    path.write_text(script)
    path.chmod(0o755)
    return path


def wait_for(path, text):
    deadline = time.monotonic() + 10
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, path.exists() and path.read_text()
        time.sleep(0.01)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_program_takes_both_streams(ttrpc, bundle, ident, tmp_path, daemon, terminal):
    made = bundle("trap", "unreachable", terminal=terminal)
    log = tmp_path / "log"
    uri = f"binary://{make_logger(tmp_path)}?{log}=&key=value"
    ttrpc.Create(id=ident, bundle=str(made.folder), stdout=uri, stderr=uri, terminal=terminal)
    ttrpc.Start(id=ident)
    assert ttrpc.Wait(id=ident).exit_status == 134
    wait_for(log, "done\n")  # both of its inputs have ended
    ttrpc.Delete(id=ident)
    wait_for(log, "terminated\n")
    text = log.read_text()
    assert text.startswith(f"id={ident} namespace=test arguments={log} key value\n")
    assert "unreachable" in text
    if not terminal:
        assert "err: wasm-sandboxer: /trap.wasm" in text


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("binary:///no/where", "cannot start /no/where: No such file"),
        ("binary://relative/path", "must name a program by its absolute path"),
        ("binary:///etc/passwd", "cannot start /etc/passwd: Permission denied"),
    ],
)
def test_a_log_program_that_cannot_start_is_refused(ttrpc, bundle, ident, daemon, refused, uri, words):
    before = daemon.streams()
    folder = str(bundle().folder)
    assert words in refused(StatusCode.INVALID_ARGUMENT, ttrpc.Create, id=ident, bundle=folder, stdout=uri)
    assert daemon.streams() == before


def test_a_log_program_cannot_speak_to_systemd_for_the_daemon(own_daemon, bundle, tmp_path):
    daemon = own_daemon(environment={"WATCHDOG_USEC": "30000000", "LISTEN_FDS": "0", "KEPT": "as it is"})
    daemon.start()
    log = tmp_path / "log"
    logger = make_logger(tmp_path, f"#!/bin/sh\nenv >{log}\nexec 5>&-\ncat <&3 >/dev/null\n")
    with Client(daemon.task_listen) as client:
        client.Create(id="x", bundle=str(bundle().folder), stdout=f"binary://{logger}")
        client.Delete(id="x")
    given = dict(line.split("=", 1) for line in log.read_text().splitlines())
    assert {"PATH", "KEPT", "CONTAINER_ID", "CONTAINER_NAMESPACE"} <= set(given)
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "GRPC_EXPERIMENTS"} & set(given)


def test_log_programs_that_are_not_ready_hold_up_no_others(ttrpc, sandboxes, bundle, ident, tmp_path):
    go = tmp_path / "go"
    script = f"#!/bin/sh\nwhile ! [ -e {go} ]; do sleep 0.05; done\nexec 5>&-\ncat <&3 >/dev/null\n"
    logger = make_logger(tmp_path, script)
    slow = {f"{ident}-{number}": bundle(name=f"b{number}") for number in range(12)}
    calls = [
        ttrpc.begin("Create", id=each, bundle=str(made.folder), stdout=f"binary://{logger}")
        for each, made in slow.items()
    ]
    ttrpc.Create(id=ident, bundle=str(bundle().folder))
    ttrpc.Delete(id=ident)
    sandboxes.Create(sandbox_id=ident)
    sandboxes.Start(sandbox_id=ident)
    sandboxes.Shutdown(sandbox_id=ident)
    assert not any(call.done() for call in calls)
    go.touch()
    for each, call in zip(slow, calls, strict=True):
        call.result(10)
        ttrpc.Delete(id=each)


def test_a_log_program_that_ends_at_once_holds_up_no_guest(ttrpc, start, bundle, ident, tmp_path):
    logger = make_logger(tmp_path, "#!/bin/sh\nexit 0\n")
    start(bundle("flood", "1000000"), stdout=f"binary://{logger}")
    assert ttrpc.Wait(id=ident).exit_status == 1  # it sees that nobody reads


def test_no_log_program_is_left(ttrpc, bundle, ident, tmp_path, daemon):
    logger = make_logger(tmp_path, "#!/bin/sh\nexec 5>&-\ncat <&3 >/dev/null\n")
    made = bundle()
    ttrpc.Create(id=ident, bundle=str(made.folder), stdout=f"binary://{logger}")
    ttrpc.Start(id=ident)
    ttrpc.Wait(id=ident)
    ttrpc.Delete(id=ident)
    deadline = time.monotonic() + 10
    while any(str(logger) in line for line in _children(daemon.pid)) or "log-" in " ".join(daemon.threads()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _children(pid):
    """The command lines of a process's children; a zombie's is its name."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
            if int(rest.split()[1]) == pid:
                yield stat.with_name("cmdline").read_text().replace("\0", " ") or name
        except OSError:
            continue


# ---- terminals ----


def test_a_terminal_is_one_to_the_guest(ttrpc, start, bundle, ident):
    made = bundle(terminal=True)
    (made.root / "terminals.wasm").write_bytes(binary(TERMINALS))
    made.configure("/terminals.wasm", terminal=True)
    start(made, terminal=True, stdout=made.fifo("stdout"))
    assert made.read("stdout") == b"TTT\r\n"


def test_pipes_are_no_terminal(start, bundle):
    made = bundle()
    (made.root / "terminals.wasm").write_bytes(binary(TERMINALS))
    made.configure("/terminals.wasm")
    start(made, **made.streams())
    assert made.read("stdout") == b"---\n"


def test_a_terminal_echoes_and_edits_lines(terminal):
    made = terminal("cat")
    made.write(b"wrog\x7fng\n")  # with a rub-out
    assert made.read("stdout", until=b"wrong\r\n") == b"wrog\b \bng\r\nwrong\r\n"


def test_control_c_ends_the_guest(ttrpc, terminal, ident):
    made = terminal("cat")
    made.write(b"half a line\x03")
    assert ttrpc.Wait(id=ident).exit_status == 130
    made.read("stdout")  # comes to its end; the kernel may have dropped the echo, as on every terminal


def test_control_backslash_ends_the_guest(ttrpc, terminal, ident):
    terminal("spin").write(b"\x1c")
    assert ttrpc.Wait(id=ident).exit_status == 131


def test_control_z_does_not_freeze_a_guest_that_nobody_could_thaw(ttrpc, terminal, ident):
    """The kernel too discards it where no shell looks after the program (setpgid(2), orphaned process groups)."""
    made = terminal("cat")
    made.write(b"\x1aword\n")
    assert b"word\r\nword\r\n" in made.read("stdout", until=b"word\r\nword\r\n")


def test_control_d_is_the_end_of_input(ttrpc, terminal, ident):
    made = terminal("cat")
    made.write(b"last\n\x04")
    assert ttrpc.Wait(id=ident).exit_status == 0
    assert made.read("stdout") == b"last\r\nlast\r\n"


@pytest.mark.parametrize("last", [b"line\n", b"no line feed"])
def test_closing_the_input_of_a_terminal_comes_after_what_was_written(ttrpc, start, bundle, ident, last):
    made = bundle(terminal=True)
    (made.root / "counter.wasm").write_bytes(binary(COUNTER))
    made.configure("/counter.wasm", terminal=True)
    streams = made.streams(stdin=True)
    start(made, terminal=True, stdin=streams["stdin"], stdout=streams["stdout"])
    data = b"".join(b"line %d\n" % number for number in range(300)) + last
    made.write(data)
    ttrpc.CloseIO(id=ident, stdin=True)
    assert ttrpc.Wait(id=ident).exit_status == len(data) % 251
    assert made.read("stdout")  # its echo; the kernel may drop some of one that nobody waits for


def test_a_terminal_without_input_is_one_still(ttrpc, terminal, ident):
    made = terminal("hello", stdin=False)
    assert ttrpc.Wait(id=ident).exit_status == 0
    assert made.read("stdout") == b"Hello from WebAssembly!\r\n"


@pytest.mark.parametrize("content", [None, b"", b"a line\nand half of one"])
def test_a_terminal_may_have_its_input_from_a_file(ttrpc, start, bundle, ident, tmp_path, content):
    """Which no loop can wait for, and which keeps nobody waiting."""
    made = bundle("cat", terminal=True)
    streams = made.streams()
    del streams["stderr"]
    given = Path(os.devnull)
    if content is not None:
        given = tmp_path / "given"
        given.write_bytes(content)
    start(made, terminal=True, stdin=str(given), **streams)
    assert ttrpc.Wait(id=ident).exit_status == 0
    assert made.read("stdout").endswith((content or b"").replace(b"\n", b"\r\n"))


def test_a_terminal_has_a_size(ttrpc, terminal, ident, daemon):
    terminal("sleep", "forever")
    ttrpc.ResizePty(id=ident, width=132, height=43)
    (master,) = _masters(daemon.pid)
    assert os.get_terminal_size(master) == (132, 43)
    os.close(master)
    ttrpc.ResizePty(id=ident, width=0, height=0)


def _masters(pid):
    """Our own descriptors of the pseudo-terminals that a process holds (pidfd_getfd(2))."""
    import ctypes

    pidfd = os.pidfd_open(pid)
    for number, target in links(pid).items():
        if target == "/dev/ptmx":
            yield ctypes.CDLL(None).syscall(438, pidfd, number, 0)
    os.close(pidfd)


def test_a_size_no_terminal_can_have_is_refused(ttrpc, terminal, ident, refused):
    terminal("sleep", "forever")
    message = refused(StatusCode.INVALID_ARGUMENT, ttrpc.ResizePty, id=ident, width=1 << 20, height=24)
    assert "1048576" in message


def test_much_output_passes_a_terminal_whole(ttrpc, terminal, ident):
    made = terminal("flood", "640000", stdin=False)
    assert len(made.read("stdout")) == 640000 + 10000  # a carriage return for each line
    assert ttrpc.Wait(id=ident).exit_status == 0


def test_a_stalled_reader_of_a_terminal_holds_up_nobody_and_the_guest_can_be_stopped(ttrpc, terminal, ident, bundle):
    made = terminal("flood", stdin=False)
    time.sleep(0.1)
    other = bundle("flood", "1000000", name="other")
    ttrpc.Create(id=f"{ident}-2", bundle=str(other.folder), **other.streams())
    ttrpc.Start(id=f"{ident}-2")
    assert len(other.read("stdout")) == 1000000
    ttrpc.Wait(id=f"{ident}-2")
    ttrpc.Delete(id=f"{ident}-2")
    ttrpc.Kill(id=ident, signal=signal.SIGTERM)
    assert ttrpc.Wait(id=ident).exit_status == 143
    output = made.read("stdout")  # all that the terminal took; a full FIFO's pages need not be full themselves
    line = output[: output.index(b"\n") + 1]
    assert len(output) > 32768
    assert (line * (len(output) // len(line) + 1)).startswith(output)


def test_a_terminal_may_write_to_a_file(ttrpc, start, bundle, ident, tmp_path):
    start(bundle("flood", "64000", terminal=True), terminal=True, stdout=f"file://{tmp_path}/log")
    assert ttrpc.Wait(id=ident).exit_status == 0
    deadline = time.monotonic() + 10
    while (tmp_path / "log").stat().st_size < 65000:
        assert time.monotonic() < deadline, (tmp_path / "log").stat().st_size
        time.sleep(0.01)


def test_a_terminal_may_have_no_streams_at_all(ttrpc, start, bundle, ident):
    start(bundle("flood", "640000", terminal=True), terminal=True)
    assert ttrpc.Wait(id=ident).exit_status == 0


def test_a_trap_is_told_on_the_terminal(ttrpc, terminal, ident):
    made = terminal("trap", "divide", stdin=False)
    assert ttrpc.Wait(id=ident).exit_status == 134
    assert b"wasm-sandboxer: /trap.wasm" in made.read("stdout")


def test_deleting_closes_everything(ttrpc, bundle, ident, daemon):
    before = daemon.streams()
    made = bundle("cat", terminal=True)
    streams = made.streams(stdin=True)
    ttrpc.Create(id=ident, bundle=str(made.folder), terminal=True, stdin=streams["stdin"], stdout=streams["stdout"])
    ttrpc.Start(id=ident)
    ttrpc.Kill(id=ident, signal=9)
    ttrpc.Wait(id=ident)
    ttrpc.Delete(id=ident)
    assert daemon.streams() == before
    assert [each for each in daemon.descriptors() if each.startswith(str(made.folder))] == []
