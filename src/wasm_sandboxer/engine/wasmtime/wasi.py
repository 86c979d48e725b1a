"""A guest's WASI context: argv, environment, directories, network; on the guest's own thread."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from wasm_sandboxer.engine.wasmtime.binding import array, ffi
from wasm_sandboxer.errors import InvalidArgument
from wasm_sandboxer.guest import Guest, Network, Preopen, Stdio

_READ, _WRITE = 1, 2  # both of wasmtime's directory and file permission bits


def build(guest: Guest, stdio: Stdio | None = None) -> Any:
    """A `wasi_config_t` for the guest, to be consumed by wasmtime_context_set_wasi.

    With stdio the engine itself serves the standard streams, as components need it: descriptors 0, 1 and 2 as
    they are, others opened anew by their paths in /proc. A core module's are the shim's. Raises
    InvalidArgument, naming what cannot be used.
    """
    with ExitStack() as undo:
        config = ffi.wasi_config_new()
        undo.callback(ffi.wasi_config_delete, config)
        ffi.wasi_config_set_argv(config, len(guest.argv), _strings("argument", guest.argv))
        names = _strings("environment variable", [name for name, _ in guest.env])
        values = _strings("environment variable", [value for _, value in guest.env])
        ffi.wasi_config_set_env(config, len(guest.env), names, values)
        for preopen in guest.preopens:
            _give(config, preopen)
        if stdio is not None:
            _set_streams(config, stdio)
        if guest.network is Network.HOST:
            ffi.wasi_config_inherit_network(config)
            ffi.wasi_config_allow_ip_name_lookup(config, True)
        undo.pop_all()
    return config


def _give(config: Any, preopen: Preopen) -> None:
    """Open a folder for the guest."""
    permissions = _READ | _WRITE if preopen.writable else _READ
    inside = _encoded(f"directory {preopen.host}'s path", preopen.guest)
    with _named(preopen.host) as host:
        if ffi.wasi_config_preopen_dir(config, host, inside, permissions, permissions):
            return
    raise InvalidArgument(
        f"cannot open the directory {preopen.host} for the guest's {preopen.guest}: {_why_not(preopen.host)}"
    )


@contextmanager
def _named(folder: Path) -> Iterator[bytes]:
    """A name for the folder that the engine takes, which is in UTF-8 only, for as long as it opens it."""
    name = os.fsencode(folder)
    try:
        name.decode()
    except UnicodeDecodeError:
        pass
    else:
        yield name
        return
    try:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield name  # which the engine refuses
        return
    try:
        yield f"/proc/self/fd/{fd}".encode()
    finally:
        os.close(fd)


def _why_not(folder: Path) -> str:
    """What the engine does not tell."""
    try:
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        return os.strerror(error.errno or 0)
    return "the engine refuses it"


def _strings(what: str, strings: tuple[str, ...] | list[str]) -> Any:
    pointers = array(ctypes.c_char_p, [_encoded(f"{what} {index}", string) for index, string in enumerate(strings)])
    return ctypes.cast(pointers, ctypes.POINTER(ctypes.POINTER(ctypes.c_char)))


def _encoded(what: str, string: str) -> bytes:
    try:
        encoded = string.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} is not valid UTF-8, which WASI asks for: {string!r}") from None
    if b"\0" in encoded:
        raise InvalidArgument(f"{what} has a NUL byte in it: {string!r}")
    return encoded


def _set_streams(config: Any, stdio: Stdio) -> None:
    streams = (
        (0, stdio.stdin, ffi.wasi_config_inherit_stdin, ffi.wasi_config_set_stdin_file),
        (1, stdio.stdout, ffi.wasi_config_inherit_stdout, ffi.wasi_config_set_stdout_file),
        (2, stdio.stderr, ffi.wasi_config_inherit_stderr, ffi.wasi_config_set_stderr_file),
    )
    for number, fd, inherit, set_file in streams:
        if fd == number:
            inherit(config)
        elif fd is not None and not set_file(config, f"/proc/self/fd/{fd}".encode()):
            raise InvalidArgument(f"cannot open the guest's descriptor {number}")
