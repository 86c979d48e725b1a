"""A message of the daemon's as a value for JSON: every field, whatever is in it, and numbers as numbers.

protobuf's own form leaves out what is zero or empty, and writes numbers of 64 bits as text.
"""

from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def fields_of(message: Message) -> dict[str, Any]:
    """By the names in the .proto; a time as in RFC 3339, None if there is none."""
    return {field.name: _value(message, field.name) for field in message.DESCRIPTOR.fields}


def _value(message: Message, name: str) -> Any:
    value = getattr(message, name)
    if isinstance(value, Message):
        return _of_message(value) if message.HasField(name) else None
    if isinstance(value, str | int | float):
        return value
    return [_of_message(each) if isinstance(each, Message) else each for each in value]


def _of_message(value: Message) -> Any:
    return value.ToJsonString() if isinstance(value, Timestamp) else fields_of(value)
