"""How containerd names what an Any holds, and packing and unpacking by those names.

containerd writes a message's full name alone, where protobuf's own Any.Pack puts `type.googleapis.com/`
in front and Any.Unpack and Any.Is insist on it. Values that are no messages travel as JSON under a path.
"""

from typing import TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message

__all__ = [
    "LINUX_RESOURCES",
    "PROCESS",
    "SANDBOX_METADATA",
    "SPEC",
    "UPDATED_RESOURCES",
    "holds",
    "pack",
    "unpack",
]

_M = TypeVar("_M", bound=Message)

# JSON of the OCI runtime specification's types.
SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
LINUX_RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
# JSON of CRI's own types, in a sandbox's extensions.
SANDBOX_METADATA = "github.com/containerd/cri/pkg/store/sandbox/Metadata"
UPDATED_RESOURCES = "io.containerd.cri.v1/UpdatedResources"

# Others that fill an Any may follow protobuf's habit.
_PREFIX = "type.googleapis.com/"


def pack(message: Message) -> Any:
    """An Any that containerd understands."""
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def holds(value: Any, kind: type[Message] | str) -> bool:
    """Whether `value` holds this kind of message, or JSON under this type URL."""
    wanted = kind if isinstance(kind, str) else kind.DESCRIPTOR.full_name
    return value.type_url.removeprefix(_PREFIX) == wanted


def unpack(value: Any, kind: type[_M]) -> _M:
    """The message in `value`; ValueError if it holds something else, or not a message at all."""
    if not holds(value, kind):
        raise ValueError(f"expected {kind.DESCRIPTOR.full_name}, not {value.type_url or 'nothing'}")
    try:
        return kind.FromString(value.value)
    except DecodeError as error:
        raise ValueError(f"not a {kind.DESCRIPTOR.full_name}: {error}") from error
