"""From domain errors to RPC codes: the one table."""

from wasm_sandboxer import errors
from wasm_sandboxer.rpc.transport.status import RpcError, StatusCode

CODES: dict[type[errors.WasmSandboxerError], StatusCode] = {
    errors.InvalidArgument: StatusCode.INVALID_ARGUMENT,
    errors.ModuleError: StatusCode.INVALID_ARGUMENT,
    errors.NotFound: StatusCode.NOT_FOUND,
    errors.AlreadyExists: StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: StatusCode.FAILED_PRECONDITION,
    errors.ResourceExhausted: StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: StatusCode.UNAVAILABLE,
    errors.Unsupported: StatusCode.UNIMPLEMENTED,
    errors.WasmSandboxerError: StatusCode.UNKNOWN,
}


def translate(error: Exception) -> RpcError | None:
    """The RPC error for a domain error, by its nearest class in the table; None for what is none of ours."""
    for kind in type(error).__mro__:
        if kind in CODES:
            return RpcError(CODES[kind], str(error))
    return None
