"""Exec, attach and terminals through CRI, as kubectl uses them."""

import time

import pytest

from testing.streaming import StreamError, Wire

pytestmark = pytest.mark.xdist_group("containerd")
wires = pytest.mark.parametrize("wire", list(Wire))


@pytest.fixture
def sleeper(run):
    return run("/sleep.wasm", "forever")


# ---- exec ----


def test_exec_brings_output_and_exit_code(cri, sleeper):
    result = cri.exec_sync(sleeper, ["/hello.wasm"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, b"Hello from WebAssembly!\n", b"")
    assert cri.exec_sync(sleeper, ["/exit.wasm", "200"]).exit_code == 200
    result = cri.exec_sync(sleeper, ["/trap.wasm", "unreachable"])
    assert result.exit_code == 134
    assert result.stderr.startswith(b"wasm-sandboxer: /trap.wasm: ")


def test_exec_calls_a_function(cri, sleeper):
    assert cri.exec_sync(sleeper, ["/reactor.wasm#add", "2", "3"]).stdout == b"5\n"


def test_exec_has_the_containers_files_and_environment(cri, run, tmp_path):
    from testing.cri import Mount

    (tmp_path / "given").write_text("from the volume")
    container = run(
        "/sleep.wasm", "forever", envs={"WORD": "of mouth"}, workdir="/etc",
        mounts=[Mount(source=tmp_path, target="/data", readonly=True)],
    )  # fmt: skip
    assert cri.exec_sync(container, ["/files.wasm", "read", "/data/given"]).stdout == b"from the volume"
    assert cri.exec_sync(container, ["/files.wasm", "write", "/data/x", "y"]).exit_code == 1
    assert cri.exec_sync(container, ["/files.wasm", "write", "/note", "y"]).exit_code == 0
    assert cri.exec_sync(container, ["/files.wasm", "read", "/note"]).stdout == b"y"
    lines = cri.exec_sync(container, ["/args.wasm", "one"]).stdout.decode().splitlines()
    assert {"argv[1]=one", "WORD=of mouth", "PWD=/etc"} <= set(lines)


def test_exec_of_what_is_not_there_says_so(cri, sleeper, fails):
    assert "no such module in the image: /nowhere.wasm" in fails(cri.exec_sync, sleeper, ["/nowhere.wasm"])
    assert "exports no function 'nothing'" in fails(cri.exec_sync, sleeper, ["/reactor.wasm#nothing"])
    assert cri.state(sleeper) == "CONTAINER_RUNNING"


def test_exec_is_ended_when_its_time_is_up(cri, sleeper, fails):
    begun = time.monotonic()
    assert "timeout" in fails(cri.exec_sync, sleeper, ["/spin.wasm"], timeout=1)
    assert time.monotonic() - begun < 5
    assert cri.exec_sync(sleeper, ["/hello.wasm"]).exit_code == 0


def test_exec_in_a_container_that_has_ended_is_refused(cri, run, fails):
    container = run("/hello.wasm")
    cri.wait_exit(container)
    assert "CONTAINER_EXITED" in fails(cri.exec_sync, container, ["/hello.wasm"])


def test_probes_may_come_often_and_at_once(cri, sleeper):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: cri.exec_sync(sleeper, ["/exit.wasm", str(n % 2)]).exit_code, range(40)))
    assert results == [0, 1] * 20


def test_much_output_of_an_exec_comes_whole(cri, sleeper):
    assert len(cri.exec_sync(sleeper, ["/flood.wasm", "3000000"]).stdout) == 3000000


def test_the_end_of_a_container_ends_its_execs(cri, sleeper):
    with cri.exec(sleeper, ["/cat.wasm"], stdin=True) as session:
        session.send(b"begun\n")
        assert session.read_until(b"\n") == b"begun\n"
        cri.stop(sleeper, grace=5)
        assert session.wait() == 137
    assert cri.status(sleeper).exit_code == 143


@wires
def test_exec_streams_both_ways(cri, sleeper, wire):
    with cri.exec(sleeper, ["/cat.wasm"], stdin=True, wire=wire) as session:
        for word in (b"one\n", b"two\n"):
            session.send(word)
            assert session.read_until(b"\n") == word
        if wire is Wire.SPDY:
            session.end_stdin()
            assert session.wait() == 0


@wires
def test_exec_streams_exit_codes_and_errors(cri, sleeper, wire):
    with cri.exec(sleeper, ["/trap.wasm", "divide"], wire=wire) as session:
        assert session.wait() == 134
        assert b"/trap.wasm" in session.stderr
    with (
        cri.exec(sleeper, ["/nowhere.wasm"], wire=wire) as session,
        pytest.raises(StreamError, match="no such module"),
    ):
        session.wait()


def test_the_end_of_stdin_arrives_after_all_of_it(cri, sleeper):
    payload = bytes(range(256)) * 2000
    with cri.exec(sleeper, ["/cat.wasm"], stdin=True, wire=Wire.SPDY) as session:
        session.send(payload)
        session.end_stdin()
        assert session.wait() == 0
        assert session.stdout == payload


def test_a_client_that_leaves_leaves_the_container(cri, sleeper):
    session = cri.exec(sleeper, ["/cat.wasm"], stdin=True)
    session.send(b"x\n")
    session.read_until(b"x\n")
    session.close()
    assert cri.exec_sync(sleeper, ["/hello.wasm"]).exit_code == 0
    assert cri.state(sleeper) == "CONTAINER_RUNNING"


# ---- terminals ----


def test_only_a_terminal_is_one(cri, sleeper):
    with cri.exec(sleeper, ["/terminals.wasm"], stdin=True, tty=True) as session:
        assert session.wait() == 0
        assert session.stdout == b"TTT\r\n"
    with cri.exec(sleeper, ["/terminals.wasm"], stdin=True) as session:
        assert session.wait() == 0
        assert session.stdout == b"---\n"


@wires
def test_a_terminal_can_be_resized_and_interrupted(cri, sleeper, wire):
    with cri.exec(sleeper, ["/cat.wasm"], stdin=True, tty=True, wire=wire) as session:
        session.resize(columns=101, rows=41)
        session.ask(b"word\n", b"word\r\nword\r\n")
        session.resize(columns=80, rows=24)
        session.send(b"\x03")
        assert session.wait() == 130
    assert cri.state(sleeper) == "CONTAINER_RUNNING"


def test_control_d_ends_a_terminals_input(cri, sleeper):
    with cri.exec(sleeper, ["/cat.wasm"], stdin=True, tty=True) as session:
        session.send(b"last\n\x04")
        assert session.wait() == 0
        assert session.stdout == b"last\r\nlast\r\n"


def test_a_container_may_have_a_terminal(cri, run):
    container = run("/cat.wasm", tty=True, stdin=True)
    with cri.attach(container, stdin=True, tty=True) as session:
        session.resize(columns=120, rows=50)
        session.ask(b"word\n", b"word\r\nword\r\n")
        session.send(b"\x03")
        assert cri.wait_exit(container).exit_code == 130
    assert b"word" in cri.output(container)


def test_a_terminals_output_is_logged(cri, run):
    container = run("/flood.wasm", "64000", tty=True)
    assert cri.wait_exit(container).exit_code == 0
    assert cri.output(container).count(b"the end.") == 1000


# ---- attach and stdin ----


@wires
def test_attach_joins_a_running_container(cri, run, wire):
    container = run("/cat.wasm", stdin=True, stdin_once=True)
    with cri.attach(container, stdin=True, wire=wire) as session:
        sent = session.ask(b"one\n", b"one\n")
        if wire is Wire.SPDY:
            session.end_stdin()
            assert session.wait() == 0
    assert cri.wait_exit(container).exit_code == 0  # stdin is used once: the end of the session ends it
    assert cri.output(container) == b"one\n" * sent


def test_a_stdin_that_is_not_used_once_outlives_its_clients(cri, run):
    container = run("/cat.wasm", stdin=True)
    said = b""
    for word in (b"one\n", b"two\n"):
        with cri.attach(container, stdin=True, wire=Wire.SPDY) as session:
            said += word * session.ask(word, word)
            session.end_stdin()
    time.sleep(0.05)
    assert cri.state(container) == "CONTAINER_RUNNING"
    assert cri.output(container) == said
    cri.stop(container, grace=5)
    assert cri.status(container).exit_code == 143


def test_a_container_without_stdin_reads_its_end(cri, run):
    assert cri.wait_exit(run("/cat.wasm")).exit_code == 0


def test_several_clients_see_the_same_output(cri, run):
    container = run("/ticker.wasm")
    with cri.attach(container) as first, cri.attach(container, wire=Wire.SPDY) as second:
        for session in (first, second):
            session.read_until(b"0\nline")
    assert cri.state(container) == "CONTAINER_RUNNING"


def test_a_client_that_does_not_read_holds_up_only_itself(cri, run):
    container = run("/flood.wasm")
    session = cri.attach(container)
    session._transport.close()
    session.close()
    other = run("/hello.wasm")
    assert cri.wait_exit(other).exit_code == 0
    assert cri.exec_sync(container, ["/exit.wasm", "4"]).exit_code == 4
    cri.stop(container, grace=10)
