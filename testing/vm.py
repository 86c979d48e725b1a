"""Owns a virtual machine with a Debian kernel and control groups of version 2 alone, which this machine may lack.

This machine's own file system is its root, through 9p and read-only below an overlay in memory: the checkout with its
environment is there as it is here, and nothing that is written lasts. With another processor than this machine's the
root is a Debian for that (testing.foreign), and the checkout is all that is this machine's. There is no KVM to be
counted on, so qemu emulates, some ten times slower.

    ./dev vm                 runs the proofs of testing.proofs and keeps what they print in docs/cgroup-v2.md
    ./dev vm COMMAND [ARG…]  runs a command of the environment, as `./dev vm pytest tests/linux`
    ./dev vm --processor aarch64 [COMMAND [ARG…]]
                             the same on that processor, with proofs of its own, kept in docs/aarch64.md
"""

import argparse
import os
import platform
import select
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from testing import initramfs
from testing.kernel import Kernel, kernel
from testing.machines import MACHINES, MachineError
from testing.packages import FetchError
from testing.systems import system

CHECKOUT = Path(__file__).resolve().parent.parent

SLOWNESS = "WASM_SANDBOXER_TEST_SLOWNESS"
"""Environment variable: how many times longer than usual tests and benchmarks wait before they give up."""

_SECONDS = 2400.0  # for a whole run, on a machine that others use too
_END = "vm: ended with "

# Runs as process 1 in the initramfs.
_INIT = """\
#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t devtmpfs devtmpfs /dev
for module in {modules}; do $bb insmod "/$module" || echo "cannot load $module"; done
$bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro root /host &&
    $bb mount -t tmpfs memory /over && $bb mkdir /over/upper /over/work /over/checkout /over/checkout-work &&
    $bb mount -t overlay -o lowerdir=/host{root},upperdir=/over/upper,workdir=/over/work overlay /root ||
    $bb poweroff -f
for folder in dev proc sys; do $bb mkdir -p "/root/$folder"; done
$bb mount -t proc proc /root/proc
$bb mount -t sysfs sysfs /root/sys
$bb mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
$bb mount --move /dev /root/dev
$bb mkdir -p /root/dev/pts /root/dev/shm && $bb mount -t devpts devpts /root/dev/pts
for folder in dev/shm run tmp var/lib var/log; do
    $bb mkdir -p "/root/$folder" && $bb mount -t tmpfs memory "/root/$folder"
done
$bb mkdir -p /root{checkout}
$bb mount -t overlay -o lowerdir=/host{checkout},upperdir=/over/checkout,workdir=/over/checkout-work overlay \\
    /root{checkout}
$bb ip link set lo up
$bb hostname vm
{{
    $bb chroot /root /usr/bin/env -i {variables} /bin/sh -c {command} </root/dev/null 2>&1
    echo "{end}$?"
}} | $bb cat >/root/dev/{port} # which is a terminal, and nobody sits at it
$bb poweroff -f
"""


def run(
    command: Sequence[str], told: Callable[[str], object], *, seconds: float = _SECONDS, processor: str = ""
) -> int:
    """The command's exit code; `told` gets each line that it prints in the machine, as it comes.

    The processor is this machine's, unless it is named. Raises MachineError, and FetchError if the kernel or a
    system for the processor cannot be had.
    """
    processor = processor or platform.machine()
    machine = MACHINES[processor]
    machine.require()
    booted = kernel(processor)
    with tempfile.TemporaryDirectory(prefix="wsv-") as name:
        archive, console = Path(name, "initramfs"), Path(name, "console")
        _write_initramfs(archive, booted, processor, command)
        running = subprocess.Popen(machine.command(booted.image, archive, console), stdout=subprocess.PIPE)
        try:
            for line in _lines(running, console, time.monotonic() + seconds):
                if line.startswith(_END):
                    return int(line.removeprefix(_END))
                told(line)
        finally:
            running.kill()
            running.wait()
    raise AssertionError  # lines end with the one above, or with an error


def _lines(machine: "subprocess.Popen[bytes]", console: Path, deadline: float) -> Iterator[str]:
    assert machine.stdout is not None
    rest = b""
    while True:
        if not select.select([machine.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise MachineError(f"the machine takes too long\n{_tail(console)}")
        piece = os.read(machine.stdout.fileno(), 1 << 16)
        if not piece:
            raise MachineError(f"the machine ended before its command\n{_tail(console)}")
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.decode(errors="replace").rstrip("\r") for line in lines)


def _tail(console: Path) -> str:
    return console.read_text(errors="replace")[-4000:] if console.exists() else "(it has said nothing)"


def _write_initramfs(archive: Path, booted: Kernel, processor: str, command: Sequence[str]) -> None:
    ground = system(processor)
    variables = {
        "PATH": f"{ground.programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root", "LC_ALL": "C.UTF-8", "TERM": "dumb", "WASM_SANDBOXER_ROOT": "/run/store", SLOWNESS: "10",
        **ground.variables,
    }  # fmt: skip
    init = _INIT.format(
        modules=" ".join(module.name for module in booted.modules),
        root=shlex.quote(str(ground.root)),
        checkout=shlex.quote(str(CHECKOUT)),
        variables=" ".join(shlex.quote(f"{name}={value}") for name, value in variables.items()),
        command=shlex.quote(f"cd {shlex.quote(str(CHECKOUT))} && {shlex.join(command)}"),
        port=MACHINES[processor].port,
        end=_END,
    )
    files = {"init": init.encode(), "bin/busybox": ground.busybox.read_bytes()}
    files |= {module.name: module.read_bytes() for module in booted.modules}
    initramfs.write(archive, files, ("bin", "dev", "host", "over", "root"))


def _main() -> int:
    parser = argparse.ArgumentParser(
        prog="./dev vm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="time limit for all (default: %(default)g)")
    parser.add_argument("--processor", choices=MACHINES, default=platform.machine(), help="(default: this machine's)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run (default: the proofs)")
    options = parser.parse_args()
    own = options.processor == platform.machine()
    name = "cgroup-v2" if own else options.processor
    kept: list[str] = []

    def told(line: str) -> None:
        kept.append(line)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    try:
        command = options.command or ("python", "-m", "testing.proofs", name)
        code = run(command, told, seconds=options.seconds, processor=options.processor)
    except (MachineError, FetchError) as error:
        sys.stderr.write(f"vm: {error}\n")
        return 1
    if not options.command and code == 0:
        report = CHECKOUT / "docs" / f"{name}.md"
        printed = "\n".join(kept)
        about = _CGROUPS if own else _PROCESSOR.format(processor=options.processor)
        report.write_text(f"{about}{_OUTPUT.format(date=datetime.now(UTC).date(), output=printed)}")
        sys.stdout.write(f"kept in {report.relative_to(CHECKOUT)}\n")
    return code


_CGROUPS = """\
# Control groups of version 2

`./dev vm` boots Debian's kernel under qemu (software emulation, two processors) with a hierarchy of version 2 alone,
and runs the proofs (testing/proofs.py) in it.
"""
_PROCESSOR = """\
# On {processor}

`./dev vm --processor {processor}` boots Debian's kernel for that processor under qemu (software emulation, two
processors) over a Debian for it, and runs tests (testing/proofs.py) in it. The emulation never
reorders accesses to memory, as the real processor may.
"""
_OUTPUT = """
What it printed on {date}:

```text
{output}
```
"""

if __name__ == "__main__":
    sys.exit(_main())
