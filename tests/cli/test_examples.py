"""What every example prints, and its exit code."""

import re
import socket
import time
from pathlib import Path

import pytest

from tests.support.cli import EXAMPLES, PATIENCE, Cli, example


def test_hello_prints_and_exits_with_0(cli: Cli) -> None:
    ended = cli("run", example("hello"))
    assert (ended.code, ended.stdout, ended.stderr) == (0, b"Hello from WebAssembly!\n", "")


def test_args_sees_its_name_its_arguments_and_no_environment(cli: Cli) -> None:
    ended = cli("run", example("args"), "one", "two words", "--help", "-e", "")
    assert ended.lines == ["argv[0]=args.wasm", "argv[1]=one", "argv[2]=two words", "argv[3]=--help",
                           "argv[4]=-e", "argv[5]="]  # fmt: skip


def test_cat_gives_back_what_it_reads(cli: Cli) -> None:
    assert cli("run", example("cat"), stdin=b"one\ntwo").stdout == b"one\ntwo"


@pytest.mark.parametrize(
    ("given", "code"),
    [(0, 0), (1, 1), (2, 2), (125, 125), (126, 126), (127, 127), (128, 128), (134, 134), (255, 255),
     (256, 0), (300, 44), (4294967295, 255)],
)  # fmt: skip
def test_exit_code_is_the_guests_as_exit_3_would_cut_it(cli: Cli, given: int, code: int) -> None:
    ended = cli("run", example("exit"), str(given))
    assert (ended.code, ended.stdout, ended.stderr) == (code, b"", "")


def test_sleep_ends_after_its_time(cli: Cli) -> None:
    assert cli("run", example("sleep"), "0.01").lines == ["slept"]


def test_spin_ends_after_its_time(cli: Cli) -> None:
    assert cli("run", example("spin"), "0.01").lines == ["spun"]


def test_poll_waits(cli: Cli) -> None:
    assert cli("run", example("poll"), "many").lines == ["1 events: 10"]


def test_flood_writes_as_many_bytes_as_it_is_told(cli: Cli) -> None:
    ended = cli("run", example("flood"), "100000")
    assert (ended.code, len(ended.stdout)) == (0, 100_000)


def test_memhog_grows_step_by_step(cli: Cli) -> None:
    assert cli("run", example("memhog"), "3").lines == ["1 MiB", "2 MiB", "3 MiB"]


def test_worker_answers_requests(cli: Cli) -> None:
    requests = b"GET /echo/hi HTTP/1.1\r\n\r\nGET /env/WHO HTTP/1.1\r\n\r\nGET /exit/5 HTTP/1.1\r\n\r\n"
    ended = cli("run", "--env", "WHO=me", example("worker"), stdin=requests)
    assert ended.code == 5
    assert re.findall(r"\r\n\r\n(hi|me)", ended.text) == ["hi", "me"]


def test_hello_component_prints_and_takes_arguments(cli: Cli) -> None:
    ended = cli("run", "-e", "A=b", example("hello-component"), "one", "two")
    assert (ended.code, ended.lines) == (0, ["Hello from a component!", "one", "two", "A=b"])


def test_a_component_that_ends_with_an_error_exits_with_1(cli: Cli) -> None:
    ended = cli("run", example("hello-component"), "exit")
    assert (ended.code, ended.lines, ended.stderr) == (1, ["Hello from a component!"], "")


def test_sleep_component_ends_after_its_time(cli: Cli) -> None:
    assert cli("run", example("sleep-component"), "0.01").lines == ["slept"]


def test_client_tells_the_time_and_random_numbers(cli: Cli) -> None:
    ended = cli("run", "--network", "host", example("client"), "time")
    assert (ended.code, abs(int(ended.text) - time.time()) < 60) == (0, True)
    found = {cli("run", "--network", "host", example("client"), "random").text for _ in range(2)}
    assert len(found) == 2


def test_client_looks_names_up(cli: Cli) -> None:
    ended = cli("run", "--network", "host", example("client"), "lookup", "localhost")
    assert (ended.code, "127.0.0.1" in ended.lines) == (0, True)


def test_client_sends_and_gets_a_datagram(cli: Cli) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENCE)
        port = str(server.getsockname()[1])
        process = cli.start("run", "--network", "host", example("client"), "udp", "127.0.0.1", port, "one datagram")
        data, client = server.recvfrom(100)
        server.sendto(data[::-1], client)
        assert process.communicate()[0] == b"margatad eno\n"
    assert process.returncode == 0


def test_client_says_what_fails(cli: Cli) -> None:
    ended = cli("run", "--network", "host", example("client"), "get", "127.0.0.1:1", "/")
    assert (ended.code, ended.lines) == (1, ["client: answer: error 255"])


def test_go_program_runs(cli: Cli) -> None:
    built = EXAMPLES.parents[1] / ".cache" / "examples" / "hello-go.wasm"
    if not built.exists():
        pytest.skip("NOT RUN: ./dev examples hello-go was not run")
    ended = cli("run", built)
    assert (ended.code, ended.stderr) == (0, ""), ended
    assert ended.lines


def test_a_module_in_text_form_runs(cli: Cli, tmp_path: Path) -> None:
    text = ";; a comment first\n(; and another ;)\n" + (EXAMPLES / "src" / "trap.wat").read_text()
    (tmp_path / "trap.wat").write_text(text)
    ended = cli("run", "trap.wat", "divide")
    assert (ended.code, ended.stderr.splitlines()[0]) == (
        134, "wasm-sandboxer: trap.wat: trap: integer divide by zero",
    )  # fmt: skip


def test_text_needs_no_suffix_and_is_compiled_once(fresh: Cli, tmp_path: Path) -> None:
    (tmp_path / "module").write_text('(module (func (export "_start")))')
    assert fresh("run", "module").code == 0
    assert "already in the store" in fresh("compile", "module").text


def test_a_module_may_come_through_a_pipe(cli: Cli) -> None:
    assert cli("run", "/dev/stdin", stdin=example("exit").read_bytes()).code == 0


def test_every_example_is_shown_somewhere() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    missing = [path.stem for path in EXAMPLES.glob("*.wasm") if f'example("{path.stem}")' not in tests]
    assert missing == []
