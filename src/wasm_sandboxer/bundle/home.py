"""HOME for a guest whose spec does not name it, as runc finds it: in the container's own /etc/passwd.

The spec's user counts, also for a guest on a thread, which is no user of its own. In a worker thread, since a file is
read: some 10 µs without that file, 25 with one of two dozen users. Source: passwd(5); runc, libcontainer/env.go.
"""

import os
from dataclasses import replace
from pathlib import Path

from wasm_sandboxer.guest import Guest
from wasm_sandboxer.linux.resolve import open_file_in_root

_MOST = 64 << 10  # bytes; those of a system with many packages have some thousand
_NONE = "/"  # of a user whom the file does not know


def with_home(guest: Guest, uid: int) -> Guest:
    """The guest with a HOME; an empty one is taken for none, as runc does."""
    env = dict(guest.env)
    if env.get("HOME"):
        return guest
    env["HOME"] = _home_of(guest.preopens[0].host, uid)
    return replace(guest, env=tuple(env.items()))


def _home_of(root: Path, uid: int) -> str:
    """The folder in the first line with this user."""
    wanted = f":{uid}:"
    for line in _passwd(root).split("\n"):
        if wanted in line:  # most lines need no more than this look
            fields = line.split(":")
            if len(fields) > 5 and fields[2] == str(uid):
                return fields[5]
    return _NONE


def _passwd(root: Path) -> str:
    """As much of it as is read at all; nothing if there is none, or what is there is no text."""
    try:
        fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            file = open_file_in_root(fd, "/etc/passwd")
        finally:
            os.close(fd)
        try:
            data = os.read(file, _MOST)
        finally:
            os.close(file)
    except OSError:
        return ""
    if len(data) == _MOST:
        data = data.rpartition(b"\n")[0]  # the last line may be cut
    text = data.decode(errors="replace")
    return "" if "\0" in text else text
