"""The gRPC server as grpcio's own client sees it."""

import asyncio

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from wasm_sandboxer.rpc.grpc.messages import MAX_MESSAGE
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode


async def failure(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


def raising(error):
    def handler(request, call):
        raise error

    return handler


def test_a_call_is_answered(serve):
    async def main():
        async with serve() as served:
            channel = served.channel()
            for text in ("", "x", "ü" * 1000):
                assert (await served.call(channel, "echo", text)).value == text

    asyncio.run(main())


def test_a_handler_may_take_its_time(serve):
    async def later(request, call):
        await asyncio.sleep(0.01)
        return request

    async def main():
        async with serve({"later": later}) as served:
            assert (await served.call(served.channel(), "later", "x")).value == "x"

    asyncio.run(main())


@pytest.mark.parametrize("size", [16 << 10, 64 << 10, 1 << 20, MAX_MESSAGE - 5])
def test_messages_may_be_long(serve, size):
    async def main():
        async with serve() as served:
            text = "x" * size
            assert (await served.call(served.channel(), "echo", text)).value == text

    asyncio.run(main())


def test_a_message_that_is_too_long_is_refused_either_way_and_the_connection_goes_on(serve):
    async def main():
        async with serve({"long": lambda *_: StringValue(value="x" * MAX_MESSAGE)}) as served:
            channel = served.channel()
            for method, text in (("echo", "x" * MAX_MESSAGE), ("long", "")):
                code, _ = await failure(served.call(channel, method, text))
                assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await served.call(channel, "echo", "x")).value == "x"
            assert len(served.server.connections) == 1

    asyncio.run(main())


def test_many_calls_at_once_on_one_connection(serve):
    async def later(request, call):
        await asyncio.sleep(0.01)
        return request

    async def main():
        async with serve({"later": later}) as served:
            channel = served.channel()
            answers = await asyncio.gather(*(served.call(channel, "later", str(number)) for number in range(500)))
            assert [answer.value for answer in answers] == [str(number) for number in range(500)]

    asyncio.run(main())


def test_metadata_arrives(serve):
    seen = []

    def note(request, call):
        seen.append((call.service, call.method, call.metadata["containerd-namespace"], call.timeout))
        return request

    async def main():
        async with serve({"note": note}) as served:
            metadata = (("containerd-namespace", "k8s.io"), ("other", "x" * 3000))
            channel = served.channel()
            for _ in range(3):  # the second time out of HPACK's table
                await served.call(channel, "note", metadata=metadata)
            await served.call(channel, "note", metadata=metadata, timeout=60)

    asyncio.run(main())
    assert seen[:3] == [("test.v1.Strings", "note", "k8s.io", None)] * 3
    assert 50 < seen[3][3] < 61  # grpcio sends a little more


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        (RpcError(StatusCode.NOT_FOUND, "no task a"), grpc.StatusCode.NOT_FOUND, "no task a"),
        (RpcError(StatusCode.ABORTED, "100 % ü\n"), grpc.StatusCode.ABORTED, "100 % ü\n"),
        (RpcError(StatusCode.ABORTED, ""), grpc.StatusCode.ABORTED, ""),
        (RpcError(StatusCode.OK, "odd"), grpc.StatusCode.UNKNOWN, "odd"),
        (ZeroDivisionError("oops"), grpc.StatusCode.INTERNAL, "ZeroDivisionError: oops"),
        (RpcError(StatusCode.ABORTED, "\udcff"), grpc.StatusCode.ABORTED, "\\udcff"),
    ],
)
def test_errors_arrive_as_they_are(serve, error, code, details):
    async def main():
        async with serve({"fail": raising(error)}) as served:
            assert await failure(served.call(served.channel(), "fail")) == (code, details)

    asyncio.run(main())


@pytest.mark.parametrize("text", ["x" * 100_000, "ü" * 100_000, "x" + "ü" * 100_000, "xx" + "ü" * 100_000])
def test_an_errors_message_is_cut(serve, text):
    async def main():
        async with serve({"fail": raising(RpcError(StatusCode.ABORTED, text))}) as served:
            code, details = await failure(served.call(served.channel(), "fail"))
            assert code is grpc.StatusCode.ABORTED
            assert len(details) > 500
            assert text.startswith(details)

    asyncio.run(main())


@pytest.mark.parametrize(("service", "method"), [("test.v1.Strings", "nothing"), ("test.v1.Nothing", "echo")])
def test_what_is_not_offered_is_unimplemented(serve, service, method):
    async def main():
        async with serve() as served:
            code, details = await failure(served.call(served.channel(), method, service=service))
            assert code is grpc.StatusCode.UNIMPLEMENTED
            assert service in details

    asyncio.run(main())


def test_streaming_is_refused(serve):
    async def main():
        async with serve() as served:
            stream = served.channel().stream_unary("/test.v1.Strings/echo")
            code, details = await failure(stream(iter([b"", b""])))
            assert code is grpc.StatusCode.UNIMPLEMENTED
            assert "streaming" in details

    asyncio.run(main())


def test_compression_is_refused(serve):
    async def main():
        async with serve() as served:
            call = served.call(served.channel(), "echo", "x" * 1000, compression=grpc.Compression.Gzip)
            code, details = await failure(call)
            assert code is grpc.StatusCode.UNIMPLEMENTED
            assert "compressed" in details

    asyncio.run(main())


def test_a_deadline_cancels_the_handler(serve):
    ended = asyncio.Event()

    async def wait(request, call):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def main():
        async with serve({"wait": wait}) as served:
            code, _ = await failure(served.call(served.channel(), "wait", timeout=0.05))
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED
            await asyncio.wait_for(ended.wait(), 10)

    asyncio.run(main())


def test_a_client_that_cancels_ends_its_handler_and_no_other(serve, until):
    begun, ended = [], []

    async def wait(request, call):
        begun.append(request.value)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(request.value)

    async def main():
        async with serve({"wait": wait}) as served:
            channel = served.channel()
            calls = [served.call(channel, "wait", name) for name in "ab"]
            await until(lambda: len(begun) == 2)
            calls[0].cancel()
            await until(lambda: ended)
            assert ended == ["a"]
            assert (await served.call(channel, "echo", "x")).value == "x"

    asyncio.run(main())


def test_calls_end_within_the_grace_period_and_new_ones_are_refused(serve):
    gate = asyncio.Event()

    async def wait(request, call):
        await gate.wait()
        return request

    async def main():
        async with serve({"wait": wait}) as served:
            channel = served.channel()
            call = asyncio.ensure_future(served.call(channel, "wait", "done")._call_response)
            assert (await served.call(channel, "echo", "x")).value == "x"
            stop = asyncio.ensure_future(served.server.stop(10))
            await asyncio.sleep(0.01)
            code, _ = await failure(served.call(channel, "echo", timeout=0.2))
            assert code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
            gate.set()
            assert (await call).value == "done"
            await stop

    asyncio.run(main())


def test_calls_that_do_not_end_are_unavailable_when_the_server_stops(serve):
    async def wait(request, call):
        await asyncio.Event().wait()

    async def main():
        async with serve({"wait": wait}) as served:
            channel = served.channel()
            call = served.call(channel, "wait")
            assert (await served.call(channel, "echo", "x")).value == "x"
            await served.server.stop(0.01)
            assert (await failure(call))[0] is grpc.StatusCode.UNAVAILABLE

    asyncio.run(main())
