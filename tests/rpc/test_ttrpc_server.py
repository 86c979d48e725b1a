import asyncio
import gc
import logging

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue

from wasm_sandboxer.rpc.ttrpc import Limits, RpcError, StatusCode
from wasm_sandboxer.rpc.ttrpc.frames import MAX_DATA

SERVICE = "test.v1.Strings"


def text(value):
    return StringValue(value=value)


def raising(error):
    def handler(request, call):
        raise error

    async def later(request, call):
        await asyncio.sleep(0)
        raise error

    return {"now": handler, "later": later}


async def code_of(awaitable):
    with pytest.raises(RpcError) as caught:
        await awaitable
    return caught.value.code


async def coroutine(request, call):
    return text(request.value.upper())


async def waiting(request, call):
    await asyncio.sleep(0.001)
    return text(request.value.upper())


def function(request, call):
    return text(request.value.upper())


def future(request, call):
    result = asyncio.get_running_loop().create_future()
    result.set_result(text(request.value.upper()))
    return result


@pytest.mark.parametrize("handler", [function, coroutine, waiting, future])
def test_answers(serve, handler):
    async def main():
        async with serve({"upper": handler}) as served:
            client = await served.client()
            assert [await served.call(client, "upper", word) for word in ("a", "b", "")] == ["A", "B", ""]

    asyncio.run(main())


def test_a_blocked_call_holds_up_no_other_on_its_connection(serve):
    async def main():
        gate = asyncio.Event()

        async def wait(request, call):
            await gate.wait()
            return request

        async with serve({"wait": wait}) as served:
            client = await served.client()
            waiters = [asyncio.ensure_future(served.call(client, "wait", str(n))) for n in range(100)]
            assert await served.call(client, "echo", "meanwhile") == "meanwhile"
            assert not any(waiter.done() for waiter in waiters)
            gate.set()
            assert await asyncio.gather(*waiters) == [str(n) for n in range(100)]

    asyncio.run(main())


def test_answers_come_as_handlers_end(serve):
    async def sleep(request, call):
        await asyncio.sleep(float(request.value))
        return request

    async def main():
        async with serve({"sleep": sleep}) as served:
            raw = await served.raw()
            for stream, seconds in ((1, "0.1"), (3, "0.05"), (5, "0")):
                raw.request(stream, "sleep", seconds)
            assert [(await raw.answer())[0] for _ in range(3)] == [5, 3, 1]

    asyncio.run(main())


def test_the_handler_sees_metadata_with_keys_in_lower_case_and_the_first_of_several_values(serve):
    seen = []

    def handler(request, call):
        seen.append((call.service, call.method, dict(call.metadata), call.request.value))
        return request

    async def main():
        async with serve({"note": handler}) as served:
            raw = await served.raw()
            raw.request(1, "note", "x", metadata=(("Name-Space", "one"), ("name-space", "two"), ("b", "")))
            await raw.answer()

    asyncio.run(main())
    assert seen == [(SERVICE, "note", {"name-space": "one", "b": ""}, "x")]


def test_the_handler_runs_in_a_task_of_its_own(serve):
    # asyncio.timeout, TaskGroup and wait_for all need one, from the handler's very first step.
    async def handler(request, call):
        assert asyncio.current_task() is not None
        async with asyncio.timeout(1), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        return request

    async def main():
        async with serve({"structured": handler}) as served:
            client = await served.client()
            assert await served.call(client, "structured", "x") == "x"

    asyncio.run(main())


# Time.


def test_a_handler_that_takes_too_long_is_cancelled_and_answered_for(serve, until):
    cancelled = []

    async def handler(request, call):
        assert call.timeout == pytest.approx(0.02)
        assert call.deadline <= asyncio.get_running_loop().time() + 0.02
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main():
        async with serve({"hang": handler}) as served:
            raw = await served.raw()
            raw.request(1, "hang", timeout=0.02)
            stream, response = await raw.answer()
            assert (stream, response.status.code) == (1, StatusCode.DEADLINE_EXCEEDED)
            await until(lambda: cancelled)
            raw.request(3, "echo", "still here")
            assert (await raw.answer())[1].status.code == StatusCode.OK

    asyncio.run(main())


def test_a_handler_that_resists_cancellation_is_answered_for_once(serve):
    async def handler(request, call):
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
        return request

    async def main():
        async with serve({"stubborn": handler}) as served:
            raw = await served.raw()
            raw.request(1, "stubborn", timeout=0.01)
            assert (await raw.answer())[1].status.code == StatusCode.DEADLINE_EXCEEDED
            await asyncio.sleep(0.05)
            raw.request(3, "echo")
            assert (await raw.answer())[0] == 3

    asyncio.run(main())


def test_a_cancelled_handler_cleans_up_undisturbed_by_its_clients_leaving(serve, until):
    steps = []

    async def handler(request, call):
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("cancelled")
            await asyncio.sleep(0.03)
            steps.append("clean")

    async def main():
        async with serve({"hang": handler}) as served:
            raw = await served.raw()
            raw.request(1, "hang", timeout=0.01)
            await until(lambda: steps)
            raw.close()
            await until(lambda: len(steps) == 2)

    asyncio.run(main())
    assert steps == ["cancelled", "clean"]


def test_a_call_whose_time_was_up_before_it_came_is_not_begun(serve):
    ran = []

    async def main():
        async with serve({"run": lambda request, _: ran.append(1) or request}) as served:
            raw = await served.raw()
            raw.request(1, "run", timeout=-1)
            assert (await raw.answer())[1].status.code == StatusCode.DEADLINE_EXCEEDED

    asyncio.run(main())
    assert not ran


def test_the_longest_timeout_is_accepted(serve):
    async def main():
        async with serve({"upper": waiting}) as served:
            raw = await served.raw()
            raw.request(1, "upper", "x", timeout=9e9)
            assert (await raw.answer())[1].status.code == StatusCode.OK

    asyncio.run(main())


# Errors.


@pytest.mark.parametrize("when", ["now", "later"])
def test_an_rpc_error_is_answered_as_it_is(serve, when):
    async def main():
        async with serve(raising(RpcError(StatusCode.NOT_FOUND, "container c1: not found"))) as served:
            client = await served.client()
            with pytest.raises(RpcError, match="NOT_FOUND: container c1: not found"):
                await served.call(client, when)

    asyncio.run(main())


@pytest.mark.parametrize("when", ["now", "later"])
def test_another_error_goes_through_the_given_translation(serve, when):
    def translate(error):
        return RpcError(StatusCode.ALREADY_EXISTS, str(error)) if isinstance(error, KeyError) else None

    async def main():
        async with serve(raising(KeyError("c1")), translate=translate) as served:
            client = await served.client()
            assert await code_of(served.call(client, when)) == StatusCode.ALREADY_EXISTS

    asyncio.run(main())


@pytest.mark.parametrize("when", ["now", "later"])
def test_an_unknown_error_is_internal_and_logged_once(serve, when, caplog):
    async def main():
        async with serve(raising(ZeroDivisionError("oops"))) as served:
            client = await served.client()
            with pytest.raises(RpcError, match="INTERNAL: ZeroDivisionError: oops"):
                await served.call(client, when)
            assert await served.call(client, "echo", "x") == "x"

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    (record,) = caplog.records
    assert record.getMessage() == f"{SERVICE}/{when} failed"
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize("when", ["now", "later"])
def test_a_handler_that_is_cancelled_from_within_is_answered_for(serve, when):
    async def main():
        async with serve(raising(asyncio.CancelledError())) as served:
            client = await served.client()
            assert await code_of(served.call(client, when)) == StatusCode.CANCELLED

    asyncio.run(main())


@pytest.mark.parametrize("when", ["now", "later"])
def test_a_translation_that_fails_still_gives_an_answer(serve, when, caplog):
    def translate(error):
        raise KeyError("table")

    async def main():
        async with serve(raising(ValueError("no")), translate=translate) as served:
            client = await served.client()
            with pytest.raises(RpcError, match="INTERNAL: ValueError: no"):
                await served.call(client, when)

    asyncio.run(main())
    assert "could not be translated" in caplog.text


def test_an_error_with_the_code_of_success_is_an_error(serve):
    async def main():
        async with serve(raising(RpcError(StatusCode.OK, "odd"))) as served:
            client = await served.client()
            assert await code_of(served.call(client, "now")) == StatusCode.UNKNOWN

    asyncio.run(main())


def test_an_error_text_that_is_not_utf8_or_very_long_still_arrives(serve):
    error = RpcError(StatusCode.NOT_FOUND, "no file \udcff" + "x" * (MAX_DATA + 1))

    async def main():
        async with serve(raising(error)) as served:
            client = await served.client()
            with pytest.raises(RpcError, match=r"NOT_FOUND: no file \\udcffxxx"):
                await served.call(client, "now")

    asyncio.run(main())


@pytest.mark.parametrize("wrong", [Empty(), None, "text"])
def test_a_handler_that_answers_with_the_wrong_thing_is_an_internal_error(serve, wrong):
    async def handler(request, call):
        return wrong

    async def main():
        async with serve({"wrong": handler}) as served:
            client = await served.client()
            assert await code_of(served.call(client, "wrong")) == StatusCode.INTERNAL

    asyncio.run(main())


def test_an_answer_that_is_too_long_is_an_error(serve):
    async def main():
        async with serve({"big": lambda *_: text("x" * MAX_DATA)}) as served:
            client = await served.client()
            assert await code_of(served.call(client, "big")) == StatusCode.RESOURCE_EXHAUSTED
            assert await served.call(client, "echo", "x") == "x"

    asyncio.run(main())


def test_the_longest_answer_arrives(serve):
    # 12 bytes are tags and lengths around it.
    long = "x" * (MAX_DATA - 12)

    async def main():
        async with serve({"big": lambda *_: text(long)}) as served:
            client = await served.client()
            assert await served.call(client, "big") == long

    asyncio.run(main())


@pytest.mark.parametrize(
    ("service", "method", "named"), [("no.Such", "echo", "no.Such"), (SERVICE, "nothing", "nothing")]
)
def test_unknown_names_are_unimplemented_and_named(serve, service, method, named):
    async def main():
        async with serve() as served:
            client = await served.client()
            with pytest.raises(RpcError, match=rf"UNIMPLEMENTED: .*\b{named}\b"):
                await client.call(service, method, Empty(), Empty)

    asyncio.run(main())


def test_calls_above_the_limit_are_refused_until_others_end(serve):
    async def main():
        gate = asyncio.Event()

        async def wait(request, call):
            await gate.wait()
            return request

        async with serve({"wait": wait}, limits=Limits(calls=2)) as served:
            client = await served.client()
            waiters = [asyncio.ensure_future(served.call(client, "wait")) for _ in range(2)]
            await asyncio.sleep(0.01)
            assert await code_of(served.call(client, "wait")) == StatusCode.RESOURCE_EXHAUSTED
            gate.set()
            await asyncio.gather(*waiters)
            assert await served.call(client, "echo", "x") == "x"

    asyncio.run(main())


# Clients that leave.


@pytest.mark.parametrize("how", ["close", "half-close"])
def test_handlers_are_cancelled_when_their_client_leaves(serve, until, how):
    async def main():
        running, gone = set(), []

        async def hang(request, call):
            running.add(request.value)
            try:
                await asyncio.Event().wait()
            finally:
                running.discard(request.value)
                gone.append(request.value)

        async with serve({"hang": hang}) as served:
            leaver, stayer = await served.raw(), await served.client()
            leaver.request(1, "hang", "leaver")
            kept = asyncio.ensure_future(served.call(stayer, "hang", "stayer"))
            await until(lambda: running == {"leaver", "stayer"})
            leaver.close() if how == "close" else leaver.writer.write_eof()
            await until(lambda: running == {"stayer"})
            assert not kept.done()
            assert await served.call(stayer, "echo", "x") == "x"
            await until(lambda: len(served.server.connections) == 1)
            kept.cancel()

    asyncio.run(main())


def test_a_call_whose_client_leaves_before_it_has_begun_makes_no_noise(serve, until):
    async def hang(request, call):
        await asyncio.Event().wait()

    async def main():
        async with serve({"hang": hang}) as served:
            raw = await served.raw()
            raw.request(1, "hang")
            raw.writer.write_eof()
            await until(lambda: not served.server.connections)
            await asyncio.sleep(0.01)
        gc.collect()  # a coroutine thrown away unawaited would warn now

    asyncio.run(main())


# The observer.


def test_each_call_is_observed_once_with_its_outcome_and_duration(serve, until):
    seen = []

    def observe(call, error, seconds):
        assert 0 <= seconds < 5
        seen.append((call.method, call.request and call.request.value, error and error.code))

    async def hang(request, call):
        await asyncio.Event().wait()

    async def main():
        handlers = {"upper": waiting, "hang": hang, **raising(ValueError("no"))}
        async with serve(handlers, observe=observe) as served:
            raw = await served.raw()
            raw.request(1, "echo", "a")
            raw.request(3, "upper", "b")
            raw.request(5, "now", "c")
            raw.request(7, "later", "d")
            raw.request(9, "nothing", "e")
            raw.request(11, "hang", "f", timeout=0.01)
            raw.request(13, "echo", payload=b"\xff")
            for _ in range(7):
                await raw.answer()
            raw.request(15, "hang", "g")
            await asyncio.sleep(0.01)
            raw.close()
            await until(lambda: len(seen) == 8)

    asyncio.run(main())
    assert sorted(seen, key=str) == sorted(
        [
            ("echo", "a", None),
            ("upper", "b", None),
            ("now", "c", StatusCode.INTERNAL),
            ("later", "d", StatusCode.INTERNAL),
            ("nothing", None, StatusCode.UNIMPLEMENTED),
            ("hang", "f", StatusCode.DEADLINE_EXCEEDED),
            ("echo", None, StatusCode.INVALID_ARGUMENT),
            ("hang", "g", StatusCode.CANCELLED),
        ],
        key=str,
    )


def test_an_observer_that_fails_changes_nothing(serve, caplog):
    def observe(call, error, seconds):
        raise ZeroDivisionError

    async def main():
        async with serve(observe=observe) as served:
            client = await served.client()
            assert await served.call(client, "echo", "x") == "x"

    asyncio.run(main())
    assert "observer failed" in caplog.text
