"""The kernel's parameters, files below /proc/sys: their names and their setting; see sysctl.d(5) and proc(5).

Those below net belong to a network namespace: a thread sees the ones of its own.
"""

import os

from wasm_sandboxer.errors import InvalidArgument

_OTHER_WAY_ROUND = str.maketrans("./", "/.")


def path_of(name: str) -> str:
    """A parameter's path below /proc/sys; raises InvalidArgument for what would lead elsewhere.

    Words are parted by whichever of dot and slash comes first, and the other stands for itself, or for a dot in the
    name of an interface: net.ipv4.conf.eth0/7.forwarding is net/ipv4/conf/eth0.7/forwarding.
    """
    first = next((each for each in name if each in "./"), "")
    path = name.translate(_OTHER_WAY_ROUND) if first == "." else name
    if not name.isprintable() or {"", ".", ".."} & set(path.split("/")):
        raise InvalidArgument(f"{name!r:.100} is no name of a sysctl")
    return path


def write(path: str, value: str) -> None:
    """Set the parameter at a path below /proc/sys; raises OSError."""
    fd = os.open(f"/proc/sys/{path}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())  # at once: the kernel takes each write for a value of its own
    finally:
        os.close(fd)
