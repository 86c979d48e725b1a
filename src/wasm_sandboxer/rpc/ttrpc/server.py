"""A ttrpc server; see transport.server."""

from wasm_sandboxer.rpc.transport.server import Server
from wasm_sandboxer.rpc.ttrpc.connection import TtrpcConnection

__all__ = ["TtrpcServer"]


class TtrpcServer(Server):
    """See Server."""

    connection = TtrpcConnection
