"""Answers as frames: a method's response, or the error in its place. Pure."""

from google.protobuf.message import Message

from wasm_sandboxer.api.rpc_status_pb2 import Status
from wasm_sandboxer.api.ttrpc_pb2 import Response
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode
from wasm_sandboxer.rpc.ttrpc.frames import MAX_DATA, RESPONSE, encode

__all__ = ["failure", "success"]

# An error's message, in characters: enough to read, and far from MAX_DATA.
_MESSAGE = 8 << 10


def success(stream: int, response: Message) -> bytes:
    """The frame that carries a response; RpcError if it is too long to be sent."""
    data = Response(payload=response.SerializeToString()).SerializeToString()
    if len(data) > MAX_DATA:
        text = f"the answer would be {len(data)} bytes long, and at most {MAX_DATA} can be sent"
        raise RpcError(StatusCode.RESOURCE_EXHAUSTED, text)
    return encode(stream, RESPONSE, data)


def failure(stream: int, error: RpcError) -> bytes:
    """The frame that carries an error."""
    # A path that is not UTF-8 may have come into the text as surrogates, which protobuf refuses.
    text = error.message[:_MESSAGE].encode("utf-8", "backslashreplace").decode()
    # An error whose code is OK is a mistake, but must not read as success.
    response = Response(status=Status(code=error.code or StatusCode.UNKNOWN, message=text))
    return encode(stream, RESPONSE, response.SerializeToString())
