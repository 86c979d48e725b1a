"""The files that tell a guest who it is and whom to ask: /etc/hostname, /etc/hosts and /etc/resolv.conf of a pod.

containerd makes them only for sandboxes that it controls itself; for those of others it mounts what it finds, which
is nothing. They are made once for a sandbox and mounted into its containers, read-only: what a guest wrote would
fill the folder of the daemon's state. In a worker thread, since the host's own files are read.
Source: hosts(5), hostname(5), resolv.conf(5).
"""

import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wasm_sandboxer.errors import InvalidArgument, WasmSandboxerError
from wasm_sandboxer.spec import Mount

_NAMES = ("hostname", "hosts", "resolv.conf")
_LOCALHOST = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


@dataclass(frozen=True, kw_only=True)
class Dns:
    """Whom to ask for names, as the lines of resolv.conf have it."""

    servers: Sequence[str] = ()
    searches: Sequence[str] = ()
    options: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a pod is: its host name (none: the host's), its addresses, its DNS (None: the host's).

    A pod on the host's network has the host's names of hosts.
    """

    hostname: str = ""
    addresses: Sequence[str] = ()
    dns: Dns | None = None
    host_network: bool = False

    def check(self) -> None:
        """Raise InvalidArgument for what would be more than a word in these files."""
        dns = self.dns or Dns()
        for word in (self.hostname, *self.addresses, *dns.servers, *dns.searches, *dns.options):
            if word and (not word.isprintable() or " " in word):
                raise InvalidArgument(f"{word!r:.100} is no host name, address, domain or option of a resolver")


def write_files(folder: Path, identity: Identity) -> None:
    """Make the files of a sandbox, or make them anew; raises WasmSandboxerError.

    Nobody reads them before the sandbox is said to be ready, so they are written in place.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, text in _contents(identity):
            fd = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            with open(fd, "wb") as file:  # noqa: PTH123  # a descriptor
                os.fchmod(fd, 0o644)
                file.write(text.encode(errors="surrogateescape"))
    except OSError as error:
        raise WasmSandboxerError(f"cannot make {folder}: {error.strerror}") from None


def remove_files(folder: Path) -> None:
    """Remove a sandbox's files; what is mounted somewhere stays there."""
    shutil.rmtree(folder, ignore_errors=True)


def forget_files(folder: Path, known: Collection[Path]) -> None:
    """Remove what a daemon that died has left below this folder, but these."""
    for path in folder.glob("*/*"):
        if path not in known:
            remove_files(path)
    for path in folder.glob("*"):
        with suppress(OSError):  # not empty
            path.rmdir()


def identity_mounts(folder: Path, given: Sequence[Mount]) -> list[Mount]:
    """The mounts of a sandbox's files, less those for which the container's spec brings its own."""
    own = {os.path.normpath(each.destination) for each in given}
    return [
        Mount(destination=f"/etc/{name}", kind="bind", source=f"{folder}/{name}", options=("rbind", "ro"))
        for name in _NAMES
        if f"/etc/{name}" not in own
    ]


def _contents(identity: Identity) -> Iterator[tuple[str, str]]:
    hostname = identity.hostname or os.uname().nodename
    yield "hostname", f"{hostname}\n"
    yield "hosts", _host("hosts") if identity.host_network else _hosts(identity, hostname)
    yield "resolv.conf", _host("resolv.conf") if identity.dns is None else _resolv_conf(identity.dns)


def _host(name: str) -> str:
    """The host's own file; empty if it has none."""
    with suppress(FileNotFoundError):
        return Path("/etc", name).read_text(errors="surrogateescape")
    return ""


def _hosts(identity: Identity, hostname: str) -> str:
    return _LOCALHOST + "".join(f"{address}\t{hostname}\n" for address in identity.addresses)


def _resolv_conf(dns: Dns) -> str:
    lines = [f"nameserver {server}" for server in dns.servers]
    if dns.searches:
        lines.append(f"search {' '.join(dns.searches)}")
    if dns.options:
        lines.append(f"options {' '.join(dns.options)}")
    return "".join(f"{line}\n" for line in lines)
