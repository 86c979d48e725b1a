"""What a call over our ttrpc costs: calls a second, and CPU time on each side of a Unix socket.

    python -m benchmarks.ttrpc [--seconds 3] [--one-cpu] [--json FILE]

The server is a process of its own with Task methods that do nothing, so the figures are the transport's
alone: `function` is a plain handler, `coroutine` one that answers without waiting, `waiting` one that lets
the loop turn once. Each call is observed, as in the daemon. Times are microseconds a call. With one call at a
time much of the CPU time is the kernel's, waking the other side's CPU from its sleep, and differs from run
to run; `--one-cpu` keeps both sides on one CPU, where no such waking is needed.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from google.protobuf.empty_pb2 import Empty

from wasm_sandboxer.api import task_pb2 as task
from wasm_sandboxer.api.services import SERVICES, TASK
from wasm_sandboxer.rpc.ttrpc import Call, Handler, Method, RpcError, TtrpcClient, TtrpcServer

CONCURRENCY = 100
METADATA = {"containerd-namespace-ttrpc": "k8s.io"}
SANDBOX = "0123456789abcdef" * 4


class Figures(NamedTuple):
    """One row of the table; times in microseconds of a call."""

    handler: str
    concurrent: int
    calls_per_second: float
    wall: float
    server_cpu: float
    client_cpu: float


# The server's side.


def function(request: task.StateRequest, call: Call) -> task.StateResponse:
    return task.StateResponse(
        id=request.id, bundle=f"/run/{call.metadata['containerd-namespace-ttrpc']}", pid=1, stdout="/run/fifo"
    )


async def coroutine(_request: task.KillRequest, _call: Call) -> Empty:
    return Empty()


async def waiting(_request: task.WaitRequest, _call: Call) -> task.WaitResponse:
    await asyncio.sleep(0)
    return task.WaitResponse(exit_status=0)


def cpu_time(_request: task.ConnectRequest, _call: Call) -> task.ConnectResponse:
    return task.ConnectResponse(version=str(time.process_time()))


async def serve(path: str) -> None:
    handlers: dict[str, Handler] = {"State": function, "Kill": coroutine, "Wait": waiting, "Connect": cpu_time}
    methods = {
        name: Method(SERVICES[TASK][name].request, SERVICES[TASK][name].response, handler)
        for name, handler in handlers.items()
    }
    seen: dict[str, float] = {}

    def observe(call: Call, _error: RpcError | None, seconds: float) -> None:
        seen[call.method] = seconds

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    await TtrpcServer({TASK: methods}, observe=observe).start(listening)
    print("ready", flush=True)
    await asyncio.Event().wait()


# The client's side.

Caller = Callable[[], Awaitable[object]]


async def repeat(call: Caller, until: float) -> int:
    made = 0
    while time.perf_counter() < until:
        for _ in range(20):
            await call()
        made += 20
    return made


async def measure(client: TtrpcClient, handler: str, call: Caller, concurrent: int, seconds: float) -> Figures:
    async def server_cpu() -> float:
        answer = await client.call(TASK, "Connect", task.ConnectRequest(), task.ConnectResponse)
        return float(answer.version)

    await repeat(call, time.perf_counter() + 0.2)  # warm
    theirs, ours, begin = await server_cpu(), time.process_time(), time.perf_counter()
    made = sum(await asyncio.gather(*(repeat(call, begin + seconds) for _ in range(concurrent))))
    wall, ours, theirs = time.perf_counter() - begin, time.process_time() - ours, await server_cpu() - theirs
    return Figures(handler, concurrent, made / wall, wall / made * 1e6, theirs / made * 1e6, ours / made * 1e6)


async def run(path: str, seconds: float) -> list[Figures]:
    async with await TtrpcClient.connect(path) as client:
        state = task.StateRequest(id=SANDBOX)
        kill = task.KillRequest(id=SANDBOX, signal=15)
        wait = task.WaitRequest(id=SANDBOX)
        callers: dict[str, Caller] = {
            "function": lambda: client.call(TASK, "State", state, task.StateResponse, metadata=METADATA),
            "coroutine": lambda: client.call(TASK, "Kill", kill, Empty, metadata=METADATA),
            "waiting": lambda: client.call(TASK, "Wait", wait, task.WaitResponse, metadata=METADATA),
        }
        return [
            await measure(client, name, call, concurrent, seconds)
            for name, call in callers.items()
            for concurrent in (1, CONCURRENCY)
        ]


def table(rows: list[Figures]) -> str:
    head = f"{'handler':10} {'at once':>7} {'calls/s':>9} {'wall µs':>8} {'server CPU':>11} {'client CPU':>11}"
    return "\n".join(
        [
            head,
            *(
                f"{row.handler:10} {row.concurrent:7} {row.calls_per_second:9.0f} {row.wall:8.1f}"
                f" {row.server_cpu:11.1f} {row.client_cpu:11.1f}"
                for row in rows
            ),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3, help="for each row")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--one-cpu", action="store_true", help="keep both sides on one CPU")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        asyncio.run(serve(options.serve))
        return
    if options.one_cpu:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/task.sock"
        command = [sys.executable, __file__, "--serve", path]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            server.stdout.readline()
            try:
                rows = asyncio.run(run(path, options.seconds))
            finally:
                server.terminate()
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
