"""Nothing that the real containerd asks is unknown to our .proto files: a relay reads every request on its way."""

import asyncio
import os
import shutil
import socket
import tempfile
import threading
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.unknown_fields import UnknownFieldSet

from testing import oci
from testing.containerd import SANDBOXER, Containerd
from tests.support.daemon import Daemon
from tests.support.node import IMAGE, guests
from wasm_sandboxer.api.services import CONTROLLER, SERVICES, TASK
from wasm_sandboxer.rpc.grpc import GrpcServer
from wasm_sandboxer.rpc.transport.call import Method
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode
from wasm_sandboxer.rpc.ttrpc import TtrpcClient, TtrpcServer


class Relay:
    """Stands between containerd and a daemon, on both wires; keeps what it has seen."""

    def __init__(self, folder, daemon):
        self.listen, self._task_listen = folder / "r.sock", folder / "rt.sock"
        self._daemon = daemon
        self.methods, self.unknown = set(), set()

    @asynccontextmanager
    async def serving(self):
        channel = grpc.aio.insecure_channel(f"unix:{self._daemon.listen}")
        client = await TtrpcClient.connect(self._daemon.task_listen)

        async def over_grpc(method, request, call):
            ask = channel.unary_unary(
                f"/{CONTROLLER}/{method}",
                lambda m: m.SerializeToString(),
                SERVICES[CONTROLLER][method].response.FromString,
            )
            try:
                answer = await ask(
                    request, metadata=[("containerd-namespace", call.metadata["containerd-namespace"])]
                )
            except grpc.aio.AioRpcError as error:
                raise RpcError(StatusCode(error.code().value[0]), error.details()) from None
            if method == "Start":
                answer.address = f"ttrpc+unix://{self._task_listen}"
            return answer

        async def over_ttrpc(method, request, call):
            return await client.call(TASK, method, request, SERVICES[TASK][method].response, metadata=call.metadata)

        options = {"observe": lambda *_: None, "translate": lambda _: None}
        controller = GrpcServer({CONTROLLER: self._methods(CONTROLLER, over_grpc)}, **options)
        task = TtrpcServer({TASK: self._methods(TASK, over_ttrpc)}, **options)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self._task_listen))
        await task.start(listening)
        controller.bind(self.listen)
        controller.start()
        yield
        await asyncio.gather(controller.stop(0), task.stop(0))
        await channel.close()
        await client.close()

    def _methods(self, service, forward):
        def handler(method):
            async def handle(request, call):
                self.methods.add((service, method))
                self.unknown |= {(method, *where) for where in unknown_fields(request)}
                return await forward(method, request, call)

            return handle

        return {name: Method(rpc.request, rpc.response, handler(name)) for name, rpc in SERVICES[service].items()}


def unknown_fields(message):
    """The unknown fields of a message and of those in it: each one's type and number."""
    found = {(message.DESCRIPTOR.full_name, field.field_number) for field in UnknownFieldSet(message)}
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            if field.message_type.GetOptions().map_entry:
                inner = value.values() if field.message_type.fields_by_name["value"].message_type else ()
            else:
                inner = value if not hasattr(value, "DESCRIPTOR") else (value,)
            for each in inner:
                found |= unknown_fields(each)
    return found


@contextmanager
def in_thread(serving):
    """A coroutine's context, in a loop of its own thread."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run():
        async with serving():
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        assert ready.wait(20)
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


@pytest.fixture
def relayed(store_root):
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: containerd needs root")
    folder = Path(tempfile.mkdtemp(prefix="wsr-", dir="/tmp"))
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder)
        containerd = Containerd({SANDBOXER: folder / "r.sock"}, log=folder / "cd.log")
        daemon = undo.enter_context(Daemon(folder, store_root, containerd=containerd.address))
        relay = Relay(folder, daemon)
        undo.enter_context(in_thread(relay.serving))
        undo.enter_context(containerd)
        image = oci.build(folder / "guests.tar", IMAGE, [guests()], entrypoint=["/hello.wasm"])
        containerd.import_image(image)
        yield relay, containerd


def test_unknown_fields_are_seen():
    from wasm_sandboxer.api import task_pb2, types_pb2

    newer = types_pb2.Mount.FromString(b"\xfa\x01\x01x")
    assert unknown_fields(task_pb2.CreateTaskRequest(id="a", rootfs=[newer])) == {("containerd.types.Mount", 31)}


def test_containerd_asks_nothing_that_is_unknown(relayed, tmp_path):
    relay, containerd = relayed
    cri = containerd.cri
    pod = cri.run_pod()
    done = cri.run(pod, IMAGE, name="done")
    cri.wait_exit(done)
    idle = cri.run(pod, IMAGE, name="idle", command=["/sleep.wasm"], args=["forever"])
    assert cri.exec_sync(idle, ["/hello.wasm"]).exit_code == 0
    cri.stats(idle)
    cri.update(idle, cpu_shares=512)
    containerd.ctr("tasks", "pause", idle.id)
    containerd.ctr("tasks", "resume", idle.id)
    containerd.ctr("tasks", "ps", idle.id)
    containerd.restart()
    cri.stop(idle, 0)
    cri.remove(done)
    cri.stop_pod(pod)
    cri.remove_pod(pod)
    asked = {method for _, method in relay.methods}
    assert asked >= {
        "Create", "Start", "Platform", "Status", "Wait", "Stop", "Shutdown", "Connect", "State", "Kill", "Delete",
        "Exec", "Pids", "Stats", "Update", "Pause", "Resume",
    }  # fmt: skip
    assert relay.unknown == set()
