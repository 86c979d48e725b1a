"""The daemon as a process of its own, with sockets, state and log in one folder."""

import hashlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import proc
from tests.support.cli import PATIENCE, PROGRAM

_CGROUPS = Path("/sys/fs/cgroup")


class DaemonError(RuntimeError):
    """The daemon did not do as told; the message ends with the end of its log."""


class Daemon:
    """`wasm-sandboxer serve`, as a context manager: started on entering, stopped on leaving.

    `folder` must be short, since sockets lie in it. `containerd` is the socket that events go to; without one a
    stop waits for it in vain, for a fifth of the `shutdown_timeout`. `settings` are the configuration file's.
    """

    def __init__(
        self,
        folder: Path,
        store: Path,
        *,
        containerd: Path | None = None,
        arguments: Sequence[str | Path] = (),
        environment: Mapping[str, str] | None = None,
        settings: str = "shutdown_timeout = 2.0",
        log_level: str = "debug",
    ) -> None:
        self.folder = folder
        self.listen = folder / "s.sock"
        self.task_listen = folder / "t.sock"
        self.state = folder / "state"
        self.log_file = folder / "daemon.log"
        self.config = folder / "config.toml"
        self.config.write_text(settings)
        self.command = [
            PROGRAM, "serve", "--config", self.config,
            "--listen", self.listen, "--task-listen", self.task_listen,
            "--state", self.state,
            "--root", store, "--containerd", containerd or folder / "none.sock", "--log-level", log_level, *arguments,
        ]  # fmt: skip
        self.environment = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "NOTIFY_SOCKET": str(folder / "notify.sock"),
            **(environment or {}),
        }
        self.told: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        path = self.folder / "notify.sock"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(path))
            notify.settimeout(0.2)
            with self.log_file.open("ab") as log:
                self._process = subprocess.Popen(
                    self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            for _ in range(int(PATIENCE / 0.2)):
                with suppress(TimeoutError):
                    self.told.append(notify.recv(4096).decode())
                    if self.told[-1] == "READY=1":
                        return
                if self._process.poll() is not None:
                    break
        self.kill()
        raise DaemonError(f"the daemon does not come up\n{self.log[-3000:]}")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> int:
        """End it as systemd would; its exit code."""
        assert self._process is not None
        self.signal(signal.SIGTERM)
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DaemonError(f"the daemon does not stop\n{self.log[-3000:]}") from None

    def kill(self) -> None:
        """End it as the kernel would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Stop it if it runs."""
        if self.running:
            self.signal(signal.SIGCONT)
            self.stop()

    def wipe(self, *folders: Path) -> None:
        """End it, and remove what it may have left in these folders and in the control groups."""
        self.kill()
        for folder in folders:
            for point in reversed(mounts(folder)):
                subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
        for group in self.groups():
            with suppress(OSError):
                group.rmdir()

    # What it holds.

    def groups(self) -> list[Path]:
        """Its control groups in every hierarchy, the innermost first."""
        name = f"wasm-sandboxer-{hashlib.sha256(os.fsencode(self.state)).hexdigest()[:8]}"
        tops = [top / name for top in (_CGROUPS, *_CGROUPS.iterdir()) if (top / name).is_dir()]
        return [Path(folder) for top in tops for folder, _, _ in os.walk(top, topdown=False)]

    def descriptors(self) -> list[str]:
        """What its open descriptors are."""
        return sorted(proc.links(self.pid).values())

    def streams(self) -> list[str]:
        """Its open descriptors of pipes and terminals: those of containers."""
        return [each for each in self.descriptors() if each.startswith(("pipe:", "/dev/pt"))]

    def threads(self) -> list[str]:
        """The names of its threads."""
        return sorted(proc.threads(self.pid).values())

    def mounts(self, below: Path) -> list[str]:
        """Its mount points below a folder."""
        return mounts(below, pid=self.pid)

    def records(self) -> list[str]:
        """The files it keeps of sandboxes and containers."""
        folder = self.state / "records"
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def mounts(below: Path, *, pid: int | str = "self") -> list[str]:
    """Mount points below a folder, as a process sees them."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return [point for point in (line.split()[4] for line in lines) if point.startswith(f"{below}/")]
