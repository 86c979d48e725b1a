import asyncio
import os
import threading
import time

import pytest

from wasm_sandboxer.core.workers import Workers


@pytest.fixture
def workers():
    made = Workers(4, most=40, patience=0.05)
    yield made
    made.stop(10)


def names():
    return {each.name for each in threading.enumerate() if each.name.startswith("worker-")}


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


def test_jobs_that_are_stuck_hold_up_no_others_until_there_are_as_many_threads_as_may_be(workers):
    release = threading.Event()

    async def main():
        stuck = [asyncio.ensure_future(workers.run(release.wait)) for _ in range(39)]
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


def test_threads_beyond_those_that_stay_end_when_nobody_wants_them(workers):
    release = threading.Event()

    async def main():
        for _ in range(2):
            stuck = [asyncio.ensure_future(workers.run(release.wait)) for _ in range(12)]
            await asyncio.sleep(0)
            async with asyncio.timeout(10):
                assert await workers.run(int, 1) == 1
                assert len(names()) >= 13
                release.set()
                await asyncio.gather(*stuck)
                while len(names()) > 4:  # noqa: ASYNC110  # a thread ends without telling anybody
                    await asyncio.sleep(0.01)
            release.clear()
            await asyncio.sleep(0.2)
            assert len(names()) == 4
            assert await asyncio.gather(*(workers.run(int, each) for each in range(20))) == list(range(20))

    asyncio.run(main())


def test_jobs_wait_where_the_system_lets_us_have_no_more_threads(workers, monkeypatch):
    release = threading.Event()

    def none(thread):
        raise RuntimeError("can't start new thread")

    async def main():
        stuck = [asyncio.ensure_future(workers.run(release.wait)) for _ in range(4)]
        more = asyncio.ensure_future(workers.run(int, 1))
        await asyncio.sleep(0.2)
        assert not more.done()
        monkeypatch.undo()
        async with asyncio.timeout(10):
            assert await more == 1
        release.set()
        await asyncio.gather(*stuck)

    monkeypatch.setattr(threading.Thread, "start", none)
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


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can take a priority back")
def test_threads_that_are_made_later_have_the_priority_of_the_first():
    made, release = [], threading.Event()

    def priority(*wait):
        if wait:
            release.wait()
        return os.getpriority(os.PRIO_PROCESS, 0)

    def main():
        os.setpriority(os.PRIO_PROCESS, 0, 3)
        workers = Workers(1)
        os.setpriority(os.PRIO_PROCESS, 0, 5)

        async def ask():
            stuck = asyncio.ensure_future(workers.run(priority, "wait"))
            await asyncio.sleep(0)
            made.append(await workers.run(priority))
            release.set()
            made.append(await stuck)

        asyncio.run(ask())
        workers.stop(10)

    thread = threading.Thread(target=main)  # so that this process's own stays
    thread.start()
    thread.join()
    assert made == [3, 3]


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
