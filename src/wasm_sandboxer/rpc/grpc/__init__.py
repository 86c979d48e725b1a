"""gRPC over HTTP/2 on a Unix socket, as containerd's client speaks it: a server for unary calls.

Beside the package grpcio for what a call costs: that one hands each call through four threads of its own, and
every thread that has to be woken costs more than our whole answer. A pod makes fourteen such calls.

It has what gRPC asks of a server (doc/PROTOCOL-HTTP2.md, RFC 9113, RFC 7541) but what no client of ours sends:
streaming, compression, TLS, and pushing. Whatever it knows of services comes from whoever builds it.
"""

from wasm_sandboxer.rpc.grpc.server import GrpcServer

__all__ = ["GrpcServer"]
