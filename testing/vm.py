"""Owns a virtual machine with a Debian kernel and control groups of version 2 alone, which this machine may lack.

The machine's own file system is its root, through 9p and read-only below an overlay in memory: the checkout with its
environment is there as it is here, and nothing that is written lasts. There is no KVM to be counted on, so qemu
emulates, some ten times slower.

    ./dev vm                 runs the proofs of testing.proofs and keeps what they print in docs/cgroup-v2.md
    ./dev vm COMMAND [ARG…]  runs a command of the environment, as `./dev vm pytest tests/linux`
"""

import argparse
import os
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from testing import fetch, initramfs

CHECKOUT = Path(__file__).resolve().parent.parent
REPORT = CHECKOUT / "docs" / "cgroup-v2.md"
PROOFS = ("python", "-m", "testing.proofs")

SLOWNESS = "WASM_SANDBOXER_TEST_SLOWNESS"
"""Environment variable: how many times longer than usual tests and benchmarks wait before they give up."""

_SECONDS = 1200.0  # for a whole run, on a machine that others use too
_END = "vm: ended with "
_PACKAGE = "qemu-system-x86"

# Runs as process 1 in the initramfs. Its first serial port is the kernel's console, the second the command's output.
_INIT = """\
#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t devtmpfs devtmpfs /dev
for module in {modules}; do $bb insmod "/$module" || echo "cannot load $module"; done
$bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro root /host &&
    $bb mount -t tmpfs memory /over && $bb mkdir /over/upper /over/work &&
    $bb mount -t overlay -o lowerdir=/host,upperdir=/over/upper,workdir=/over/work overlay /root ||
    $bb poweroff -f
$bb mount -t proc proc /root/proc
$bb mount -t sysfs sysfs /root/sys
$bb mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
$bb mount --move /dev /root/dev
$bb mkdir -p /root/dev/pts /root/dev/shm && $bb mount -t devpts devpts /root/dev/pts
$bb mkdir -p /over/checkout && $bb mount --bind {checkout_inside} /over/checkout
for folder in dev/shm run tmp var/lib var/log; do $bb mount -t tmpfs memory "/root/$folder"; done
$bb mkdir -p {checkout_inside} && $bb mount --bind /over/checkout {checkout_inside}
$bb ip link set lo up
$bb hostname vm
{{
    $bb chroot /root /usr/bin/env -i {environment} /bin/sh -c {command} </root/dev/null 2>&1
    echo "{end}$?"
}} | $bb cat >/root/dev/ttyS1 # which is a terminal, and nobody sits at it
$bb poweroff -f
"""


class MachineError(RuntimeError):
    """The machine does not start or does not come to its end; the message ends with its console's."""


def run(command: Sequence[str], told: Callable[[str], object], *, seconds: float = _SECONDS) -> int:
    """The command's exit code; `told` gets each line that it prints in the machine, as it comes.

    Raises MachineError, and FetchError if the kernel cannot be had.
    """
    _require_qemu()
    kernel = fetch.kernel()
    with tempfile.TemporaryDirectory(prefix="wsv-") as name:
        folder = Path(name)
        archive, console = folder / "initramfs", folder / "console"
        _write_initramfs(archive, kernel, command)
        machine = subprocess.Popen(_qemu(kernel.image, archive, console), stdout=subprocess.PIPE)
        try:
            for line in _lines(machine, console, time.monotonic() + seconds):
                if line.startswith(_END):
                    return int(line.removeprefix(_END))
                told(line)
        finally:
            machine.kill()
            machine.wait()
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


def _qemu(image: Path, archive: Path, console: Path) -> list[str]:
    """The machine: two processors, and two serial ports."""
    root = "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"
    return [
        "qemu-system-x86_64", "-machine", "q35", "-cpu", "max", "-smp", "2", "-m", "3072",
        "-accel", "tcg,thread=multi", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-kernel", str(image), "-initrd", str(archive), "-append", "console=ttyS0 panic=-1 random.trust_cpu=on",
        "-virtfs", root, "-serial", f"file:{console}", "-serial", "stdio",
    ]  # fmt: skip


def _write_initramfs(archive: Path, kernel: fetch.Kernel, command: Sequence[str]) -> None:
    scripts = Path(sys.executable).parent
    environment = {
        "PATH": f"{scripts}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root", "LC_ALL": "C.UTF-8", "TERM": "dumb", "WASM_SANDBOXER_ROOT": "/run/store", SLOWNESS: "10",
    }  # fmt: skip
    init = _INIT.format(
        modules=" ".join(module.name for module in kernel.modules),
        checkout_inside=shlex.quote(f"/root{CHECKOUT}"),
        environment=" ".join(shlex.quote(f"{name}={value}") for name, value in environment.items()),
        command=shlex.quote(f"cd {shlex.quote(str(CHECKOUT))} && {shlex.join(command)}"),
        end=_END,
    )
    files = {"init": init.encode(), "bin/busybox": fetch.busybox().read_bytes()}
    files |= {module.name: module.read_bytes() for module in kernel.modules}
    initramfs.write(archive, files, ("bin", "dev", "host", "over", "root"))


def _require_qemu() -> None:
    if shutil.which("qemu-system-x86_64") is not None:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MachineError(f"no qemu-system-x86_64 here; as root: apt-get install {_PACKAGE}")
    sys.stderr.write(f"vm: installing {_PACKAGE}\n")
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", _PACKAGE]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MachineError(f"{' '.join(install)}: {done.stderr.strip()}")


def _main() -> int:
    parser = argparse.ArgumentParser(
        prog="./dev vm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="time limit for all (default: %(default)g)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run (default: the proofs)")
    options = parser.parse_args()
    kept: list[str] = []

    def told(line: str) -> None:
        kept.append(line)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    try:
        code = run(options.command or PROOFS, told, seconds=options.seconds)
    except (MachineError, fetch.FetchError) as error:
        sys.stderr.write(f"vm: {error}\n")
        return 1
    if not options.command and code == 0:
        REPORT.write_text(_REPORT.format(date=datetime.now(UTC).date(), output="\n".join(kept)))
        sys.stdout.write(f"kept in {REPORT.relative_to(CHECKOUT)}\n")
    return code


_REPORT = """\
# Control groups of version 2

What `./dev vm` printed on {date}: it boots Debian's kernel under qemu (software emulation, two processors) with a
hierarchy of version 2 alone, and runs the proofs (testing/proofs.py) in it.

```text
{output}
```
"""

if __name__ == "__main__":
    sys.exit(_main())
