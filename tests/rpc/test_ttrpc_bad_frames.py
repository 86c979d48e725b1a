import asyncio
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wasm_sandboxer.rpc.ttrpc import StatusCode
from wasm_sandboxer.rpc.ttrpc.frames import DATA, MAX_DATA, REQUEST, RESPONSE, encode


async def is_alive(raw, stream):
    raw.request(stream, "echo", "alive")
    return (await raw.answer())[0] == stream


async def refused(raw, stream, code=StatusCode.INVALID_ARGUMENT):
    answered, response = await raw.answer()
    assert (answered, response.status.code) == (stream, code), response
    return response.status.message


@pytest.mark.parametrize("kind", [0, RESPONSE, DATA, 9, 255])
def test_a_frame_that_is_no_request_is_refused(serve, kind):
    async def main():
        async with serve() as served:
            raw = await served.raw()
            raw.send(encode(1, kind, b"data"))
            assert str(kind) in await refused(raw, 1)
            assert await is_alive(raw, 1)

    asyncio.run(main())


@pytest.mark.parametrize("stream", [0, 2, 2**32 - 2])
def test_an_even_stream_is_refused(serve, stream):
    async def main():
        async with serve() as served:
            raw = await served.raw()
            raw.request(stream, "echo")
            await refused(raw, stream)
            assert await is_alive(raw, 1)

    asyncio.run(main())


def test_a_stream_id_that_does_not_grow_is_refused(serve):
    async def main():
        async with serve() as served:
            raw = await served.raw()
            assert await is_alive(raw, 7)
            for stream in (7, 5, 1):
                raw.request(stream, "echo")
                await refused(raw, stream)
            assert await is_alive(raw, 9)

    asyncio.run(main())


@pytest.mark.parametrize("kind", [REQUEST, DATA, 9])
def test_a_bad_frame_does_not_end_the_good_call_on_its_stream(serve, kind, request_data):
    async def main():
        gate = asyncio.Event()

        async def wait(request, call):
            await gate.wait()
            return request

        async with serve({"wait": wait}) as served:
            raw = await served.raw()
            raw.request(1, "wait", "good")
            raw.send(encode(1, kind, request_data("echo", "bad")))
            assert await is_alive(raw, 3)
            gate.set()
            stream, response = await raw.answer()
            assert (stream, response.payload) == (1, b"\n\4good")

    asyncio.run(main())


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x7f", b"\x0a\x02\xff\xfe", b"garbage" * 100])
def test_data_that_is_no_request_is_refused(serve, data):
    async def main():
        async with serve() as served:
            raw = await served.raw()
            raw.send(encode(1, REQUEST, data))
            await refused(raw, 1)
            assert await is_alive(raw, 3)

    asyncio.run(main())


def test_a_payload_of_another_kind_is_refused_with_what_was_expected(serve):
    async def main():
        async with serve() as served:
            raw = await served.raw()
            raw.request(1, "echo", payload=b"\x0a\xff")
            assert "google.protobuf.StringValue" in await refused(raw, 1)
            assert await is_alive(raw, 3)

    asyncio.run(main())


@pytest.mark.parametrize("flags", [1, 2, 3])
def test_a_streaming_request_is_refused_and_so_is_what_follows(serve, flags):
    async def main():
        async with serve() as served:
            raw = await served.raw()
            raw.request(1, "echo", flags=flags)
            assert "streaming" in await refused(raw, 1, StatusCode.UNIMPLEMENTED)
            raw.send(encode(1, DATA, b"more"))
            await refused(raw, 1)
            assert await is_alive(raw, 3)

    asyncio.run(main())


@pytest.mark.parametrize("length", [MAX_DATA + 1, 20 << 20])
def test_a_request_that_is_too_long_is_refused_and_its_connection_lives_on(serve, length):
    async def main():
        async with serve() as served:
            raw, other = await served.raw(), await served.client()
            raw.send(struct.pack(">IIBB", length, 1, REQUEST, 0))
            await refused(raw, 1, StatusCode.RESOURCE_EXHAUSTED)
            for _ in range(length // 1000):
                raw.send(bytes(1000))
            assert await served.call(other, "echo", "meanwhile") == "meanwhile"
            raw.send(bytes(length % 1000))
            assert await is_alive(raw, 3)

    asyncio.run(main())


def test_the_longest_request_is_served(serve):
    async def main():
        async with serve({"size": lambda request, _: type(request)(value=str(len(request.value)))}) as served:
            client = await served.client()
            assert await served.call(client, "size", "x" * (MAX_DATA - 100)) == str(MAX_DATA - 100)

    asyncio.run(main())


def test_requests_are_served_byte_by_byte(serve, request_data):
    async def main():
        async with serve() as served:
            raw = await served.raw()
            wire = b"".join(encode(stream, REQUEST, request_data("echo", "slow")) for stream in (1, 3))
            for byte in wire:
                raw.send(bytes([byte]))
                await asyncio.sleep(0)
            assert [(await raw.answer())[0] for _ in range(2)] == [1, 3]

    asyncio.run(main())


def test_a_connection_that_ends_amid_a_frame_is_forgotten(serve, until, request_data):
    async def main():
        async with serve() as served:
            raw = await served.raw()
            raw.send(encode(1, REQUEST, request_data("echo"))[:-3])
            await asyncio.sleep(0.01)
            raw.close()
            await until(lambda: not served.server.connections)

    asyncio.run(main())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                encode,
                stream=st.integers(0, 9),
                kind=st.integers(0, 4),
                data=st.binary(max_size=40),
                flags=st.integers(0, 4),
            ),
        ),
        max_size=15,
    )
)
def test_no_bytes_harm_another_connection(folder, serve, pieces):
    async def main():
        async with serve() as served:
            vandal, other = await served.raw(), await served.client()
            for piece in pieces:
                vandal.send(piece)
                await asyncio.sleep(0)
            assert await served.call(other, "echo", "unharmed") == "unharmed"
        (folder / "s").unlink()  # for the next example

    asyncio.run(main())
