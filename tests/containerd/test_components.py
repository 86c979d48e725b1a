"""What a component asks in its pod's network: names, datagrams, HTTP; and the clocks and random numbers it is given.

The servers are the tests' own, in the pod's network namespace, which has nothing but a loopback device.
"""

import http.server
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testing.cri import Container, Cri, Pod
from tests.support.node import Node
from wasm_sandboxer.linux.namespace import CLONE_NEWNET, set_namespace

pytestmark = pytest.mark.xdist_group("containerd")

NAME, ADDRESS = "web.default.svc.cluster.local", "10.1.2.3"
TYPE_A = 1


class Page(http.server.BaseHTTPRequestHandler):
    """Says what it was asked for."""

    def do_GET(self) -> None:
        body = f"{self.headers['Host']} {self.path}\n".encode()
        self.send_response(203)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def inside(netns: Path, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket made in a network namespace: it stays there."""
    made: list[socket.socket] = []

    def enter() -> None:
        fd = os.open(netns, os.O_RDONLY)
        set_namespace(fd, CLONE_NEWNET)  # of this thread, which ends soon
        os.close(fd)
        made.append(make())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return made[0]


def datagrams(port: int) -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", port))
    return server


def shout(server: socket.socket) -> None:
    """Send each datagram back in capitals, until the socket is closed."""
    while (asked := server.recvfrom(2000))[0]:
        server.sendto(asked[0].upper(), asked[1])


def resolve(server: socket.socket) -> None:
    """Answer for NAME's address of version 4 and say of all else that there is none; RFC 1035."""
    while (asked := server.recvfrom(2000))[0]:
        query, client = asked
        question = query[12 : query.index(b"\0", 12) + 5]
        known = question[:-5] == b"".join(bytes([len(part)]) + part.encode() for part in NAME.split("."))
        answer = b""
        if known and struct.unpack(">H", question[-4:-2])[0] == TYPE_A:
            answer = struct.pack(">HHHIH", 0xC00C, TYPE_A, 1, 60, 4) + socket.inet_aton(ADDRESS)
        flags = 0x8180 if known else 0x8183
        counts = struct.pack(">HHHH", 1, 1 if answer else 0, 0, 0)
        server.sendto(query[:2] + struct.pack(">H", flags) + counts + question + answer, client)


@pytest.fixture
def pod(cri: Cri) -> Pod:
    return cri.run_pod(dns={"servers": ["127.0.0.1"], "searches": ["default.svc.cluster.local"], "options": []})


@pytest.fixture
def netns(node: Node, run: Callable[..., Container]) -> Path:
    """The pod's network namespace, by a guest that stays in it."""
    return Path(f"/proc/{node.cri.info(run('/sleep-component.wasm'))['pid']}/ns/net")


@pytest.fixture
def serve(netns: Path) -> Iterator[Callable[..., None]]:
    """Have datagrams to a port of the pod's answered."""
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def begin(port: int, answer: Callable[[socket.socket], None]) -> None:
        sockets.append(inside(netns, lambda: datagrams(port)))
        threads.append(threading.Thread(target=answer, args=(sockets[-1],)))
        threads[-1].start()

    yield begin
    for server, thread in zip(sockets, threads, strict=True):
        ending = inside(netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with ending:
            ending.sendto(b"", server.getsockname())
        thread.join(10)
        server.close()


@pytest.fixture
def client(cri: Cri, run: Callable[..., Container]) -> Callable[..., tuple[int, str]]:
    """Runs the example of that name with these words: its exit code and what it printed."""

    def ask(*words: str) -> tuple[int, str]:
        container = run("/client.wasm", *words)
        return cri.wait_exit(container).exit_code, cri.output(container).decode()

    return ask


def test_a_name_is_looked_up_by_the_pods_own_servers(
    serve: Callable[..., None], client: Callable[..., tuple[int, str]]
) -> None:
    serve(53, resolve)
    assert client("lookup", NAME) == (0, f"{ADDRESS}\n")
    assert client("lookup", "web") == (0, f"{ADDRESS}\n")
    assert client("lookup", "nobody.example") == (1, "client: look up: error 18\n")


def test_datagrams_go_to_the_pods_network_and_back(
    serve: Callable[..., None], client: Callable[..., tuple[int, str]]
) -> None:
    serve(7777, shout)
    assert client("udp", "127.0.0.1", "7777", "is anybody there?") == (0, "IS ANYBODY THERE?\n")


def test_http_requests_go_to_the_pods_network_and_no_other(
    netns: Path, client: Callable[..., tuple[int, str]]
) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), Page, bind_and_activate=False)
    server.socket.close()
    server.socket = inside(netns, lambda: socket.create_server(("127.0.0.1", 7080)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        assert client("get", "127.0.0.1:7080", "/a?b=c") == (0, "203\n127.0.0.1:7080 /a?b=c\n")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as outside:
        assert client("get", f"127.0.0.1:{outside.server_port}", "/")[0] == 1


def test_a_component_has_clocks_and_random_numbers(client: Callable[..., tuple[int, str]]) -> None:
    code, seconds = client("time")
    assert (code, abs(int(seconds) - time.time()) < 60) == (0, True)
    found = {client("random") for _ in range(3)}
    assert len(found) == 3
    assert all(code == 0 and re.fullmatch(r"[0-9a-f]{16}\n", digits) for code, digits in found)
