"""What the gRPC server does with HTTP/2's own matters, and with clients that break its rules."""

import asyncio
import struct

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rpc.grpc.conftest import FIELDS, body
from wasm_sandboxer.rpc.grpc import frames, hpack
from wasm_sandboxer.rpc.grpc.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    MAX_PAYLOAD,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
    encode,
)
from wasm_sandboxer.rpc.transport.call import Limits
from wasm_sandboxer.rpc.transport.status import StatusCode

INITIAL_WINDOW_SIZE, HEADER_TABLE_SIZE = 4, 1


def setting(name, value):
    return struct.pack(">HI", name, value)


def window(stream, size):
    return encode(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def run(serve, test, handlers=None, **options):
    async def main():
        async with serve(handlers, **options) as served:
            await asyncio.wait_for(test(served), 30)

    asyncio.run(main())


async def echoes(served):
    """Whether another client is served."""
    raw = await served.begun()
    raw.send(raw.request(1, "other"))
    assert (await raw.until(DATA, 1)).payload == body("other")
    assert (await raw.trailers(1))["grpc-status"] == "0"


def test_a_call_frame_by_frame(serve):
    async def test(served):
        raw = await served.begun()
        raw.send(raw.request(1, "hello"))
        first = await raw.frame()
        assert (first.kind, first.flags, first.stream) == (SETTINGS, 0, 0)
        assert (await raw.until(SETTINGS)).flags == ACK
        await raw.until(HEADERS, 1)
        assert raw.fields == {":status": "200", "content-type": "application/grpc"}
        assert (await raw.frame()).payload == body("hello")
        last = await raw.frame()
        assert (last.kind, last.flags) == (HEADERS, END_HEADERS | END_STREAM)
        assert raw.decoder.decode(last.payload) == [("grpc-status", "0")]

    run(serve, test)


def test_bytes_may_come_one_by_one(serve):
    async def test(served):
        raw = await served.raw()
        for byte in PREFACE + encode(SETTINGS, 0, 0) + raw.request(1, "hello"):
            raw.send(bytes((byte,)))
            await raw.writer.drain()
            await asyncio.sleep(0)
        assert (await raw.until(DATA, 1)).payload == body("hello")

    run(serve, test)


def test_padding_and_priority_are_passed_over(serve):
    async def test(served):
        raw = await served.begun()
        block = raw.headers(1)[9:]
        raw.send(encode(HEADERS, 4 | 8 | 32, 1, b"\x03" + b"\x80\0\0\0\x10" + block + b"\0\0\0"))
        raw.send(encode(DATA, 8, 1, b"\x02" + body("padded")[:3] + b"\0\0"))
        raw.send(encode(DATA, END_STREAM | 8, 1, b"\x00" + body("padded")[3:]))
        assert (await raw.until(DATA, 1)).payload == body("padded")

    run(serve, test)


def test_a_header_block_may_come_in_pieces_and_a_request_end_in_trailers(serve):
    async def test(served):
        raw = await served.begun()
        block = raw.headers(1)[9:]
        raw.send(encode(HEADERS, 0, 1, block[:5]), encode(CONTINUATION, 0, 1, block[5:9]))
        raw.send(encode(CONTINUATION, END_HEADERS, 1, block[9:]), encode(DATA, 0, 1, body("x")))
        raw.send(encode(HEADERS, END_HEADERS | END_STREAM, 1, hpack.literal("some", "trailer")))
        assert (await raw.until(DATA, 1)).payload == body("x")

    run(serve, test)


def test_pings_are_answered_and_unknown_kinds_passed_over(serve):
    async def test(served):
        raw = await served.begun()
        raw.send(
            encode(99, 255, 7, b"?"), encode(frames.PRIORITY, 0, 1, bytes(5)), encode(frames.GOAWAY, 0, 0, bytes(8))
        )
        raw.send(encode(PING, ACK, 0, bytes(8)), encode(PING, 0, 0, b"12345678"))
        ping = await raw.until(PING)
        assert (ping.flags, ping.payload) == (ACK, b"12345678")
        raw.send(raw.request(1, "x"))
        assert (await raw.until(DATA, 1)).payload == body("x")

    run(serve, test)


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"p_method": "GET"}, "405"), ({"content_type": "text/html"}, "415"), ({"content_type": None}, "415")],
)
def test_what_is_no_grpc_is_answered_in_http(serve, changes, status):
    async def test(served):
        raw = await served.begun()
        raw.send(raw.headers(1, END_HEADERS | END_STREAM, **changes), raw.headers(3, **changes))
        for stream in (1, 3):
            assert (await raw.trailers(stream))[":status"] == status
        assert (await raw.until(RST_STREAM)).stream == 3  # whose request has not ended
        raw.send(encode(DATA, END_STREAM, 3, b"late"), raw.request(5, "x"))
        assert (await raw.until(DATA, 5)).payload == body("x")

    run(serve, test)


@pytest.mark.parametrize("changes", [{"p_method": None}, {"p_path": None}])
def test_a_request_without_method_or_path_is_reset(serve, changes):
    async def test(served):
        raw = await served.begun()
        raw.send(raw.headers(1, **changes))
        assert (await raw.until(RST_STREAM, 1)).payload[-1] == Code.PROTOCOL_ERROR
        await echoes(served)

    run(serve, test)


@pytest.mark.parametrize("path", ["", "/", "echo", "/echo", "/test.v1.Strings/", "/a/b/c"])
def test_odd_paths_are_unimplemented(serve, path):
    async def test(served):
        raw = await served.begun()
        raw.send(raw.request(1, p_path=path))
        assert (await raw.trailers(1))["grpc-status"] == str(int(StatusCode.UNIMPLEMENTED))

    run(serve, test)


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\0\0\0\0\x05hi"])
def test_half_a_message_is_an_error(serve, data):
    async def test(served):
        raw = await served.begun()
        raw.send(raw.headers(1), encode(DATA, END_STREAM, 1, data))
        assert (await raw.trailers(1))["grpc-status"] == str(int(StatusCode.INTERNAL))
        await echoes(served)

    run(serve, test)


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [("1H", 3600), ("2M", 120), ("3S", 3), ("99999999m", 99999.999), ("5u", 5e-6), ("7n", 7e-9)],
)
def test_timeouts_are_read(serve, timeout, seconds):
    seen = []

    def note(request, call):
        seen.append(call.timeout)
        return request

    async def test(served):
        raw = await served.begun()
        raw.send(raw.request(1, p_path="/test.v1.Strings/note", grpc_timeout=timeout))
        await raw.trailers(1)

    run(serve, test, {"note": note})
    assert seen == [pytest.approx(seconds)]


@pytest.mark.parametrize("timeout", ["", "1", "S", "1s", "-1S", "100000000S", "٣S"])
def test_a_timeout_that_makes_no_sense_is_an_error(serve, timeout):
    async def test(served):
        raw = await served.begun()
        raw.send(raw.request(1, grpc_timeout=timeout))
        assert (await raw.trailers(1))["grpc-status"] == str(int(StatusCode.INTERNAL))

    run(serve, test)


# Windows.


def test_a_response_waits_for_its_window(serve):
    async def test(served):
        raw = await served.begun(setting(INITIAL_WINDOW_SIZE, 10))
        text = "x" * 200
        raw.send(raw.request(1, text))
        got = (await raw.until(DATA, 1)).payload
        assert len(got) == 10
        raw.send(window(1, 5))
        got += (await raw.until(DATA, 1)).payload
        assert len(got) == 15
        raw.send(encode(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 30)))
        got += (await raw.until(DATA, 1)).payload
        assert len(got) == 35
        raw.send(encode(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 0)))  # which takes it below zero
        raw.send(window(1, 30), encode(PING, 0, 0, bytes(8)))
        await raw.until(PING)
        raw.send(window(1, 1000))
        got += (await raw.until(DATA, 1)).payload
        assert got == body(text)
        assert (await raw.trailers(1))["grpc-status"] == "0"

    run(serve, test)


def test_the_connections_window_bounds_all_responses_together(serve):
    async def test(served):
        raw = await served.begun(setting(INITIAL_WINDOW_SIZE, 1 << 20))
        text = "x" * 40_000
        raw.send(raw.request(1, text), raw.request(3, text))
        got = {1: b"", 3: b""}
        while sum(map(len, got.values())) < (64 << 10) - 1:
            frame = await raw.until(DATA)
            assert len(frame.payload) <= MAX_PAYLOAD
            got[frame.stream] += frame.payload
        assert sum(map(len, got.values())) == (64 << 10) - 1
        raw.send(window(0, 1 << 20))
        while got[3] != body(text):
            got[3] += (await raw.until(DATA, 3)).payload
        assert got == {1: body(text), 3: body(text)}

    run(serve, test)


def test_a_reset_stream_is_forgotten_with_what_it_had_to_get(serve):
    async def test(served):
        raw = await served.begun(setting(INITIAL_WINDOW_SIZE, 10))
        raw.send(raw.request(1, "x" * 100))
        await raw.until(DATA, 1)
        raw.send(encode(RST_STREAM, 0, 1, bytes(4)), raw.headers(3), encode(RST_STREAM, 0, 3, bytes(4)))
        raw.send(window(1, 1000), encode(RST_STREAM, 0, 1, bytes(4)), raw.request(5, "y"))
        assert (await raw.until(DATA)).stream == 5
        (connection,) = served.server.connections
        assert not connection._streams
        assert not connection._blocked

    run(serve, test)


def test_a_client_that_opens_no_window_is_dropped_in_the_end(serve, caplog):
    async def test(served):
        raw = await served.begun(setting(INITIAL_WINDOW_SIZE, 0))
        raw.send(*(raw.request(stream, "x" * 1000) for stream in range(1, 41, 2)))
        while await raw.frame():
            pass
        await echoes(served)

    run(serve, test, limits=Limits(unread=10_000))
    assert "grpc: dropped a client that leaves too many answers unread" in caplog.text


def test_what_clients_send_is_bounded_and_given_back(serve):
    async def test(served):
        raw = await served.begun()
        text = "x" * (3 << 20)
        more = 0
        for stream in range(1, 41, 2):
            raw.send(raw.request(stream, text))
            await raw.writer.drain()
        raw.send(encode(PING, 0, 0, bytes(8)))
        while (frame := await raw.frame()).kind != PING:
            more += int.from_bytes(frame.payload, "big") if frame.kind == WINDOW_UPDATE else 0
        assert more > 40 << 20

    run(serve, test, {"echo": lambda *_: StringValue()})


def test_data_beyond_the_connections_window_ends_it(serve, caplog):
    async def test(served):
        raw = await served.begun()
        for stream in range(1, 11, 2):
            raw.send(raw.headers(stream))
            for _ in range(511):
                raw.send(encode(DATA, 0, stream, bytes(MAX_PAYLOAD)))
        while await raw.frame():
            pass
        await echoes(served)

    run(serve, test)
    assert "more data than the window allows" in caplog.text


def test_too_many_streams_are_refused(serve):
    async def wait(request, call):
        await asyncio.Event().wait()

    async def test(served):
        raw = await served.begun()
        raw.send(*(raw.request(stream, p_path="/test.v1.Strings/wait") for stream in (1, 3, 5)))
        assert (await raw.until(RST_STREAM, 5)).payload[-1] == Code.REFUSED_STREAM
        raw.send(encode(RST_STREAM, 0, 1, bytes(4)), encode(PING, 0, 0, bytes(8)))
        await raw.until(PING)
        raw.send(raw.request(7, "x"))
        assert (await raw.until(DATA, 7)).payload == body("x")

    run(serve, test, {"wait": wait}, limits=Limits(calls=2))


def test_a_client_may_ask_for_a_smaller_header_table(serve):
    async def test(served):
        raw = await served.begun(setting(HEADER_TABLE_SIZE, 0))
        raw.send(raw.request(1, "x"))
        frame = await raw.until(HEADERS, 1)
        assert frame.payload[0] == 0x20  # a table of no size, as RFC 7541, section 4.2 wants to be told
        await raw.trailers(1)

    run(serve, test)


# Broken rules.


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (encode(HEADERS, 0, 1, b"") + encode(DATA, 0, 1), Code.PROTOCOL_ERROR),
        (encode(HEADERS, 0, 1, b"") + encode(CONTINUATION, 0, 3), Code.PROTOCOL_ERROR),
        (encode(CONTINUATION, 0, 1, b""), Code.PROTOCOL_ERROR),
        (encode(HEADERS, 0, 1, b"") + 6 * encode(CONTINUATION, 0, 1, bytes(16000)), Code.ENHANCE_YOUR_CALM),
        (encode(HEADERS, END_HEADERS, 2, b""), Code.PROTOCOL_ERROR),
        (encode(HEADERS, END_HEADERS, 0, b""), Code.PROTOCOL_ERROR),
        (encode(HEADERS, END_HEADERS, 1, b"\xff"), Code.COMPRESSION_ERROR),
        (encode(HEADERS, END_HEADERS | 8, 1, b""), Code.PROTOCOL_ERROR),
        (encode(HEADERS, END_HEADERS | 8, 1, b"\x05abc"), Code.PROTOCOL_ERROR),
        (encode(HEADERS, END_HEADERS | 32, 1, b"abc"), Code.FRAME_SIZE_ERROR),
        (encode(DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
        (encode(DATA, 0, 5, b"x"), Code.PROTOCOL_ERROR),
        (encode(RST_STREAM, 0, 5, bytes(4)), Code.PROTOCOL_ERROR),
        (encode(RST_STREAM, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
        (encode(frames.PUSH_PROMISE, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
        (encode(PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
        (encode(SETTINGS, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
        (encode(SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
        (encode(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 1 << 31)), Code.FLOW_CONTROL_ERROR),
        (window(0, 0), Code.FLOW_CONTROL_ERROR),
        (window(0, (1 << 31) - 1), Code.FLOW_CONTROL_ERROR),
        (encode(WINDOW_UPDATE, 0, 0, bytes(3)), Code.FRAME_SIZE_ERROR),
        (encode(DATA, 0, 1, bytes(MAX_PAYLOAD + 1)), Code.FRAME_SIZE_ERROR),
    ],
)
def test_a_client_that_breaks_the_rules_is_told_and_dropped_and_others_are_served(serve, data, code, caplog):
    async def test(served):
        raw = await served.begun()
        raw.send(data)
        assert (await raw.goodbye())[0] == code
        await echoes(served)

    run(serve, test)
    assert caplog.text.count("grpc: dropped a client") == 1


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 30, PREFACE[:10] + b"x"])
def test_who_speaks_no_http2_is_dropped(serve, data):
    async def test(served):
        raw = await served.raw()
        raw.send(data)
        assert (await raw.goodbye())[1] == "this is not HTTP/2"
        await echoes(served)

    run(serve, test)


def test_a_client_that_leaves_ends_its_calls(serve, until):
    ended = []

    async def wait(request, call):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    async def test(served):
        raw = await served.begun()
        raw.send(raw.request(1, p_path="/test.v1.Strings/wait"), encode(PING, 0, 0, bytes(8)))
        await raw.until(PING)
        raw.writer.transport.abort()
        await until(lambda: ended)

    run(serve, test, {"wait": wait})


def test_a_server_that_stops_says_which_stream_was_its_last(serve):
    async def test(served):
        raw = await served.begun()
        raw.send(raw.request(7, "x"))
        await raw.trailers(7)
        await served.server.stop(0.1)
        frame = await raw.until(frames.GOAWAY)
        assert struct.unpack(">II", frame.payload[:8]) == (7, Code.NO_ERROR)
        assert await raw.frame() is None

    run(serve, test)


_FRAMES = st.builds(
    encode,
    st.integers(0, 10),
    st.integers(0, 255),
    st.integers(0, 5),
    st.one_of(st.binary(max_size=40), st.just(b"".join(hpack.literal(*each) for each in FIELDS.items()))),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=200), st.lists(_FRAMES, max_size=12).map(b"".join)))
def test_nothing_that_a_client_sends_harms_another(serve, folder, caplog, data):
    async def test(served):
        raw = await served.begun()
        raw.send(data)
        await echoes(served)

    (folder / "g").unlink(missing_ok=True)
    caplog.clear()
    run(serve, test)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
