"""How a call fails: gRPC's status codes, which ttrpc shares, and the exception that carries one.

Imports nothing, not even grpc: the command line needs these too, and must start quickly.
"""

from enum import IntEnum

__all__ = ["RpcError", "StatusCode"]


class StatusCode(IntEnum):
    """What went wrong, by the numbers of the gRPC specification (doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @classmethod
    def _missing_(cls, value: object) -> "StatusCode | None":
        # A peer may be newer than this table.
        return cls.UNKNOWN if isinstance(value, int) else None


class RpcError(Exception):
    """A call that failed, on either side of the wire."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"
