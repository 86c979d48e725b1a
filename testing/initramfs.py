"""Writes an initramfs: a cpio archive in the form the kernel unpacks (driver-api/early-userspace/buffer-format)."""

import stat
from collections.abc import Mapping
from pathlib import Path

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


def write(target: Path, files: Mapping[str, bytes], folders: tuple[str, ...]) -> None:
    """Put folders and executable files, by their paths without the leading slash, into the archive."""
    entries = [(folder, stat.S_IFDIR | 0o755, b"") for folder in folders]
    entries += [(name, stat.S_IFREG | 0o755, data) for name, data in files.items()]
    with target.open("wb") as archive:
        for number, (name, mode, data) in enumerate([*entries, (_TRAILER, 0, b"")], start=1):
            archive.write(_entry(number, name, mode, data))


def _entry(inode: int, name: str, mode: int, data: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device and rdevice as major and minor, the name's length, no checksum
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = _MAGIC + b"".join(b"%08X" % field for field in fields) + encoded
    return header + bytes(-len(header) % 4) + data + bytes(-len(data) % 4)
