"""The imports that only WasmEdge offers, and the types that its socket functions must be imported with.

Source: the functions that WasmEdge 0.14.1 links; see the package's docstring.
"""

from wasm_sandboxer.engine.interface import Interface, Signature
from wasm_sandboxer.engine.protocol import ImportItem
from wasm_sandboxer.errors import ModuleError

_WASI = "wasi_snapshot_preview1"
_MODULES = ("wasi_ephemeral_", "wasi_nn", "wasmedge", "wasi:logging/", "wasm_bpf", "rustls_client")
_PORTABLE = frozenset({"sock_accept", "sock_recv", "sock_send", "sock_shutdown"})  # of preview 1 itself
# How many parameters each has, all of them i32 as its result: in the first generation, in the second.
_SOCKETS = {
    "sock_open": {3}, "sock_bind": {3}, "sock_connect": {3}, "sock_listen": {2}, "sock_accept": {2, 3},
    "sock_recv": {6}, "sock_recv_from": {7, 8}, "sock_send": {5}, "sock_send_to": {7}, "sock_shutdown": {2},
    "sock_getsockopt": {5}, "sock_setsockopt": {5}, "sock_getlocaladdr": {3, 4}, "sock_getpeeraddr": {3, 4},
    "sock_getaddrinfo": {8},
}  # fmt: skip


def only_wasmedge(imports: tuple[ImportItem, ...]) -> ImportItem | None:
    """The first import that only WasmEdge offers, if there is one."""
    for item in imports:
        if item.module.startswith(_MODULES) or (item.module == _WASI and _is_socket_extension(item)):
            return item
    return None


def check_sockets(interface: Interface) -> None:
    """Raise ModuleError for a socket function imported with a type that it never had: WasmEdge would call it."""
    for item in interface.imports:
        if item.module != _WASI or not item.name.startswith("sock_"):
            continue
        known = _SOCKETS.get(item.name.removesuffix("_v2"), set())
        types = {f"func {Signature(params=('i32',) * count, results=('i32',))}" for count in known}
        if known and item.type not in types:
            raise ModuleError(f"it imports {item.name} as {item.type}, which it is not")


def _is_socket_extension(item: ImportItem) -> bool:
    if not item.name.startswith("sock_"):
        return False
    # The portable four are of use to those only who were given a socket; sock_accept had two parameters first.
    return item.name not in _PORTABLE or (item.name == "sock_accept" and item.type == _FIRST_ACCEPT)


_FIRST_ACCEPT = f"func {Signature(params=('i32', 'i32'), results=('i32',))}"
