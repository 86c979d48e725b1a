"""A node for benchmarks: daemons of ours in processes of their own, and a containerd that drives them.

The floor is the same daemon with an engine that does nothing (benchmarks.null), so what a figure is above its
floor is what running WebAssembly costs. Below it is one that answers containerd's calls and does nothing else
(benchmarks.bare). Needs root.
"""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.fresh import CHECKOUT
from benchmarks.guests import example
from testing import oci
from testing.containerd import SANDBOXER, Containerd, Handler
from testing.cri import Cri
from testing.events import Events
from testing.vm import SLOWNESS
from wasm_sandboxer.linux import mount

OURS, FLOOR, BARE = "ours", "floor", "bare"
_PROGRAMS = {OURS: ("wasm_sandboxer", "serve"), FLOOR: ("benchmarks.null",), BARE: ("benchmarks.bare",)}
IMAGE = "localhost/bench:1"
MODULES = ("hello", "sleep", "spin")
_CGROUPS = Path("/sys/fs/cgroup")
_SLOWNESS = float(os.environ.get(SLOWNESS, "1"))
_STARTING, _STOPPING = 20.0 * _SLOWNESS, 30.0 * _SLOWNESS  # seconds
_SETTLE = 0.3  # seconds for what was set off to come to its end


class Daemon:
    """A daemon that serves, as a context manager; its folder is the caller's to remove."""

    def __init__(
        self,
        folder: Path,
        *,
        kind: str = OURS,
        containerd: Path | None = None,
        level: str = "info",
        arguments: Sequence[str] = (),
    ) -> None:
        """`kind` says which of the three it is; events go to `containerd`; `arguments` are further ones."""
        self.folder = folder
        self.listen = folder / "s.sock"
        self.task_listen = folder / "t.sock"
        self.state = folder / "state"
        self._command: list[str | Path] = [
            sys.executable, "-m", *_PROGRAMS[kind],
            "--listen", self.listen, "--task-listen", self.task_listen, "--state", self.state,
            "--root", folder / "root", "--containerd", containerd or folder / "none.sock", "--log-level", level,
            *arguments,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.state.mkdir(parents=True, exist_ok=True)
        mount.mount("tmpfs", self.state, "tmpfs")  # as /run is
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stderr=log, cwd=CHECKOUT)
        deadline = time.monotonic() + _STARTING
        while not self.listen.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                mount.unmount(self.state, mount.MNT_DETACH)
                raise RuntimeError(f"the daemon does not come up\n{self.log_tail()}")
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOPPING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        mount.unmount(self.state)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def cpu(self) -> float:
        """Seconds of CPU that all its threads have used, those that have ended too; to the nanosecond.

        CPUCLOCK_SCHED of another process: see CPUCLOCK_* in linux/posix-timers.h.
        """
        return time.clock_gettime((~self.pid << 3) | 2)

    def memory(self) -> dict[str, float]:
        """RSS and PSS in KiB."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        fields = {line.split(":")[0]: line.split()[1] for line in rollup.splitlines()[1:]}
        return {name: float(fields[name.capitalize()]) for name in ("rss", "pss")}

    def holdings(self) -> dict[str, int]:
        """How many of each kind of thing it has, inside and outside its process."""
        process = Path(f"/proc/{self.pid}")
        targets = [str(entry.readlink()) for entry in (process / "fd").iterdir()]
        mounts = (process / "mountinfo").read_text().splitlines()
        return {
            "descriptors": len(targets),
            "threads": len(list((process / "task").iterdir())),
            "mounts": len([line for line in mounts if "/wsx-" in line]),
            "sockets": len([target for target in targets if target.startswith("socket:")]),
            "state files": sum(len(files) for _, _, files in os.walk(self.state)),
            "mappings": len((process / "maps").read_text().splitlines()),
        }

    def groups(self) -> int:
        """How many control groups it has, counted in each hierarchy."""
        name = f"wasm-sandboxer-{hashlib.sha256(os.fsencode(self.state)).hexdigest()[:8]}"
        tops = [top / name for top in (_CGROUPS, *_CGROUPS.iterdir())]
        return sum(1 for top in tops for _ in os.walk(top))

    def log_tail(self, lines: int = 20) -> str:
        """The end of its log."""
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-lines:])


@dataclass(frozen=True, kw_only=True)
class Node:
    """A running containerd with a daemon for each of its runtime handlers, and its events."""

    containerd: Containerd
    daemons: dict[str, Daemon]
    events: Events

    @property
    def cri(self) -> Cri:
        """The client."""
        return self.containerd.cri


@contextmanager
def daemons(
    names: Sequence[str] = (OURS, FLOOR), arguments: Sequence[str] = ()
) -> Iterator[tuple[Path, dict[str, Daemon]]]:
    """Daemons without a containerd, and the folder that theirs lie in; `arguments` are more of serve's."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wsb-", dir="/tmp")))
        running = {name: stack.enter_context(Daemon(folder / name, kind=name, arguments=arguments)) for name in names}
        yield folder, running


@contextmanager
def node(handlers: Sequence[str] = (OURS, FLOOR)) -> Iterator[Node]:
    """A node with the examples' image imported; every daemon has run one pod, so its module is compiled."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wsb-", dir="/tmp")))
        plugin = {name: SANDBOXER if name == OURS else f"{SANDBOXER}-{name}" for name in handlers}
        containerd = Containerd(
            {plugin[name]: folder / name / "s.sock" for name in handlers},
            handlers=[Handler(name=name, sandboxer=plugin[name]) for name in handlers],
            log_level="warn",
        )
        daemons = {name: Daemon(folder / name, kind=name, containerd=containerd.address) for name in handlers}
        for daemon in daemons.values():
            stack.enter_context(daemon)
        stack.enter_context(containerd)
        files: oci.Layer = {f"{name}.wasm": example(name).read_bytes() for name in MODULES}
        image = oci.build(folder / "image.tar", IMAGE, [files], entrypoint=["/hello.wasm"])
        containerd.import_image(image)
        made = Node(containerd=containerd, daemons=daemons, events=stack.enter_context(containerd.cri.events()))
        for name in handlers:
            for _ in range(3):
                pod(made, name)
        time.sleep(_SETTLE)
        yield made


@dataclass(frozen=True, kw_only=True)
class PodTimes:
    """What one pod took, in milliseconds."""

    start: float  # from RunPodSandbox until the container's exit was seen
    remove: float  # StopPodSandbox and RemovePodSandbox
    steps: dict[str, float]


def pod(node: Node, handler: str, name: str = "bench") -> PodTimes:
    """Run one pod with one container from start to end."""
    marks = {"": time.perf_counter()}
    made = node.cri.run_pod(name, handler=handler)
    marks["RunPodSandbox"] = time.perf_counter()
    container = node.cri.create(made, IMAGE)
    marks["CreateContainer"] = time.perf_counter()
    node.cri.start(container)
    marks["StartContainer"] = time.perf_counter()
    node.events.wait("STOPPED", container.id)
    marks["exit seen"] = time.perf_counter()
    node.cri.stop_pod(made)
    marks["StopPodSandbox"] = time.perf_counter()
    node.cri.remove_pod(made)
    marks["RemovePodSandbox"] = time.perf_counter()
    times = list(marks.values())
    steps = {step: (end - begin) * 1e3 for step, begin, end in zip(list(marks)[1:], times, times[1:], strict=False)}
    return PodTimes(start=(times[4] - times[0]) * 1e3, remove=(times[6] - times[4]) * 1e3, steps=steps)
