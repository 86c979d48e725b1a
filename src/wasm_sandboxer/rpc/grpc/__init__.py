"""gRPC on grpcio's core, by the interface that grpcio's own servers are built on.

containerd asks a sandbox's state ten times in a pod's short life, so what a call costs is what a pod costs. grpc.aio
takes each call through three threads of the core and a dozen turns of the event loop. Here one thread polls the
core's queue, reads and writes the sockets as it does so, and answers what may be answered from any thread without
waking the loop; docs/figures.md has the figures.
"""

from wasm_sandboxer.rpc.grpc.server import GrpcServer

__all__ = ["GrpcServer"]
