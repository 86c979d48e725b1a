"""What a process is handed of files that others use too: never anything that it could write to, or leave by `..`.

A guest that broke out of its engine has the process's descriptors. Any thread; only where the daemon may mount.
"""

import fcntl
import os
import threading
import weakref

from wasm_sandboxer.engine.protocol import PortableProgram
from wasm_sandboxer.linux import mount

_lock = threading.Lock()
_codes: weakref.WeakKeyDictionary[PortableProgram, int] = weakref.WeakKeyDictionary()


def unwritable(fd: int) -> int:
    """A descriptor of the same file or folder, the caller's to close; raises OSError.

    What is in memory and sealed is on no mount that could be cloned, and needs none.
    """
    return os.dup(fd) if _is_sealed(fd) else mount.clone_unwritable(fd)


def code_of(program: PortableProgram) -> int:
    """A program's compiled code for its guests' processes; stays the program's. Raises OSError.

    Opened anew: a lock belongs to whoever opened a file, and the daemon's own keeps this one from eviction.
    """
    with _lock:
        if program not in _codes:
            tree = mount.clone_unwritable(program.carry().code)
            try:
                fd = os.open(f"/proc/self/fd/{tree}", os.O_RDONLY | os.O_CLOEXEC)
            finally:
                os.close(tree)
            weakref.finalize(program, os.close, fd)
            _codes[program] = fd
        return _codes[program]


def _is_sealed(fd: int) -> bool:
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE)
    except OSError:  # it is no file in memory
        return False
