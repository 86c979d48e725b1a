"""ttrpc: RPC over a Unix socket with ten bytes of framing, as containerd speaks it to its shims.

A complete transport for unary calls, server and client, on asyncio. It knows no service of ours and no domain
error: what to serve, how errors translate and what to record come from whoever builds the server. Streaming
calls are refused. The wire is described in containerd's ttrpc repository, PROTOCOL.md.
"""

from wasm_sandboxer.rpc.transport.call import Call, Handler, Limits, Method, Observe, Services, Translate
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode
from wasm_sandboxer.rpc.ttrpc.client import TtrpcClient
from wasm_sandboxer.rpc.ttrpc.server import TtrpcServer

__all__ = [
    "Call",
    "Handler",
    "Limits",
    "Method",
    "Observe",
    "RpcError",
    "Services",
    "StatusCode",
    "Translate",
    "TtrpcClient",
    "TtrpcServer",
]
