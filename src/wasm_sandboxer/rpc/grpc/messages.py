"""What gRPC puts into HTTP/2: requests out of header fields, messages out of bodies, answers as header blocks.

Source: grpc's doc/PROTOCOL-HTTP2.md. Pure.
"""

from dataclasses import dataclass
from urllib.parse import quote

from wasm_sandboxer.rpc.grpc.hpack import literal
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode

__all__ = [
    "MAX_MESSAGE", "OK_HEAD", "OK_TAIL", "PREFIX", "HttpError", "MalformedError", "Opening", "error_block",
    "opening", "pack", "unpack",
]  # fmt: skip

MAX_MESSAGE = 16 << 20  # containerd's own bound
PREFIX = 5  # bytes before a message: whether it is compressed, and its length
_CONTENT_TYPE = "application/grpc"
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_LONGEST_TIMEOUT = 9  # eight digits and a unit
# All of printable ASCII but the percent sign stays as it is.
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_LONGEST_TEXT = 4 << 10  # of an error; clients take 8 KiB of header fields and may refuse more

_STATUS_200 = b"\x88"  # field 8 of HPACK's static table
OK_HEAD = _STATUS_200 + literal("content-type", _CONTENT_TYPE)
"""The header block that begins a response."""
OK_TAIL = literal("grpc-status", "0")
"""The one that ends it."""


class MalformedError(Exception):
    """Header fields that are no request."""


class HttpError(Exception):
    """A request that is none of gRPC's; `status` is HTTP's."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    def block(self) -> bytes:
        """The header block that answers it."""
        return literal(":status", str(self.status))


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a request's header fields say; `timeout` in seconds."""

    service: str
    method: str
    metadata: dict[str, str]
    timeout: float | None


def opening(fields: list[tuple[str, str]]) -> Opening:
    """The request that header fields open.

    Of a field that came several times, the first value counts. Binary values stay as they are, in base64. Raises
    MalformedError, HttpError, and RpcError for a timeout that makes no sense.
    """
    metadata: dict[str, str] = {}
    for name, value in fields:
        metadata.setdefault(name, value)
    method, path = metadata.get(":method"), metadata.get(":path")
    if method is None or path is None:
        raise MalformedError
    if method != "POST":
        raise HttpError(405)
    if not metadata.get("content-type", "").startswith(_CONTENT_TYPE):
        raise HttpError(415)
    service, _, name = path.removeprefix("/").rpartition("/")
    timeout = metadata.get("grpc-timeout")
    return Opening(
        service=service, method=name, metadata=metadata, timeout=_seconds(timeout) if timeout is not None else None
    )


def unpack(body: bytes | bytearray) -> bytes:
    """The one message in a request's body; raises RpcError."""
    if len(body) < PREFIX:
        raise RpcError(StatusCode.INTERNAL, "the request has no message")
    if body[0]:
        raise RpcError(StatusCode.UNIMPLEMENTED, "the message is compressed, which is not spoken here")
    length = int.from_bytes(body[1:PREFIX], "big")
    if len(body) < PREFIX + length:
        raise RpcError(StatusCode.INTERNAL, "the request ends in its message")
    if len(body) > PREFIX + length:
        raise RpcError(StatusCode.UNIMPLEMENTED, "streaming: a call takes one request and gives one response")
    return bytes(body[PREFIX:])


def pack(message: bytes) -> bytes:
    """A response's body; raises RpcError for a message that is too long."""
    if len(message) > MAX_MESSAGE:
        text = f"the answer would be {len(message)} bytes long, and at most {MAX_MESSAGE} can be sent"
        raise RpcError(StatusCode.RESOURCE_EXHAUSTED, text)
    return b"\x00" + len(message).to_bytes(4, "big") + message


def error_block(error: RpcError) -> bytes:
    """The one header block of an answer that is an error."""
    # An error whose code is OK is a mistake, but must not read as success.
    code = error.code or StatusCode.UNKNOWN
    return OK_HEAD + literal("grpc-status", str(code.value)) + literal("grpc-message", _quoted(error.message))


def _quoted(text: str) -> str:
    """The text as grpc-message has it, percent-encoded; cut between characters if it is too long."""
    text = text[:_LONGEST_TEXT]
    while len(quoted := quote(text, safe=_PLAIN, errors="backslashreplace")) > _LONGEST_TEXT:
        text = text[: len(text) * _LONGEST_TEXT // len(quoted)]
    return quoted


def _seconds(timeout: str) -> float:
    digits, unit = timeout[:-1], timeout[-1:]
    if len(timeout) > _LONGEST_TIMEOUT or not (digits.isascii() and digits.isdigit()) or unit not in _UNITS:
        raise RpcError(StatusCode.INTERNAL, f"grpc-timeout {timeout!r:.20} is no time")
    return int(digits) * _UNITS[unit]
