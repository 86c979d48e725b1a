"""The domain's errors: few, each naming what, where and, where it helps, what to do.

Messages are lower case without a full stop. Nothing here knows of exit codes or RPC codes: the command line
and the RPC layer each map these classes in one place.
"""


class WasmSandboxerError(Exception):
    """Base of every error this project raises on purpose."""


class InvalidArgument(WasmSandboxerError):
    """What the caller gave cannot be used: a bad option, id, path, spec or module."""


class ModuleError(InvalidArgument):
    """The module cannot be run as asked: not Wasm, invalid, an import or a function is missing."""


class UnknownFeature(ModuleError):
    """The module is written for a feature that this engine does not have; another may."""


class NotFound(WasmSandboxerError):
    """The thing named does not exist."""


class AlreadyExists(WasmSandboxerError):
    """The id or the resource is taken."""


class FailedPrecondition(WasmSandboxerError):
    """The verb is not allowed in the state the thing is in."""


class ResourceExhausted(WasmSandboxerError):
    """A bound would be passed: memory, time, size, number."""


class OutOfMemory(ResourceExhausted):
    """There is no room for the memory that a guest needs to begin."""


class Unavailable(WasmSandboxerError):
    """Something this depends on is not there now: a helper, a socket, a binary; trying again may help."""


class Unsupported(WasmSandboxerError):
    """Asked for something that this host, engine or version cannot do."""
