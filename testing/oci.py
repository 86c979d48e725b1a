"""Owns images written by hand: OCI archives with whatever layers a test wants (OCI image-spec 1.1).

An archive is a tar of `oci-layout`, `index.json` and blobs. It is reproducible: equal input, equal digests.
"""

import gzip
import hashlib
import io
import json
import platform as machine
import struct
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testing.packages import FetchError

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
WASM_CONFIG = "application/vnd.wasm.config.v0+json"
WASM_LAYER = "application/wasm"

HOST = f"linux/{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(machine.machine(), machine.machine()) }"
"""The platform containerd takes by default: this machine's."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A regular file with more to say than its content."""

    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, kw_only=True)
class Dir:
    """A folder; those on the way to a file need no mention."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True)
class Symlink:
    """A symbolic link, whose target may be anything, also outside."""

    target: str


@dataclass(frozen=True)
class Hardlink:
    """A second name for a file that comes earlier in the same layer."""

    target: str


@dataclass(frozen=True)
class Device:
    """A character device or, without numbers, a FIFO."""

    major: int | None = None
    minor: int = 0


WHITEOUT = File()
"""Under the name `.wh.NAME` hides NAME of the layers below."""

Entry = bytes | str | File | Dir | Symlink | Hardlink | Device
Layer = Mapping[str, Entry]
"""What lies at each path; text and bytes are files of mode 0644."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """An archive and what containerd will call it."""

    archive: Path
    reference: str
    digest: str
    """Of the manifest or index that the name points to."""
    config_digest: str
    """CRI's image id."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an image's configuration says of how to run it."""

    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[str] = ()
    stop_signal: str = ""

    def document(self) -> dict[str, Any]:
        """The `config` object of the image configuration."""
        fields = {
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.cmd),
            "Env": [f"{name}={value}" for name, value in self.env.items()],
            "WorkingDir": self.workdir,
            "User": self.user,
            "Labels": dict(self.labels),
            "Volumes": {volume: {} for volume in self.volumes},
            "StopSignal": self.stop_signal,
        }
        return {name: value for name, value in fields.items() if value}


def build(
    archive: Path,
    reference: str,
    layers: Sequence[Layer],
    *,
    platform: str = HOST,
    compress: bool = False,
    index: bool = False,
    annotations: Mapping[str, str] | None = None,
    **settings: Any,
) -> Image:
    """Write an image of the given layers, the lowest first; `settings` are the fields of Settings.

    With `index` the name points to an index of platforms that holds the one manifest, as `docker buildx`
    makes them; without it, straight to the manifest.
    """
    blobs = _Blobs()
    tars = [_layer(layer) for layer in layers]
    packed = [gzip.compress(tar, mtime=0) if compress else tar for tar in tars]
    kind = f"{LAYER}+gzip" if compress else LAYER
    system, _, architecture = platform.partition("/")
    config = blobs.add_json(
        CONFIG,
        {
            "os": system,
            "architecture": architecture,
            "config": Settings(**settings).document(),
            "rootfs": {"type": "layers", "diff_ids": [_digest(tar) for tar in tars]},
            "history": [{"created_by": "wasm-sandboxer's tests"} for _ in tars],
        },
    )
    manifest = blobs.add_json(
        MANIFEST,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [blobs.add(kind, blob) for blob in packed],
            "annotations": dict(annotations or {}),
        },
    )
    if not index:
        return blobs.write(archive, reference, manifest, config)
    manifest["platform"] = {"os": system, "architecture": architecture}
    top = blobs.add_json(INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]})
    return blobs.write(archive, reference, top, config)


def artifact(archive: Path, reference: str, module: bytes, *, config: Mapping[str, Any] | None = None) -> Image:
    """Write a Wasm artifact as the CNCF's guidance has it: the module is the layer, there is no rootfs.

    containerd unpacks nothing of it; the module stays in the content store.
    """
    blobs = _Blobs()
    document = {
        "created": "1970-01-01T00:00:00Z",
        "architecture": "wasm",
        "os": "wasip1",
        "layerDigests": [_digest(module)],
        **(config or {}),
    }
    described = blobs.add_json(WASM_CONFIG, document)
    manifest = blobs.add_json(
        MANIFEST,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described,
            "layers": [blobs.add(WASM_LAYER, module)],
        },
    )
    return blobs.write(archive, reference, manifest, described)


def pause(archive: Path, reference: str) -> Image:
    """Write the image of runc's pause container: one program of ours that sleeps for ever."""
    return build(archive, reference, [{"pause": File(data=_pause_program(), mode=0o755)}], entrypoint=["/pause"])


def host_programs(*programs: str) -> Layer:
    """A layer with some of the machine's own programs and the libraries they need, for runc's containers."""
    entries: dict[str, Entry] = {}
    for program in programs:
        said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
        libraries = [word for word in said.stdout.split() if word.startswith("/")]
        for path in (program, *libraries):
            entries[path.lstrip("/")] = File(data=Path(path).read_bytes(), mode=0o755)
    return entries


class _Blobs:
    """The content of an archive that is being put together."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def add(self, media_type: str, blob: bytes) -> dict[str, Any]:
        """Keep a blob and describe it."""
        digest = _digest(blob)
        self._blobs[digest] = blob
        return {"mediaType": media_type, "digest": digest, "size": len(blob)}

    def add_json(self, media_type: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a document and describe it."""
        return self.add(media_type, json.dumps(document, indent=1).encode())

    def write(self, archive: Path, reference: str, top: Mapping[str, Any], config: Mapping[str, Any]) -> Image:
        """Write it all, with `top` under the image's name."""
        named = {**top, "annotations": {"io.containerd.image.name": reference}}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]}
        with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, "oci-layout", File(data=b'{"imageLayoutVersion": "1.0.0"}'))
            _add(tar, "index.json", File(data=json.dumps(index).encode()))
            for digest, blob in self._blobs.items():
                _add(tar, f"blobs/{digest.replace(':', '/')}", File(data=blob))
        return Image(archive=archive, reference=reference, digest=top["digest"], config_digest=config["digest"])


def _layer(entries: Layer) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, entry in entries.items():
            _add(tar, name.lstrip("/"), entry)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, entry: Entry) -> None:
    """Append one entry, owned by root and from the epoch unless it says otherwise."""
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    data = b""
    match entry:
        case str():
            data = entry.encode()
        case bytes():
            data = entry
        case File():
            data = entry.data
            info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
        case Dir():
            info.type = tarfile.DIRTYPE
            info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
        case Symlink():
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.target, 0o777
        case Hardlink():
            info.type, info.linkname = tarfile.LNKTYPE, entry.target
        case Device():
            info.type = tarfile.FIFOTYPE if entry.major is None else tarfile.CHRTYPE
            info.devmajor, info.devminor = entry.major or 0, entry.minor
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


_PAUSE_CODE = {
    # mov eax, 34 (pause); syscall; jmp back
    "x86_64": (62, bytes.fromhex("b822000000 0f05 ebf7")),
    # mov x0..x4, 0; mov x8, 73 (ppoll); svc 0; b back to the first
    "aarch64": (
        183,
        struct.pack("<8I", *(0xD2800000 + n for n in range(5)), 0xD2800928, 0xD4000001, 0x17FFFFF9),
    ),
}
"""Machine number and code by architecture (elf(5), syscall(2))."""


def _pause_program() -> bytes:
    """A whole ELF program in some 130 bytes: two headers and a loop around one system call."""
    if machine.machine() not in _PAUSE_CODE:
        raise FetchError(f"no pause program for {machine.machine()}")
    number, code = _PAUSE_CODE[machine.machine()]
    base, header, program = 0x400000, 64, 56
    start = header + program
    elf = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",  # 64 bits, little-endian
        2, number, 1, base + start, header, 0, 0, header, program, 1, 0, 0, 0,
    )  # fmt: skip
    size = start + len(code)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)  # one segment, readable and runnable
    return elf + load + code
