"""Whole files by few system calls: Python's file objects take six more for each, and every start has several."""

import errno
import os

_PIECE = 1 << 16


def read(path: str | os.PathLike[str], at_most: int) -> bytes:
    """The file's content; raises OSError, with EFBIG for one that has more bytes than `at_most`. May block."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = [os.read(fd, min(max(_PIECE, os.fstat(fd).st_size), at_most) + 1)]
        length = len(pieces[0])
        while pieces[-1] and length <= at_most:
            pieces.append(os.read(fd, _PIECE))
            length += len(pieces[-1])
    finally:
        os.close(fd)
    if length > at_most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fspath(path))
    return pieces[0] if len(pieces) <= 2 else b"".join(pieces)  # the second is the end


def write(path: str, data: bytes) -> None:
    """Make the file have this content, whatever it had; raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)
