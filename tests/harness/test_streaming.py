import json
import subprocess
import sys

import pytest

from testing.streaming import StreamError, Wire

pytestmark = pytest.mark.xdist_group("containerd")
wires = pytest.mark.parametrize("wire", list(Wire))

SERVER = """
import os, socket
server = socket.create_server(("127.0.0.1", 7000))
print("listening", flush=True)
peer, _ = server.accept()
with peer, peer.makefile("rb") as lines:
    for line in lines:
        peer.sendall(b"got " + line)
"""


@pytest.fixture
def sleeper(cri, pod, shell):
    return cri.run(pod, shell.reference, command=["/bin/sleep", "1000"])


@wires
def test_exec_brings_both_streams_and_the_exit_code(cri, sleeper, wire):
    with cri.exec(sleeper, ["/bin/sh", "-c", "echo out; echo err >&2; exit 9"], wire=wire) as session:
        assert session.wait() == 9
        assert (session.stdout, session.stderr) == (b"out\n", b"err\n")


@wires
def test_exec_reads_stdin(cri, sleeper, wire):
    with cri.exec(sleeper, ["/bin/sh", "-c", "read word; echo said $word"], stdin=True, wire=wire) as session:
        session.send(b"hello\n")
        assert session.wait() == 0
        assert session.stdout == b"said hello\n"


def test_exec_over_spdy_sees_the_end_of_stdin(cri, sleeper):
    payload = bytes(range(256)) * 1000
    with cri.exec(sleeper, ["/bin/cat"], stdin=True, wire=Wire.SPDY) as session:
        session.send(payload)
        session.end_stdin()
        assert session.wait() == 0
        assert session.stdout == payload


def test_websocket_cannot_end_stdin(cri, sleeper):
    with cri.exec(sleeper, ["/bin/cat"], stdin=True) as session, pytest.raises(ValueError, match="SPDY"):
        session.end_stdin()


@wires
def test_exec_with_a_terminal_can_be_resized(cri, sleeper, wire):
    with cri.exec(sleeper, ["/bin/sh"], stdin=True, tty=True, wire=wire) as session:
        session.resize(columns=101, rows=41)
        session.send(b"until [ \"$(stty size)\" = '41 101' ]; do :; done; echo si''ze\n")
        session.read_until(b"size\r\n")
        session.send(b"exit 3\n")
        assert session.wait() == 3


@wires
def test_attach_joins_a_running_container(cri, pod, shell, wire):
    script = "echo up; while read line; do echo got $line; done; echo over"
    container = cri.run(pod, shell.reference, command=["/bin/sh", "-c", script], stdin=True, stdin_once=True)
    cri.wait_output(container, b"up\n")
    with cri.attach(container, stdin=True, wire=wire) as session:
        sent = session.ask(b"one\n", b"got one\n")
        if wire is Wire.SPDY:
            session.end_stdin()
            session.read_until(b"over\n")
            assert session.wait() == 0
    cri.wait_exit(container)  # over WebSocket, leaving is what ends a stdin that is used once
    assert cri.output(container) == b"up\n" + b"got one\n" * sent + b"over\n"


@wires
def test_a_command_that_is_not_there_is_a_stream_error(cri, sleeper, wire):
    with cri.exec(sleeper, ["/nowhere"], wire=wire) as session, pytest.raises(StreamError, match="nowhere"):
        session.wait()


@wires
def test_port_forward_reaches_the_pods_localhost(cri, pod, wire):
    spec = json.loads(cri.pod_status(pod, verbose=True).info["info"])["runtimeSpec"]
    (namespace,) = (entry["path"] for entry in spec["linux"]["namespaces"] if entry["type"] == "network")
    command = ["nsenter", f"--net={namespace}", sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            server.stdout.readline()
            with cri.port_forward(pod, 7000, wire=wire) as forward:
                forward.send(b"word\n")
                assert forward.read_until(b"\n") == b"got word\n"
                if wire is Wire.SPDY:
                    forward.end()
                    assert forward.wait() == b""  # containerd ends both directions with one
        finally:
            server.kill()


@wires
def test_port_forward_to_a_closed_port_says_why(cri, pod, wire):
    with cri.port_forward(pod, 7001, wire=wire) as forward, pytest.raises(StreamError, match="7001"):
        forward.wait()
