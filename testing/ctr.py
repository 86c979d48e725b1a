"""Owns the calls of command-line clients, `ctr` and `crictl`, against one containerd."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

SECONDS = 60
"""How long a call may take unless it says otherwise."""


class ClientError(RuntimeError):
    """A client ended with an error; the message holds what it printed."""


@dataclass(frozen=True)
class Ctr:
    """containerd's own client."""

    binary: Path
    address: Path

    def __call__(
        self,
        *arguments: str | Path,
        namespace: str = "k8s.io",
        check: bool = True,
        timeout: float = SECONDS,
        stdin: bytes = b"",
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `ctr ARGUMENTS`; with `check`, failure raises ClientError."""
        return _run(self.command(*arguments, namespace=namespace), check=check, timeout=timeout, stdin=stdin)

    def command(self, *arguments: str | Path, namespace: str = "k8s.io") -> list[str]:
        """The whole command line, for who wants to start it in another way."""
        return [str(self.binary), "-a", str(self.address), "-n", namespace, *map(str, arguments)]

    def import_image(self, archive: Path, *, namespace: str = "k8s.io") -> None:
        """Import an OCI archive and unpack it, whatever platform it says it is for."""
        self("images", "import", archive, namespace=namespace)

    def images(self, namespace: str = "k8s.io") -> list[str]:
        """The names of all images."""
        return self("images", "list", "--quiet", namespace=namespace).stdout.decode().split()


@dataclass(frozen=True)
class Crictl:
    """The client of the Kubernetes project, where the machine has it."""

    binary: Path
    address: Path

    def __call__(
        self, *arguments: str | Path, check: bool = True, timeout: float = SECONDS, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `crictl ARGUMENTS`; with `check`, failure raises ClientError."""
        endpoint = f"unix://{self.address}"
        command = [
            str(self.binary),
            "--config",
            "/dev/null",
            "-r",
            endpoint,
            "-i",
            endpoint,
            *map(str, arguments),
        ]
        return _run(command, check=check, timeout=timeout, stdin=stdin)


def _run(
    command: list[str],
    *,
    check: bool,
    timeout: float,
    stdin: bytes,
) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, check=False)
    if check and done.returncode:
        said = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise ClientError(f"{' '.join(command)} ended with {done.returncode}: {said}")
    return done
