"""Serves a hundred calls and prints how often the server's thread waited, and how often the core's others did."""

import asyncio
import os
import sys
from pathlib import Path

from google.protobuf.wrappers_pb2 import StringValue

from wasm_sandboxer.rpc.grpc import GrpcServer
from wasm_sandboxer.rpc.transport.call import Method

_CLIENT = """
import sys, time, grpc
call = grpc.insecure_channel("unix:" + sys.argv[1]).unary_unary("/s/echo")
for _ in range(100):
    call(b"")
    time.sleep(0.005)
"""


def waits() -> dict[str, int]:
    counts = {"grpc": 0, "others": 0}
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) == os.getpid():
            continue
        try:
            name = (task / "comm").read_text().strip()
            lines = (task / "status").read_text().splitlines()
        except OSError:  # it has ended meanwhile
            continue
        waited = next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))
        counts["grpc" if name == "grpc" else "others"] += waited
    return counts


async def main() -> None:
    echo = Method(StringValue, StringValue, lambda request, _: request, any_thread=True)
    server = GrpcServer({"s": {"echo": echo}}, observe=lambda *_: None, translate=lambda _: None)
    server.bind(Path(sys.argv[1]))
    server.start()
    client = await asyncio.create_subprocess_exec(sys.executable, "-c", _CLIENT, sys.argv[1])
    assert await client.wait() == 0
    for name, count in waits().items():
        print(name, count)
    await server.stop(0)


asyncio.run(main())
