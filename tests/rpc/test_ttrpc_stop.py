import asyncio
import socket

import pytest

from wasm_sandboxer.rpc.ttrpc import RpcError, StatusCode, TtrpcClient
from wasm_sandboxer.rpc.ttrpc.frames import REQUEST, encode


def gated():
    gate = asyncio.Event()

    async def wait(request, call):
        await gate.wait()
        return request

    return gate, wait


def test_running_calls_end_within_the_grace_period(serve):
    async def main():
        gate, wait = gated()
        async with serve({"wait": wait}) as served:
            client = await served.client()
            call = asyncio.ensure_future(served.call(client, "wait", "done"))
            await asyncio.sleep(0.01)
            stop = asyncio.ensure_future(served.server.stop(grace=10))
            await asyncio.sleep(0.01)
            assert not stop.done()
            gate.set()
            assert await call == "done"
            await stop
            assert not served.server.connections

    asyncio.run(main())


def test_those_that_only_wait_are_cancelled_at_once(serve):
    async def main():
        gate, wait = gated()
        _, forever = gated()
        async with serve({"wait": wait, "forever": forever}, waiting=("forever",)) as served:
            client = await served.client()
            first, second = (asyncio.ensure_future(served.call(client, name)) for name in ("wait", "forever"))
            await asyncio.sleep(0.01)
            stop = asyncio.ensure_future(served.server.stop(grace=1000))
            await asyncio.sleep(0.01)
            assert not second.done()  # as long as others are at work
            gate.set()
            async with asyncio.timeout(10):
                await stop
            assert await first == ""
            with pytest.raises(RpcError, match="UNAVAILABLE: the server is stopping"):
                await second

    asyncio.run(main())


def test_calls_are_cancelled_when_the_grace_period_is_over(serve):
    async def main():
        cancelled = []

        async def wait(request, call):
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(1)

        async with serve({"wait": wait}) as served:
            client = await served.client()
            call = asyncio.ensure_future(served.call(client, "wait"))
            await asyncio.sleep(0.01)
            await served.server.stop(grace=0.02)
            with pytest.raises(RpcError, match="UNAVAILABLE: the server is stopping"):
                await call
            assert cancelled

    asyncio.run(main())


def test_a_stopping_server_refuses_new_calls_and_connections(serve):
    async def main():
        gate, wait = gated()
        async with serve({"wait": wait}) as served:
            client = await served.client()
            call = asyncio.ensure_future(served.call(client, "wait", "x"))
            await asyncio.sleep(0.01)
            stop = asyncio.ensure_future(served.server.stop(grace=10))
            await asyncio.sleep(0.01)
            with pytest.raises(RpcError) as refused:
                await served.call(client, "echo")
            assert refused.value.code == StatusCode.UNAVAILABLE
            with pytest.raises(OSError):  # refused, or the path is gone
                await TtrpcClient.connect(served.path)
            gate.set()
            assert await call == "x"
            await stop

    asyncio.run(main())


def test_handlers_and_clients_that_do_not_cooperate_cannot_hold_up_the_stop(serve, request_data):
    async def main():
        release = asyncio.Event()

        async def stubborn(request, call):
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return request

        def big(request, call):
            return type(request)(value="x" * 1_000_000)

        async with serve({"stubborn": stubborn, "big": big}) as served:
            deaf = socket.socket(socket.AF_UNIX)
            deaf.connect(served.path)
            deaf.send(encode(1, REQUEST, request_data("big")))
            raw = await served.raw()
            raw.request(1, "stubborn")
            await asyncio.sleep(0.05)
            async with asyncio.timeout(20):
                await served.server.stop(grace=0)
            assert not served.server.connections
            release.set()
            await asyncio.sleep(0.01)
            deaf.close()

    asyncio.run(main())


def test_a_server_without_connections_stops_at_once(serve):
    async def main():
        async with serve() as served:
            async with asyncio.timeout(5):
                await served.server.stop(grace=1000)

    asyncio.run(main())


def test_the_sockets_file_stays_for_its_owner_to_remove(serve, folder):
    async def main():
        async with serve() as served:
            await served.server.stop(grace=0)
            assert (folder / "s").is_socket()

    asyncio.run(main())
