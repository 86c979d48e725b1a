"""Owns a running containerd: its folder, its configuration, its process and its log.

Everything it writes lies in one folder under /tmp; /run/containerd, which it insists on making, goes in the
end. A guardian process sweeps up should the tests be killed. Needs root.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from testing import cgroups, fetch, guardian, network, oci
from testing.cri import Cri
from testing.ctr import Crictl, Ctr

SANDBOXER = "wasm-sandboxer"
"""The name of our proxy plugin in containerd's configuration."""

RUNTIME_TYPE = "io.containerd.wasm-sandboxer.v1"
"""Makes containerd look for `containerd-shim-wasm-sandboxer-v1` when it starts."""

ANNOTATIONS = ("wasm-sandboxer.io/*",)
"""The annotations of pods and containers that reach the sandboxer."""

PAUSE_IMAGE = "localhost/pause:harness"
"""The pinned sandbox image. Only runc's pods, and containerd from 2.3 on, ask for it."""

_PAUSE_FOR_ALL = (2, 3)

_UNUSED_SNAPSHOTTERS = ("blockfile", "btrfs", "devmapper", "erofs", "zfs")
"""Each looks for what it needs when containerd starts, and there are kinds of machines where that fails it."""

Table = Mapping[str, Any]
"""A table of TOML: strings, booleans, integers, lists of these, and tables."""


class ContainerdError(RuntimeError):
    """containerd did not start or stop as it should; the message ends with the end of its log."""


@dataclass(frozen=True, kw_only=True)
class Handler:
    """A runtime handler of CRI: what a pod's runtime class names."""

    name: str = "wasm"
    sandboxer: str = SANDBOXER
    runtime_type: str = RUNTIME_TYPE
    pod_annotations: Sequence[str] = ANNOTATIONS
    container_annotations: Sequence[str] = ANNOTATIONS
    options: Table = field(default_factory=dict)
    runtime_path: Path | None = None

    def table(self) -> Table:
        """The handler as containerd's configuration spells it."""
        path = {} if self.runtime_path is None else {"runtime_path": str(self.runtime_path)}
        return {
            "runtime_type": self.runtime_type,
            **path,
            "sandboxer": self.sandboxer,
            "pod_annotations": list(self.pod_annotations),
            "container_annotations": list(self.container_annotations),
            "options": self.options,
        }


class Containerd:
    """A containerd of one's own, as a context manager: started on entering, gone without a trace on leaving.

    `sandboxers` maps proxy plugins to the gRPC sockets of daemons, which need not be up yet; `handlers` are
    the runtime handlers, by default `wasm` if there is a sandboxer; `runc` adds a handler of that name.
    `path` comes first in containerd's PATH, for a shim; `environment` is added to the little that it and its
    shims get. `settings` is merged into the configuration. The log is appended to across restarts, and goes
    with the folder unless `log` names another place. The snapshotter is overlayfs where that works, else
    native.

    One thread at a time may start and stop it; its clients, `cri`, `ctr` and `crictl`, know no such bounds.
    """

    def __init__(
        self,
        sandboxers: Mapping[str, Path] | None = None,
        *,
        handlers: Iterable[Handler] | None = None,
        runc: bool = False,
        path: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        settings: Table | None = None,
        snapshotter: str | None = None,
        log: Path | None = None,
        log_level: str = "info",
    ) -> None:
        if os.geteuid() != 0:
            raise ContainerdError("containerd needs root")
        self.binaries = fetch.containerd()
        self.sandboxers = dict(sandboxers or {})
        if handlers is None:
            handlers = [Handler()] if SANDBOXER in self.sandboxers else []
        self.handlers = list(handlers)
        self.path = [*path, self.binaries.folder]
        if runc:
            self.path.append(fetch.runc().parent)
        # Not in $TMPDIR: a Unix socket's path has room for 107 bytes, and containerd nests them deep.
        self.folder = Path(tempfile.mkdtemp(prefix="wsx-", dir="/tmp"))
        if runc:
            self.handlers.append(self._runc_handler())
        self.environment = dict(environment or {})
        self.settings = dict(settings or {})
        self.log_level = log_level
        self.log = log or self.folder / "containerd.log"
        self.address = self.folder / "containerd.sock"
        self.snapshotter = snapshotter or ("overlayfs" if _overlay_works(self.folder) else "native")
        self.cri = Cri(self.address, logs=self.folder / "pods", cgroup=f"/{self.folder.name}")
        self.ctr = Ctr(self.binaries.ctr, self.address)
        self._process: subprocess.Popen[bytes] | None = None
        self._guardian = self._start_guardian()
        _RUNNING.add(self)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The daemon's process; raises if it is not running."""
        if self._process is None or self._process.poll() is not None:
            raise ContainerdError(f"containerd is not running\n{self.log_tail()}")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the daemon's process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def crictl(self) -> Crictl | None:
        """The machine's crictl aimed at this containerd, if there is one."""
        binary = fetch.crictl()
        return Crictl(binary, self.address) if binary else None

    def start(self, timeout: float = 30) -> None:
        """Start the daemon on what the folder holds, and wait until CRI calls runtime and network ready."""
        if self.alive:
            raise ContainerdError("containerd runs already")
        guardian.note_what_is_absent(self.folder)
        network.write(self.folder / "plugins", self.folder / "networks")
        config = self.folder / "config.toml"
        config.write_text(to_toml(self.configuration()))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.binaries.containerd, "--config", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment(),
                start_new_session=True,  # a ^C meant for the tests must not end it before they clean up
            )
        self._wait_until_ready(time.monotonic() + timeout)
        if self.binaries.version >= _PAUSE_FOR_ALL or any(h.name == "runc" for h in self.handlers):
            self._import_pause()

    def stop(self, timeout: float = 10) -> None:
        """End the daemon as a service manager would: SIGTERM, or SIGKILL if that takes too long, and raise.

        Pods and containers stay, as they do on a node; `start` finds them again.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise ContainerdError(f"containerd ignored SIGTERM for {timeout} s\n{self.log_tail()}") from error

    def kill(self) -> None:
        """End the daemon at once, as a crash would; pods and containers stay."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def restart(self, *, crash: bool = False) -> None:
        """Stop, or with `crash` kill, then start again."""
        if crash:
            self.kill()
        else:
            self.stop()
        self.start()

    def close(self) -> None:
        """Remove all pods, end the daemon, and leave nothing: no process, mount, socket, cgroup or file.

        Raises `guardian.Leftover` if something stays. Harmless when repeated.
        """
        _RUNNING.discard(self)
        if self._guardian is None:
            return
        try:
            if self.alive:
                with suppress(grpc.RpcError):
                    self.cri.purge(timeout=20)
            with suppress(ContainerdError):
                self.stop()
            self.cri.close()
            guardian.sweep(self.folder)
        finally:
            watch, self._guardian = self._guardian, None
            if watch.stdin is not None:
                with suppress(BrokenPipeError):
                    watch.stdin.write(b".")
                    watch.stdin.close()
            watch.wait(30)

    def import_image(self, image: oci.Image, timeout: float = 10) -> oci.Image:
        """Bring in an image of `testing.oci` and wait until CRI has heard of it too."""
        self.ctr.import_image(image.archive)
        deadline = time.monotonic() + timeout
        while self.cri.image(image.reference) is None:
            if time.monotonic() > deadline:
                raise ContainerdError(f"CRI does not see {image.reference}\n{self.log_tail()}")
            time.sleep(0.01)
        return image

    def cgroup_parent(self, pod: str) -> str:
        """Make a cgroup for a pod, as the kubelet does, and give its name for the pod's configuration."""
        name = f"{self.folder.name}/{pod}"
        cgroups.make(name)
        return f"/{name}"

    def processes(self) -> list[int]:
        """The pids of the daemon, of runc's shims, and of all that runs in runc's containers."""
        return guardian.processes(self.folder)

    def mounts(self) -> list[str]:
        """The mount points below the folder: containers' root filesystems, network namespaces."""
        return guardian.mounts(self.folder)

    def log_tail(self, lines: int = 40) -> str:
        """The end of the daemon's log, without the lines that only tell that a plugin was loaded."""
        if not self.log.exists():
            return "(no log)"
        found = [line for line in self.log.read_text(errors="replace").splitlines() if "loading plugin" not in line]
        return "\n".join(["containerd's log ends:", *found[-lines:]])

    def configuration(self) -> Table:
        """The whole configuration, as version 3, which containerd reads from 2.0 on."""
        folder = self.folder
        runtime: Table = {
            "enable_cdi": False,
            "restrict_oom_score_adj": True,  # lowering it takes CAP_SYS_RESOURCE, which root may lack
            "netns_mounts_under_state_dir": True,  # else they lie in /run/netns
            "cni": {
                "bin_dirs": [str(folder / "plugins")],
                "conf_dir": str(folder / "networks"),
                "use_internal_loopback": True,  # else it calls a plugin for `lo`
            },
            "containerd": {
                "default_runtime_name": self.handlers[0].name if self.handlers else "runc",
                "runtimes": {handler.name: handler.table() for handler in self.handlers},
            },
        }
        base: Table = {
            "version": 3,
            "root": str(folder / "root"),
            "state": str(folder / "state"),
            "disabled_plugins": [f"io.containerd.snapshotter.v1.{name}" for name in _UNUSED_SNAPSHOTTERS],
            "grpc": {"address": str(self.address)},
            "debug": {"level": self.log_level},
            "proxy_plugins": {
                name: {"type": "sandbox", "address": str(address)} for name, address in self.sandboxers.items()
            },
            "plugins": {
                "io.containerd.cri.v1.runtime": runtime,
                "io.containerd.cri.v1.images": {
                    "snapshotter": self.snapshotter,
                    "pinned_images": {"sandbox": PAUSE_IMAGE},
                },
                "io.containerd.transfer.v1.local": {  # what `ctr images import` unpacks
                    "unpack_config": [{"platform": oci.HOST, "snapshotter": self.snapshotter}]
                },
                "io.containerd.internal.v1.opt": {"path": str(folder / "opt")},
                "io.containerd.nri.v1.nri": {"disable": True},  # it would listen in /run/nri
            },
        }
        return _merged(base, self.settings)

    def _runc_handler(self) -> Handler:
        return Handler(
            name="runc",
            sandboxer="podsandbox",
            runtime_type="io.containerd.runc.v2",
            options={"BinaryName": str(fetch.runc()), "Root": str(self.folder / "runc")},
        )

    def _environment(self) -> dict[str, str]:
        path = [
            *map(str, self.path),
            "/usr/local/sbin",
            "/usr/local/bin",
            "/usr/sbin",
            "/usr/bin",
            "/sbin",
            "/bin",
        ]
        return {"PATH": ":".join(path), "HOME": "/root", "LANG": "C.UTF-8", **self.environment}

    def _start_guardian(self) -> subprocess.Popen[bytes] | None:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, self.folder],
            stdin=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )

    def _wait_until_ready(self, deadline: float) -> None:
        problem = "does not answer"
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise ContainerdError(f"containerd ended with {self._process.returncode}\n{self.log_tail()}")
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(self.address))
                conditions = self.cri.conditions()
            except OSError as error:
                problem = f"does not listen: {error}"
            except grpc.RpcError as error:
                problem = f"does not answer: {error}"
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    break  # it runs, but without CRI, and will not change its mind
            else:
                if all(conditions[name] for name in ("RuntimeReady", "NetworkReady")):
                    return
                problem = f"is not ready: {conditions}"
            time.sleep(0.01)
        self.kill()
        raise ContainerdError(f"containerd {problem}\n{self.log_tail()}")

    def _import_pause(self) -> None:
        if self.cri.image(PAUSE_IMAGE) is None:
            self.import_image(oci.pause(self.folder / "pause.tar", PAUSE_IMAGE))


def log_sections() -> list[tuple[str, str]]:
    """A title and the log's end for each containerd of this process, for the report of a failed test."""
    return [(f"containerd in {one.folder}", one.log_tail()) for one in _RUNNING]


def to_toml(table: Table) -> str:
    """TOML for a table, as far as containerd's configuration needs it (toml.io, v1.0.0)."""
    return "\n".join(_lines(table, ())) + "\n"


def _lines(table: Table, name: tuple[str, ...]) -> list[str]:
    lines = [f"[{'.'.join(map(_quoted, name))}]"] if name else []
    lines += [f"{_quoted(key)} = {_value(value)}" for key, value in table.items() if not isinstance(value, Mapping)]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _lines(value, (*name, key))
    return lines


def _value(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case str():
            return _quoted(value)
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case Mapping():
            return f"{{{', '.join(f'{_quoted(key)} = {_value(item)}' for key, item in value.items())}}}"
        case _:
            raise TypeError(f"no TOML for {value!r}")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _merged(base: Table, extra: Table) -> Table:
    """Both tables in one; where they differ `extra` wins, and tables are merged in turn."""
    result = dict(base)
    for key, value in extra.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def _overlay_works(folder: Path) -> bool:
    """Whether overlayfs takes its layers here; on another overlay, as in some containers, it does not."""
    probe = folder / "probe"
    parts = {name: probe / name for name in ("lower", "upper", "work", "merged")}
    for part in parts.values():
        part.mkdir(parents=True)
    options = ",".join(f"{name}dir={parts[name]}" for name in ("lower", "upper", "work"))
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(parts["merged"])]
    works = subprocess.run(command, check=False, capture_output=True).returncode == 0
    if works:
        subprocess.run(["umount", str(parts["merged"])], check=True)
    shutil.rmtree(probe)
    return works


_RUNNING: weakref.WeakSet[Containerd] = weakref.WeakSet()
