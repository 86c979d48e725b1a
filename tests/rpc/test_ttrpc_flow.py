import asyncio
import socket

from google.protobuf.wrappers_pb2 import StringValue

from wasm_sandboxer.rpc.ttrpc import Limits
from wasm_sandboxer.rpc.ttrpc.frames import REQUEST, FrameReader, encode


def big(size):
    answer = StringValue(value="x" * size)
    return lambda *_: answer


def silent(path):
    """A client that sends and does not read, with little room in the kernel for either."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.setblocking(False)
    return client


def flood(client, data, count, begin=0):
    """Send up to `count` requests, as far as the server takes them; returns how many."""
    for index in range(begin, begin + count):
        try:
            client.send(encode(2 * index + 1, REQUEST, data))
        except BlockingIOError:
            return index - begin
    return count


async def fill(client, data):
    """Send requests until the server has taken none for a while; returns how many."""
    sent, idle = 0, 0
    while idle < 20:
        more = flood(client, data, 10, sent)
        sent, idle = sent + more, 0 if more else idle + 1
        await asyncio.sleep(0.005)
    return sent


def answers(client, count):
    """Read that many answers."""
    client.setblocking(True)
    reader = FrameReader()
    while count:
        reader.feed(client.recv(1 << 16))
        while reader.next():
            count -= 1


def test_a_client_that_does_not_read_is_not_read_from_and_others_are_served(serve, request_data):
    async def main():
        handled = []

        def answer(request, call):
            handled.append(1)
            return StringValue(value="x" * 10_000)

        async with serve({"big": answer}) as served:
            other, client = await served.client(), silent(served.path)
            sent = await fill(client, request_data("big", "y" * 1000))
            before = len(handled)
            # Some requests lie in the kernel, because some answers lie in the server: not many.
            assert before < sent
            (connection,) = (c for c in served.server.connections if c._stalled)
            assert connection._transport.get_write_buffer_size() < 300_000

            assert await served.call(other, "echo", "served") == "served"
            assert len(handled) == before

            await asyncio.to_thread(answers, client, sent)
            assert len(handled) == sent
            client.close()

    asyncio.run(main())


def test_a_client_that_leaves_too_much_unread_is_dropped(serve, until, request_data, caplog):
    async def main():
        gate = asyncio.Event()

        async def answer(request, call):
            await gate.wait()
            return StringValue(value="x" * 100_000)

        async with serve({"big": answer}, limits=Limits(unread=1 << 20)) as served:
            other = await served.client()
            client = silent(served.path)
            assert flood(client, request_data("big"), 50) == 50
            await asyncio.sleep(0.05)
            assert len(served.server.connections) == 2
            gate.set()
            await until(lambda: len(served.server.connections) == 1)
            assert await served.call(other, "echo", "x") == "x"
            client.close()

    asyncio.run(main())
    assert "too many answers unread" in caplog.text


def test_a_client_that_reads_nothing_for_too_long_is_dropped(serve, until, request_data, caplog):
    async def main():
        async with serve({"big": big(1_000_000)}, limits=Limits(stalled=0.1)) as served:
            client = silent(served.path)
            flood(client, request_data("big"), 3)
            await until(lambda: served.server.connections)
            await until(lambda: not served.server.connections)
            client.close()

    asyncio.run(main())
    assert "read no answer for too long" in caplog.text


def test_a_client_that_reads_slowly_is_kept(serve, request_data):
    async def main():
        async with serve({"big": big(1_000_000)}, limits=Limits(stalled=0.6)) as served:
            client = silent(served.path)
            flood(client, request_data("big"), 1)
            loop, got = asyncio.get_running_loop(), 0
            while got < 1_000_000:
                await asyncio.sleep(0.04)
                # The kernel lets the server write on only when three quarters of its buffer are free.
                data = await loop.sock_recv(client, 40_000)
                assert data, "dropped"
                got += len(data)
            client.close()

    asyncio.run(main())


def test_a_flood_on_one_connection_lets_others_through(serve, request_data):
    async def main():
        handled = []

        def count(request, call):
            handled.append(1)
            return request

        async with serve({"count": count}) as served:
            raw, other = await served.raw(), await served.client()
            wire = b"".join(encode(2 * n + 1, REQUEST, request_data("count")) for n in range(20_000))
            raw.send(wire)
            assert await served.call(other, "echo", "through") == "through"
            assert len(handled) < 5_000
            for _ in range(20_000):
                await raw.answer()
            assert len(handled) == 20_000

    asyncio.run(main())


def test_a_client_that_leaves_amid_its_flood_is_not_served_further(serve, until, request_data):
    async def main():
        handled = []

        def count(request, call):
            handled.append(1)
            return request

        async with serve({"count": count}) as served:
            client = socket.socket(socket.AF_UNIX)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            client.connect(served.path)
            client.setblocking(False)
            client.send(b"".join(encode(2 * n + 1, REQUEST, request_data("count")) for n in range(2000)))
            async with asyncio.timeout(5):
                while not handled:  # noqa: ASYNC110  # the next turn of the loop is what matters here
                    await asyncio.sleep(0)
            client.close()
            await until(lambda: not served.server.connections)
            before = len(handled)
            await asyncio.sleep(0.01)
            assert len(handled) == before < 2000

    asyncio.run(main())
