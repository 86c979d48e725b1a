import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from wasm_sandboxer.rpc.grpc import GrpcServer
from wasm_sandboxer.rpc.grpc.core import POLLING
from wasm_sandboxer.rpc.transport.call import Method
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode

SERVICE = "test.v1.Strings"
LONGEST = 16 << 20


class Served:
    def __init__(self, server, path, observed):
        self.server, self.path, self.observed = server, path, observed
        self.channels = []

    def channel(self):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 2 * LONGEST)]
        options.append(("grpc.max_send_message_length", 2 * LONGEST))
        self.channels.append(grpc.aio.insecure_channel(f"unix:{self.path}", options))
        return self.channels[-1]

    def begin(self, channel, method, text="", *, service=SERVICE, **options):
        multi = channel.unary_unary(f"/{service}/{method}", lambda m: m.SerializeToString(), StringValue.FromString)
        return multi(StringValue(value=text), **options)

    async def call(self, channel, method, text="", **options):
        return (await self.begin(channel, method, text, **options)).value


@pytest.fixture
def serve(folder):
    """Serves handlers of strings; those of `at_once` in the server's own thread."""

    @contextlib.asynccontextmanager
    async def served(handlers=None, at_once=None, translate=lambda _: None, **options):
        methods = {
            name: Method(StringValue, StringValue, handler, **options) for name, handler in (handlers or {}).items()
        }
        methods["echo"] = Method(StringValue, StringValue, lambda request, _: request)
        for name, handler in (at_once or {}).items():
            methods[name] = Method(StringValue, StringValue, handler, any_thread=True)
        observed = []
        server = GrpcServer({SERVICE: methods}, observe=lambda *end: observed.append(end), translate=translate)
        server.bind(folder / "s")
        server.start()
        result = Served(server, folder / "s", observed)
        try:
            yield result
        finally:
            for channel in result.channels:
                await channel.close()
            await server.stop(0)

    return served


async def failure(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return StatusCode(caught.value.code().value[0]), caught.value.details()


def waiter():
    gate, begun, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(request, call):
        begun.set()
        try:
            await gate.wait()
        finally:
            ended.set()
        return request

    return wait, gate, begun, ended


def here(request, call):
    return StringValue(value=threading.current_thread().name)


def test_handlers_run_on_the_loop_and_those_for_any_thread_in_the_servers(serve):
    async def main():
        async with serve({"here": here}, at_once={"there": here}) as served:
            channel = served.channel()
            assert await served.call(channel, "here") == threading.current_thread().name
            assert await served.call(channel, "there") == "grpc"

    asyncio.run(main())


def test_what_any_thread_may_answer_is_answered_while_the_loop_is_busy(serve):
    def ask(path):
        with grpc.insecure_channel(f"unix:{path}") as channel:
            return channel.unary_unary(f"/{SERVICE}/there")(b"", timeout=10)

    async def main():
        async with serve(at_once={"there": here}) as served:
            asked = asyncio.get_running_loop().run_in_executor(None, ask, served.path)
            deadline = time.monotonic() + 10
            while not served.observed and time.monotonic() < deadline:
                time.sleep(0.001)  # noqa: ASYNC251  # the loop stands still
            assert served.observed
            await asked

    asyncio.run(main())


def test_thousands_of_calls_wait_at_the_same_time_and_cost_no_thread(serve):
    async def main():
        wait, gate, begun, _ = waiter()
        async with serve({"wait": wait}) as served:
            channel = served.channel()
            await served.call(channel, "echo")
            threads = threading.active_count()
            calls = [served.begin(channel, "wait", str(number)) for number in range(3000)]
            await begun.wait()
            assert await served.call(channel, "echo", "x") == "x"
            assert threading.active_count() == threads
            gate.set()
            assert [(await call).value for call in calls] == [str(number) for number in range(3000)]

    asyncio.run(main())


def test_the_handler_sees_metadata_and_the_observer_how_it_ended(serve):
    async def main():
        seen = {}

        def look(request, call):
            seen.update(call.metadata)
            return request

        async with serve({"look": look}) as served:
            metadata = (("containerd-namespace", "k8s.io"), ("x-bin", b"1"))
            await served.call(served.channel(), "look", metadata=metadata)
            assert seen["containerd-namespace"] == "k8s.io"
            assert "x-bin" not in seen
            ((call, error, seconds),) = served.observed
            assert (call.method, error) == ("look", None)
            assert 0 <= seconds < 10

    asyncio.run(main())


@pytest.mark.parametrize("where", ["handlers", "at_once"])
def test_errors_are_answered_by_their_code_or_translated_or_internal(serve, where, caplog):
    def refuse(request, call):
        raise RpcError(StatusCode.ALREADY_EXISTS, f"is \udc80 there {request.value}")

    def fail(request, call):
        raise ZeroDivisionError("by nothing")

    def known(request, call):
        raise KeyError("k")

    def translate(error):
        return RpcError(StatusCode.NOT_FOUND, "none") if isinstance(error, KeyError) else None

    async def main():
        handlers = {"refuse": refuse, "fail": fail, "known": known}
        async with serve(**{where: handlers}, translate=translate) as served:
            channel = served.channel()
            code, text = await failure(served.call(channel, "refuse", "é" * 5000))
            assert (code, text[:20]) == (StatusCode.ALREADY_EXISTS, "is \\udc80 there éééé")
            assert await failure(served.call(channel, "known")) == (StatusCode.NOT_FOUND, "none")
            assert await failure(served.call(channel, "fail")) == (
                StatusCode.INTERNAL,
                "ZeroDivisionError: by nothing",
            )
            assert await served.call(channel, "echo", "still") == "still"

    with caplog.at_level(logging.CRITICAL, "wasm_sandboxer.rpc.transport.dispatch"):
        asyncio.run(main())


def test_unknown_names_are_unimplemented_and_named(serve):
    async def main():
        async with serve() as served:
            channel = served.channel()
            assert await failure(served.call(channel, "none")) == (
                StatusCode.UNIMPLEMENTED,
                f"method none of service {SERVICE}",
            )
            assert await failure(served.call(channel, "echo", service="other")) == (
                StatusCode.UNIMPLEMENTED,
                "service other",
            )

    asyncio.run(main())


def test_a_payload_that_makes_no_sense_is_refused(serve):
    async def main():
        async with serve() as served:
            for payload in (b"\xff\xff", b"\x0a\x7f"):
                call = served.channel().unary_unary(f"/{SERVICE}/echo")(payload)
                code, text = await failure(call)
                assert code == StatusCode.INVALID_ARGUMENT
                assert "StringValue" in text

    asyncio.run(main())


def test_a_call_without_a_request_is_refused_and_harms_no_other(serve):
    async def main():
        async with serve() as served:
            channel = served.channel()
            call = channel.stream_unary(f"/{SERVICE}/echo")()
            await call.done_writing()
            code, _ = await failure(call)
            assert code == StatusCode.INVALID_ARGUMENT
            assert await served.call(channel, "echo", "x") == "x"

    asyncio.run(main())


def test_messages_up_to_the_bound_are_taken_and_longer_ones_refused(serve):
    async def main():
        async with serve() as served:
            channel = served.channel()
            text = "x" * (LONGEST - 16)
            assert await served.call(channel, "echo", text) == text
            code, _ = await failure(served.call(channel, "echo", text + "x" * 32))
            assert code == StatusCode.RESOURCE_EXHAUSTED
            assert await served.call(channel, "echo", "x") == "x"

    asyncio.run(main())


@pytest.mark.parametrize("how", ["cancel", "leave", "time out"])
def test_a_handler_is_cancelled_when_its_client_gives_up(serve, how):
    async def main():
        wait, _, begun, ended = waiter()
        async with serve({"wait": wait}) as served:
            channel = served.channel()
            call = served.begin(channel, "wait", timeout=0.5 if how == "time out" else None)
            await begun.wait()
            if how == "cancel":
                call.cancel()
            elif how == "leave":
                await channel.close()
            async with asyncio.timeout(10):
                await ended.wait()
            if how == "time out":
                assert (await failure(call))[0] == StatusCode.DEADLINE_EXCEEDED
            assert await served.call(served.channel(), "echo", "x") == "x"
            assert [error.code for _, error, _ in served.observed if error] == [StatusCode.CANCELLED]
            assert not served.server._calls

    asyncio.run(main())


@pytest.mark.parametrize("how", ["cancel", "leave", "time out"])
def test_a_handler_that_goes_to_the_end_is_not_cancelled(serve, how):
    async def main():
        begun, gate, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def change(request, call):
            begun.set()
            await gate.wait()
            done.set()
            return request

        async with serve({"change": change}, to_the_end=True) as served:
            channel = served.channel()
            call = served.begin(channel, "change", timeout=0.5 if how == "time out" else None)
            await begun.wait()
            if how == "cancel":
                call.cancel()
            elif how == "leave":
                await channel.close()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await call
            async with asyncio.timeout(10):
                while not served.observed:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                gate.set()
                await done.wait()
            assert [error.code for _, error, _ in served.observed] == [StatusCode.CANCELLED]

    asyncio.run(main())


def test_stopping_lets_calls_end_refuses_new_ones_and_cancels_what_is_left(serve):
    async def main():
        quick, gate, begun, _ = waiter()
        slow, _, begun_too, _ = waiter()
        async with serve({"quick": quick, "slow": slow}) as served:
            channel = served.channel()
            first, second = served.begin(channel, "quick", "done"), served.begin(channel, "slow")
            await asyncio.gather(begun.wait(), begun_too.wait())
            stopping = asyncio.ensure_future(served.server.stop(0.5))
            await asyncio.sleep(0.05)
            code, _ = await failure(served.call(channel, "echo", timeout=5))
            assert code == StatusCode.UNAVAILABLE
            gate.set()
            assert (await first).value == "done"
            assert (await failure(second))[0] == StatusCode.UNAVAILABLE
            async with asyncio.timeout(10):
                await stopping
            assert not served.server._thread.is_alive()

    asyncio.run(main())


def test_stopping_does_not_wait_for_calls_that_only_wait(serve):
    async def main():
        forever, _, begun, _ = waiter()
        async with serve({"forever": forever}, waits=True) as served:
            call = served.begin(served.channel(), "forever")
            await begun.wait()
            async with asyncio.timeout(10):
                await served.server.stop(1000)
            assert (await failure(call))[0] == StatusCode.UNAVAILABLE

    asyncio.run(main())


def test_a_path_that_cannot_be_bound_is_an_error(folder):
    async def main():
        server = GrpcServer({}, observe=lambda *_: None, translate=lambda _: None)
        with pytest.raises(OSError, match="nowhere"):
            server.bind(folder / "nowhere" / "s")

    asyncio.run(main())


def test_the_core_takes_the_way_of_polling_that_it_is_told(folder):
    """A core that no longer knows it would say so, and poll by threads of its own."""
    script = Path(__file__).with_name("grpc_threads.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    command = [sys.executable, script, folder / "s"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "nknown experiment" not in ran.stderr, ran.stderr
    assert POLLING == "-event_engine_listener"
    switches = dict(line.split() for line in ran.stdout.splitlines())
    assert int(switches["others"]) < int(switches["grpc"]), ran.stdout
