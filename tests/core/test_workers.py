import asyncio
import threading
import time

import pytest

from wasm_sandboxer.core.workers import Workers


@pytest.fixture
def workers():
    made = Workers(4)
    yield made
    made.stop(10)


def test_results_and_errors_are_the_callers(workers):
    async def main():
        assert await workers.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await workers.run(divmod, 7, 0)
        assert await asyncio.gather(*(workers.run(str, each) for each in range(100))) == [str(n) for n in range(100)]

    asyncio.run(main())


def test_no_more_than_two_work_as_long_as_they_get_on(workers):
    lock, working, most = threading.Lock(), set(), []

    def job():
        with lock:
            working.add(threading.get_ident())
            most.append(len(working))
        time.sleep(0.001)
        with lock:
            working.remove(threading.get_ident())

    async def main():
        await asyncio.gather(*(workers.run(job) for _ in range(50)))

    asyncio.run(main())
    assert len(most) == 50
    assert max(most) <= 2


def test_jobs_that_are_stuck_hold_up_no_others_until_all_threads_are(workers):
    release = threading.Event()

    async def main():
        stuck = [asyncio.ensure_future(workers.run(release.wait)) for _ in range(3)]
        async with asyncio.timeout(10):
            assert await asyncio.gather(*(workers.run(int, each) for each in range(20))) == list(range(20))
        stuck.append(asyncio.ensure_future(workers.run(release.wait)))
        more = asyncio.ensure_future(workers.run(int, 1))
        await asyncio.sleep(0.3)
        assert not more.done()
        release.set()
        assert await more == 1
        assert all(await asyncio.gather(*stuck))

    asyncio.run(main())


def test_a_caller_that_is_cancelled_leaves_its_job_running(workers):
    begun, release, done = threading.Event(), threading.Event(), threading.Event()

    def job():
        begun.set()
        release.wait()
        done.set()

    async def main():
        call = asyncio.ensure_future(workers.run(job))
        await asyncio.sleep(0)
        assert begun.wait(10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        release.set()
        assert done.wait(10)
        assert await workers.run(int, 1) == 1

    asyncio.run(main())


def test_stopping_lets_what_waits_its_turn_be_done_and_gives_up_what_hangs():
    workers = Workers(2)
    release, done = threading.Event(), []

    async def main():
        calls = [asyncio.ensure_future(workers.run(done.append, number)) for number in range(10)]
        await asyncio.sleep(0)
        workers.stop(10)
        assert sorted(done) == list(range(10))
        await asyncio.gather(*calls)

    asyncio.run(main())
    hanging = Workers(1)

    async def hang():
        call = asyncio.ensure_future(hanging.run(release.wait))
        await asyncio.sleep(0)
        before = time.monotonic()
        hanging.stop(0.05)
        assert time.monotonic() - before < 10
        release.set()
        assert await call

    asyncio.run(hang())


def test_a_thread_has_its_name_and_a_working_directory_of_its_own(workers, tmp_path):
    def go():
        import os
        from pathlib import Path

        before = Path.cwd()
        os.chdir(tmp_path)
        try:
            return Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text().strip()
        finally:
            os.chdir(before)

    async def main():
        assert (await workers.run(go)).startswith("worker-")

    asyncio.run(main())
