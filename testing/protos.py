"""Owns message classes and calls made straight from a .proto file, without generated code.

Each file gets a descriptor pool of its own: the product has its own idea of `runtime.v1` in protobuf's
default pool, and two definitions of one name in one pool cannot be.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

FOLDER = Path(__file__).resolve().parent / "proto"


class Stub:
    """A service's calls as methods: `stub.StopContainer(container_id=…, timeout=5)`.

    Keywords are the request's fields, nested messages as dictionaries; `deadline` is how long the call may
    take, in seconds. Answers are protobuf messages. Errors are grpc.RpcError.
    """

    def __init__(self, channel: grpc.Channel, service: str, *, file: str, deadline: float) -> None:
        self._calls: dict[str, Callable[..., Any]] = {}
        self._deadline = deadline
        described = pool(file).FindServiceByName(service)
        for method in described.methods:
            request = message_factory.GetMessageClass(method.input_type)
            response = message_factory.GetMessageClass(method.output_type)
            make = channel.unary_stream if method.server_streaming else channel.unary_unary
            call = make(
                f"/{service}/{method.name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            self._calls[method.name] = self._method(request, call, streams=method.server_streaming)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        try:
            return self._calls[name]
        except KeyError:
            raise AttributeError(name) from None

    def __dir__(self) -> Iterator[str]:
        return iter([*super().__dir__(), *self._calls])

    def _method(self, request: type[Any], call: Callable[..., Any], *, streams: bool) -> Callable[..., Any]:
        def method(*, deadline: float | None = None, **fields: Any) -> Any:
            limit = deadline or (None if streams else self._deadline)
            return call(request(**fields), timeout=limit)

        return method


@cache
def pool(file: str) -> descriptor_pool.DescriptorPool:
    """The types of one file in `proto/`, compiled anew in each process, in a few milliseconds."""
    with tempfile.NamedTemporaryFile(suffix=".pb") as compiled:
        status = protoc.main(["protoc", f"-I{FOLDER}", f"--descriptor_set_out={compiled.name}", file])
        if status:
            raise ValueError(f"protoc refuses {FOLDER / file}")
        descriptors = descriptor_pb2.FileDescriptorSet.FromString(compiled.read())
    types = descriptor_pool.DescriptorPool()
    for described in descriptors.file:
        types.Add(described)
    return types


def enum(file: str, name: str) -> Mapping[int, str]:
    """The names of an enumeration's values by number."""
    return {value.number: value.name for value in pool(file).FindEnumTypeByName(name).values}
