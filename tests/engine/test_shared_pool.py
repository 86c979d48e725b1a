"""Pools that other processes charge too: what they have counts, and comes back when they die."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.guests import Guests, in_loop, until
from tests.support.modules import binary
from wasm_sandboxer.core.container import Container
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.shared_page import CLAIMS
from wasm_sandboxer.engine.shared_pool import Claim
from wasm_sandboxer.errors import ResourceExhausted
from wasm_sandboxer.executor.thread import ThreadExecutor
from wasm_sandboxer.guest import Guest, Stdio

# Grows by a page as often as it is told.
GROWER = """(module (memory (export "memory") 1) (func (export "storm") (param $times i32)
  (loop $l
    (drop (memory.grow (i32.const 1)))
    (local.set $times (i32.sub (local.get $times) (i32.const 1)))
    (br_if $l (local.get $times)))))"""
# Charges what it is told, line by line, and says what refuses.
CHILD = """
import sys
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.shared_pool import Share, pool_of
claim, *rest = sys.argv[1:]
fds, names = map(int, rest[: len(rest) // 2]), rest[len(rest) // 2 :]
pool = MemoryPool.of_guest(None, pool_of(Share(tuple(names), int(claim)), list(fds)))
print("ready", flush=True)
for line in sys.stdin:
    size = int(line)
    if size < 0:
        pool.release(-size)
        print("released", flush=True)
    else:
        refusing = pool.charge(size)
        print("charged" if refusing is None else refusing.what, flush=True)
"""


class Child:
    """Another process that charges a pool of this one's."""

    def __init__(self, pool: MemoryPool) -> None:
        self.claim = Claim(pool)
        arguments = [self.claim.share.claim, *self.claim.descriptors, *self.claim.share.names]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *map(str, arguments)],
            pass_fds=self.claim.descriptors, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def charge(self, size: int) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{size}\n")
        self.process.stdin.flush()
        return self._read()

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        self.claim.close()


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def node() -> MemoryPool:
    return MemoryPool("the node's", 1000, threads_only=True)


@pytest.fixture
def pod(node: MemoryPool) -> MemoryPool:
    return MemoryPool("its pod's", 100, node)


def child(undo: ExitStack, pool: MemoryPool) -> Child:
    made = Child(pool)
    undo.callback(made.end)
    return made


def test_processes_and_threads_share_a_pods_limit(undo: ExitStack, node: MemoryPool, pod: MemoryPool) -> None:
    thread, process = MemoryPool("its", 80, pod), MemoryPool("its", 80, pod)
    other = child(undo, process)
    assert thread.charge(60) is None
    assert other.charge(41) == "its pod's"
    assert other.charge(40) == "charged"
    assert thread.charge(1) is pod
    assert (pod.used, pod.here, node.used) == (100, 60, 60)  # the node's is of this process's guests alone
    assert (process.used, process.here, thread.used) == (40, 0, 60)
    assert pod.refused == 2
    assert other.charge(-10) == "released"
    assert thread.charge(10) is None


def test_a_containers_processes_share_its_limit(undo: ExitStack, pod: MemoryPool) -> None:
    pool = MemoryPool("its", 50, pod)
    first, second = child(undo, pool), child(undo, pool)
    assert first.charge(30) == "charged"
    assert second.charge(21) == "its"
    assert second.charge(20) == "charged"
    assert pool.charge(1) is pool  # a guest on a thread, if it has one
    assert pod.used == 50


def test_what_a_process_had_comes_back_when_it_dies(undo: ExitStack, pod: MemoryPool) -> None:
    pool = MemoryPool("its", None, pod)
    assert pool.charge(7) is None
    first, second = child(undo, pool), child(undo, pool)
    assert (first.charge(30), second.charge(20)) == ("charged", "charged")
    first.end()
    assert (pool.used, pod.used) == (27, 27)
    second.end()
    assert (pool.used, pod.used) == (7, 7)


def test_a_limit_that_changes_holds_for_processes_at_once(undo: ExitStack, pod: MemoryPool) -> None:
    pool = MemoryPool("its", 10, pod)
    other = child(undo, pool)
    assert other.charge(11) == "its"
    pool.limit = 60
    assert other.charge(50) == "charged"
    pod.limit = 55
    assert other.charge(6) == "its pod's"
    pod.limit = pool.limit = None
    assert other.charge(1000) == "charged"


def test_a_child_that_lies_harms_its_pod_only_while_it_lives(undo: ExitStack, node: MemoryPool) -> None:
    pod = MemoryPool("its pod's", 100, node)
    pool = MemoryPool("its", 50, pod)
    assert pool.charge(5) is None
    other = child(undo, pool)
    fd = other.claim.descriptors[-1]
    os.pwrite(fd, b"\xff" * 24, 0)  # the pod's count, refusals and limit
    pool.charge(1)
    other.end()
    assert (pod.used, pod.limit, node.used) == (pool.here, 100, pool.here)
    assert pool.charge(50) is pool
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(fd, 0)


def test_a_child_that_hides_what_is_charged_lets_threads_have_no_more(
    undo: ExitStack, node: MemoryPool, pod: MemoryPool
) -> None:
    thread = MemoryPool("its", None, pod)
    other = child(undo, MemoryPool("its", None, pod))
    assert thread.charge(60) is None
    os.pwrite(other.claim.descriptors[-1], bytes(8), 0)  # the pod's count
    assert thread.charge(41) is pod
    assert (thread.used, pod.used, pod.here, pod.refused, node.used) == (60, 0, 60, 1, 60)
    assert thread.charge(40) is None
    assert (thread.used, pod.used, pod.here, node.used) == (100, 40, 100, 100)
    other.end()
    assert (pod.used, thread.charge(1)) == (100, pod)


def test_nothing_is_lost_of_what_is_charged_while_a_pool_becomes_shared(guests: Guests, tmp_path: Path) -> None:
    path = tmp_path / "grower.wasm"
    path.write_bytes(binary(GROWER))

    async def main() -> None:
        for _ in range(10):
            pod = MemoryPool("its pod's")
            running = []
            for _ in range(3):
                guest = Guest(module=path, argv=("grower", "20000"), function="storm")
                made = Container(
                    "grower",
                    guests.program(path),
                    guest,
                    Stdio(),
                    ThreadExecutor(),
                    pool=MemoryPool("its", None, pod),
                )
                await made.start()
                running.append(made)
            await until(lambda pod=pod: pod.used > 1 << 20)
            claim = Claim(pod)
            assert pod.used > 1 << 20
            for each in running:
                await each.exit
            claim.close()
            assert (pod.used, pod.here) == (0, 0)

    in_loop(main())


def test_more_children_than_can_be_counted_are_refused(pod: MemoryPool) -> None:
    pool = MemoryPool("its", None, pod)
    claims = [Claim(pool) for _ in range(CLAIMS)]
    with pytest.raises(ResourceExhausted, match="254 guests in processes already"):
        Claim(pool)
    claims[100].close()
    again = Claim(pool)
    assert again.share.claim == 100
    for claim in (again, *claims):
        claim.close()


def test_a_pool_that_is_closed_holds_no_descriptor(pod: MemoryPool) -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    pool = MemoryPool("its", None, pod)
    claim = Claim(pool)
    claim.close()
    for each in (pool, pod, pod):
        each.close()
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
    assert pool.charge(3) is None
    assert pod.used == 3
