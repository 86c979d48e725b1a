"""A gRPC server; see transport.server."""

from wasm_sandboxer.rpc.grpc.connection import GrpcConnection
from wasm_sandboxer.rpc.transport.server import Server

__all__ = ["GrpcServer"]


class GrpcServer(Server):
    """See Server."""

    connection = GrpcConnection
