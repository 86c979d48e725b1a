"""Owns a kernel of Debian's to boot in a virtual machine, with the few modules that takes."""

import lzma
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testing.mirrors import codename
from testing.packages import ARCHITECTURES, Packages, run


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel to boot: its image, and the modules that were asked for with what they need, in loading order."""

    release: str
    image: Path
    modules: tuple[Path, ...]


def kernel(processor: str) -> Kernel:
    """Debian's kernel for this release, with the modules a virtual machine mounts its root by. Raises FetchError."""
    architecture = ARCHITECTURES[processor]

    def what_it_stands_for(apt: Sequence[str], folder: Path) -> None:
        """What depends on a kernel's release in its name, instead of the empty package that only names it."""
        run([*apt, "download", f"linux-image-{architecture}"], cwd=folder)
        (deb,) = folder.glob("*.deb")
        needed = run(["dpkg", "-f", str(deb), "Depends"]).replace(",", " ").split()
        deb.unlink()
        run([*apt, "download", *(name for name in needed if name.startswith("linux-image-"))], cwd=folder)

    packages = Packages(
        name="linux-image",
        suites=(codename(),),
        get=what_it_stands_for,
        check=_keep_what_boots,
        architecture=architecture,
    )
    tree, facts = packages.unpacked(), packages.facts()
    return Kernel(
        release=facts["release"],
        image=tree / facts["image"],
        modules=tuple(tree / name for name in facts["modules"]),
    )


_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")


def _keep_what_boots(unpacked: Path) -> Mapping[str, object]:
    """Throw away all but the image and the few modules: hundreds of megabytes."""
    (image,) = (unpacked / "boot").glob("vmlinuz-*")
    release = image.name.removeprefix("vmlinuz-")
    (folder,) = unpacked.glob(f"**/modules/{release}")
    needs = _needs_of_modules(folder)
    kept = [_plain(folder / name) for name in needs]
    for path in unpacked.rglob("*"):
        if path.is_symlink() or (path.is_file() and path not in (image, *kept)):
            path.unlink()
    return {
        "release": release,
        "image": str(image.relative_to(unpacked)),
        "modules": [str(path.relative_to(unpacked)) for path in kept],
    }


def _needs_of_modules(folder: Path) -> list[str]:
    """The modules we load, as paths in the folder, each after those that it needs (modules.dep(5) has them so)."""
    paths = [str(path.relative_to(folder)) for path in folder.rglob("*.ko*")]
    of_name = {path.rpartition("/")[2].partition(".")[0].replace("-", "_"): path for path in paths}
    ordered: list[str] = []

    def add(name: str) -> None:
        path = of_name.get(name.replace("-", "_"))
        if path is None or path in ordered:  # None: it is built in
            return
        for needed in filter(None, _modinfo(folder / path, "depends").split(",")):
            add(needed)
        ordered.append(path)

    for name in _MODULES:
        add(name)
    return ordered


def _modinfo(module: Path, field: str) -> str:
    """A field of a module's own description, NUL-terminated `name=value` in its section .modinfo."""
    data = lzma.decompress(module.read_bytes()) if module.suffix == ".xz" else module.read_bytes()
    found = re.search(rb"\0" + field.encode() + rb"=([^\0]*)\0", data)
    return found[1].decode() if found else ""


def _plain(module: Path) -> Path:
    """The module uncompressed, as insmod without a library takes it."""
    if module.suffix != ".xz":
        return module
    plain = module.with_suffix("")
    plain.write_bytes(lzma.decompress(module.read_bytes()))
    return plain
