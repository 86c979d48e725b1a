import asyncio
import contextlib

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue

from wasm_sandboxer.api.rpc_status_pb2 import Status
from wasm_sandboxer.api.ttrpc_pb2 import Request, Response
from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode, TtrpcClient
from wasm_sandboxer.rpc.ttrpc.frames import DATA, MAX_DATA, RESPONSE, FrameReader, encode


@contextlib.asynccontextmanager
async def server(folder, answer):
    """A server that answers each request with whatever bytes `answer(stream, request)` gives."""

    async def serve(reader, writer):
        frames = FrameReader()
        while data := await reader.read(1 << 16):
            frames.feed(data)
            while frame := frames.next():
                reply = answer(frame.stream, Request.FromString(bytes(frame.data)))
                writer.write(reply)
                if not reply:
                    writer.close()
        writer.close()

    listening = await asyncio.start_unix_server(serve, folder / "s")
    try:
        async with await TtrpcClient.connect(folder / "s") as client:
            yield client
    finally:
        listening.close()
        await asyncio.sleep(0.01)


def run(folder, answer, **options):
    """Make one call to such a server."""

    async def main():
        async with server(folder, answer) as client:
            return await client.call("s.S", "M", StringValue(value="v"), StringValue, **options)

    return asyncio.run(main())


def response(stream, value):
    return encode(
        stream,
        RESPONSE,
        Response(payload=StringValue(value=value).SerializeToString()).SerializeToString(),
    )


def test_sends_service_method_payload_timeout_and_metadata(folder):
    seen = []

    def answer(stream, request):
        seen.append((stream, request))
        return response(stream, "")

    run(folder, answer, timeout=2.5, metadata={"containerd-namespace-ttrpc": "k8s.io"})
    ((stream, request),) = seen
    assert (stream, request.service, request.method, request.timeout_nano) == (1, "s.S", "M", 2_500_000_000)
    assert StringValue.FromString(request.payload).value == "v"
    assert [(item.key, item.value) for item in request.metadata] == [("containerd-namespace-ttrpc", "k8s.io")]


def test_no_timeout_is_sent_as_none(folder):
    seen = []
    run(folder, lambda stream, request: seen.append(request.timeout_nano) or response(stream, ""))
    assert seen == [0]


def test_many_calls_at_once_each_get_their_own_answer(serve):
    async def later(request, call):
        await asyncio.sleep(int(request.value) % 7 / 1000)
        return request

    async def main():
        async with serve({"later": later}) as served:
            client = await served.client()
            words = [str(n) for n in range(300)]
            assert await asyncio.gather(*(served.call(client, "later", word) for word in words)) == words

    asyncio.run(main())


def test_a_status_is_raised_with_code_and_message(folder):
    def answer(stream, request):
        status = Status(code=StatusCode.NOT_FOUND, message="gone")
        return encode(stream, RESPONSE, Response(status=status).SerializeToString())

    with pytest.raises(RpcError, match="NOT_FOUND: gone"):
        run(folder, answer)


def test_a_code_that_does_not_exist_is_unknown(folder):
    with pytest.raises(RpcError, match="UNKNOWN: new"):
        run(
            folder,
            lambda stream, _: encode(
                stream, RESPONSE, Response(status=Status(code=99, message="new")).SerializeToString()
            ),
        )


def test_gives_up_when_the_time_is_up_and_ignores_the_late_answer(folder):
    held = []

    def answer(stream, request):
        if stream == 1:
            held.append(response(1, "late"))
            return encode(1, DATA, b"")
        return held.pop() + response(stream, "in time")

    async def main():
        async with server(folder, answer) as client:
            with pytest.raises(RpcError, match=r"DEADLINE_EXCEEDED: no answer within 0\.02 s"):
                await client.call("s", "m", Empty(), StringValue, timeout=0.02)
            assert (await client.call("s", "m", Empty(), StringValue)).value == "in time"

    asyncio.run(main())


def test_a_cancelled_call_leaves_the_connection_usable(serve):
    async def hang(request, call):
        await asyncio.Event().wait()

    async def main():
        async with serve({"hang": hang}) as served:
            client = await served.client()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await served.call(client, "hang")
            assert await served.call(client, "echo", "x") == "x"
            assert not client._wire._waiting

    asyncio.run(main())


def test_calls_fail_with_unavailable_when_the_connection_ends(folder):
    async def main():
        async with server(folder, lambda stream, _: response(0, "") if stream < 3 else b"") as client:
            calls = [client.call("s", "m", Empty(), Empty) for _ in range(3)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [result.code for result in results] == [StatusCode.UNAVAILABLE] * 3
            with pytest.raises(RpcError, match="UNAVAILABLE"):
                await client.call("s", "m", Empty(), Empty)

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        lambda stream: encode(stream, RESPONSE, b"\xff"),
        lambda stream: encode(stream, RESPONSE, Response(payload=b"\xff").SerializeToString()),
    ],
)
def test_an_answer_that_makes_no_sense_is_internal(folder, answer):
    with pytest.raises(RpcError, match=r"INTERNAL: s\.S/M"):
        run(folder, lambda stream, _: answer(stream))


def test_an_answer_that_is_too_long_fails_that_call_alone(folder):
    def answer(stream, request):
        return encode(1, RESPONSE, bytes(MAX_DATA + 1)) if stream == 1 else response(stream, "x")

    async def main():
        async with server(folder, answer) as client:
            with pytest.raises(RpcError, match="RESOURCE_EXHAUSTED"):
                await client.call("s", "m", Empty(), StringValue)
            assert (await client.call("s", "m", Empty(), StringValue)).value == "x"

    asyncio.run(main())


def test_a_request_that_is_too_long_is_not_sent(folder):
    async def main():
        async with server(folder, lambda stream, _: response(stream, "x")) as client:
            with pytest.raises(RpcError, match="RESOURCE_EXHAUSTED"):
                await client.call("s", "m", StringValue(value="x" * MAX_DATA), StringValue)
            assert (await client.call("s", "m", Empty(), StringValue)).value == "x"

    asyncio.run(main())


def test_connecting_to_nobody_is_an_os_error(folder):
    with pytest.raises(FileNotFoundError):
        asyncio.run(TtrpcClient.connect(folder / "nobody"))


def test_closing_twice_is_harmless(serve):
    async def main():
        async with serve() as served:
            client = await served.client()
            await client.close()
            await client.close()

    asyncio.run(main())
