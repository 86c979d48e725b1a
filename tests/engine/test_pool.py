"""Memory pools: what is charged where, also by guests that grow at the same time."""

from pathlib import Path
from threading import Thread

import pytest

from tests.support.guests import Guests, in_loop, until
from tests.support.modules import binary
from wasm_sandboxer.core.container import Container
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.errors import OutOfMemory
from wasm_sandboxer.executor.thread import ThreadExecutor
from wasm_sandboxer.guest import Guest, Limits, Reason, Stdio

PAGE = 64 << 10
GROWER = """(module (memory (export "memory") 1) (global $left (mut i32) (i32.const 0))
  (func (export "hold") (param $pages i32) (result i32)
    (if (i32.eq (memory.grow (local.get $pages)) (i32.const -1)) (then unreachable))
    (loop $l (br $l)) (i32.const 0))
  (func (export "ask") (param $pages i32) (result i32) (memory.grow (local.get $pages)))
  (func (export "storm") (param $times i32) (result i32) (local $got i32)
    (loop $l
      (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1))
        (then (local.set $got (i32.add (local.get $got) (i32.const 1)))))
      (local.set $times (i32.sub (local.get $times) (i32.const 1)))
      (br_if $l (local.get $times)))
    (local.get $got)))"""


@pytest.fixture
def grower(tmp_path: Path) -> Path:
    path = tmp_path / "grower.wasm"
    path.write_bytes(binary(GROWER))
    return path


def test_what_is_charged_to_one_is_charged_above_it() -> None:
    node = MemoryPool("the node's", 100)
    pod = MemoryPool("its pod's", None, node)
    container = MemoryPool("its", 50, pod)
    assert container.charge(40) is None
    assert (container.used, pod.used, node.used, container.room()) == (40, 40, 40, 10)
    container.release(40)
    assert (container.used, pod.used, node.used, container.room()) == (0, 0, 0, 50)


def test_what_one_refuses_is_charged_to_none() -> None:
    node = MemoryPool("the node's", 100)
    pod = MemoryPool("its pod's", 60, node)
    one, other = MemoryPool("its", 50, pod), MemoryPool("its", 50, pod)
    assert one.charge(51) is one
    assert one.charge(50) is None
    assert other.charge(11) is pod
    assert (one.used, other.used, pod.used, node.used) == (50, 0, 50, 50)
    assert (one.refused, other.refused, pod.refused, node.refused) == (1, 0, 1, 0)


def test_a_limit_that_is_lowered_takes_nothing() -> None:
    pool = MemoryPool("its", 100)
    assert pool.charge(80) is None
    pool.limit = 50
    assert (pool.used, pool.limit, pool.room()) == (80, 50, 0)
    assert pool.charge(1) is pool
    pool.limit = None
    assert pool.charge(1) is None


def test_many_threads_never_pass_a_limit_and_lose_nothing() -> None:
    pod = MemoryPool("its pod's", 1000)
    taken: list[int] = []

    def take() -> None:
        mine = MemoryPool("its", None, pod)
        taken.append(sum(3 for _ in range(1000) if mine.charge(3) is None))

    threads = [Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == pod.used == 999


def start(guests: Guests, module: Path, pool: MemoryPool, function: str, argument: int, **more: object) -> Container:
    guest = Guest(module=module, argv=("grower", str(argument)), function=function, **more)  # type: ignore[arg-type]
    stdio = Stdio(stdout=guests.file(), stderr=guests.file())
    return Container("grower", guests.program(module), guest, stdio, ThreadExecutor(), pool=pool)


def test_guests_of_a_pod_share_its_pool_and_the_others_live_on(guests: Guests, grower: Path) -> None:
    async def main() -> None:
        pod = MemoryPool("its pod's", 10 * PAGE)
        held = [start(guests, grower, MemoryPool("its", None, pod), "hold", 3) for _ in range(2)]
        for each in held:
            await each.start()
        await until(lambda: pod.used == 8 * PAGE)
        greedy = start(guests, grower, MemoryPool("its", None, pod), "hold", 2)
        await greedy.start()
        end = await greedy.exit
        assert (end.code, end.reason) == (137, Reason.OUT_OF_MEMORY)
        assert end.message.startswith("out of memory: more than 64 KiB was refused; trap: `unreachable`")
        assert pod.used == 8 * PAGE
        assert [each.memory() for each in held] == [4 * PAGE, 4 * PAGE]
        for each in held:
            assert not each.exit.done()
            await each.kill(9)
            await each.exit
        assert pod.used == 0

    in_loop(main())


def test_a_guest_without_room_to_start_names_the_limit(guests: Guests, grower: Path) -> None:
    async def main() -> None:
        node = MemoryPool("the node's", PAGE)
        first = start(guests, grower, MemoryPool("its", None, node), "hold", 0)
        await first.start()
        second = start(guests, grower, MemoryPool("its", None, node), "hold", 0)
        with pytest.raises(OutOfMemory) as refused:
            await second.start()
        assert str(refused.value) == (
            "its instance could not be made: it needs 64 KiB of memory, and the node's limit is 64 KiB, "
            "of which 64 KiB are in use"
        )
        assert not first.exit.done()
        await first.kill(9)
        await first.exit
        assert node.used == 0

    in_loop(main())


def test_a_limit_that_changes_holds_at_once(guests: Guests, grower: Path) -> None:
    async def main() -> None:
        pool = MemoryPool("its", 2 * PAGE)
        storm = start(guests, grower, pool, "storm", 1 << 30)
        await storm.start()
        await until(lambda: pool.used == 2 * PAGE)
        pool.limit = 7 * PAGE
        await until(lambda: pool.used == 7 * PAGE)
        await storm.kill(9)
        assert (await storm.exit).peak_memory == 7 * PAGE

    in_loop(main())


def test_a_growable_table_is_charged_with_its_bound(guests: Guests, tmp_path: Path) -> None:
    path = tmp_path / "table.wasm"
    path.write_bytes(binary('(module (memory 1) (table 10 funcref) (func (export "_start") (loop $l (br $l))))'))

    async def main() -> None:
        pool = MemoryPool("its", 16 << 20)
        stdio = Stdio(stdout=guests.file())
        made = Container(
            "table", guests.program(path), Guest(module=path, argv=("table",)), stdio, ThreadExecutor(), pool=pool
        )
        await made.start()
        assert pool.used == PAGE + 8 * (65536 + 10)
        await made.kill(9)
        await made.exit
        assert pool.used == 0

    in_loop(main())


def test_what_is_touched_is_resident(guests: Guests, tmp_path: Path) -> None:
    path = tmp_path / "touch.wasm"
    path.write_bytes(
        binary("""(module (memory 31) (func (export "_start")
          (memory.fill (i32.const 0) (i32.const 7) (i32.const 1048576)) (loop $l (br $l))))""")
    )

    async def main() -> None:
        made = Container(
            "touch", guests.program(path), Guest(module=path, argv=("touch",)), Stdio(), ThreadExecutor()
        )
        await made.start()
        await until(lambda: made.resident() >= 1 << 20)
        assert made.memory() == 31 * PAGE  # too small for a huge page, which would be there as a whole
        assert made.resident() < 31 * PAGE
        await made.kill(9)
        await made.exit
        assert made.resident() == 0

    in_loop(main())


def test_limits_of_a_guest_in_no_container_are_its_own(guests: Guests, grower: Path) -> None:
    ran = guests.run(grower, "5", function="ask", limits=Limits(memory=4 * PAGE))
    assert ran.lines == ["-1"]
    assert guests.run(grower, "3", function="ask", limits=Limits(memory=4 * PAGE)).lines == ["1"]
