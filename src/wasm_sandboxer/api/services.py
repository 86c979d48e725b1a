"""Which services there are, and which messages each method takes and returns.

Read from the descriptors, so that it cannot differ from proto/. Both transports register by this table.
"""

from collections.abc import Mapping
from typing import NamedTuple

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from wasm_sandboxer.api import admin_pb2, events_pb2, sandbox_pb2, task_pb2

__all__ = ["ADMIN", "CONTROLLER", "EVENTS", "SERVICES", "TASK", "Rpc"]


class Rpc(NamedTuple):
    """One method's messages."""

    request: type[Message]
    response: type[Message]
    streams: bool
    """The answer is any number of `response`."""


def _services(*services: ServiceDescriptor) -> Mapping[str, Mapping[str, Rpc]]:
    return {
        service.full_name: {
            method.name: Rpc(
                GetMessageClass(method.input_type),
                GetMessageClass(method.output_type),
                method.server_streaming,
            )
            for method in service.methods
        }
        for service in services
    }


ADMIN = "wasm_sandboxer.admin.v1.Admin"
CONTROLLER = "containerd.services.sandbox.v1.Controller"
EVENTS = "containerd.services.events.v1.Events"
TASK = "containerd.task.v3.Task"

SERVICES: Mapping[str, Mapping[str, Rpc]] = _services(
    admin_pb2.DESCRIPTOR.services_by_name["Admin"],
    sandbox_pb2.DESCRIPTOR.services_by_name["Controller"],
    events_pb2.DESCRIPTOR.services_by_name["Events"],
    task_pb2.DESCRIPTOR.services_by_name["Task"],
)
"""By the service's full name, then by the method's name."""
