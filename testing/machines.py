"""Owns the machines that qemu can be: for each processor the program, the package it is in, and its command line."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class MachineError(RuntimeError):
    """The machine does not start, or not come to its end; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine with two processors and two serial ports: the kernel's console, and one for what is told."""

    program: str
    package: str
    model: Sequence[str]
    console: str
    port: str
    ports: Sequence[str]

    def command(self, image: Path, archive: Path, console: Path) -> list[str]:
        """The machine with this kernel and initramfs, and this machine's root; what is told comes to stdout."""
        root = "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"
        return [
            self.program, *self.model, "-smp", "2", "-m", "3072", "-accel", "tcg,thread=multi", "-nodefaults",
            "-no-user-config", "-display", "none", "-no-reboot", "-kernel", str(image), "-initrd", str(archive),
            "-append", f"console={self.console} panic=-1 random.trust_cpu=on", "-virtfs", root,
            "-serial", f"file:{console}", *self.ports,
        ]  # fmt: skip

    def require(self) -> None:
        """See that qemu is here: root of a Debian has it installed. Raises MachineError."""
        if shutil.which(self.program) is not None:
            return
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise MachineError(f"no {self.program} here; as root: apt-get install {self.package}")
        sys.stderr.write(f"vm: installing {self.package}\n")
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", self.package]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MachineError(f"{' '.join(install)}: {done.stderr.strip()}")


MACHINES = {
    "x86_64": Machine(
        program="qemu-system-x86_64",
        package="qemu-system-x86",
        model=("-machine", "q35", "-cpu", "max"),
        console="ttyS0",
        port="ttyS1",
        ports=("-serial", "stdio"),
    ),
    "aarch64": Machine(
        program="qemu-system-aarch64",
        package="qemu-system-arm",
        # Emulated, authentication of pointers takes most of the time.
        model=("-machine", "virt,gic-version=3", "-cpu", "max,pauth=off"),
        console="ttyAMA0",
        port="ttyS0",
        ports=("-device", "pci-serial,chardev=told", "-chardev", "stdio,id=told,signal=off"),
    ),
}
"""By the kernel's names of processors."""
