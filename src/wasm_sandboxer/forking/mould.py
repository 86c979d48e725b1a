"""The mould: a process like the fork server, as it was when it was made, that runs no Python and forks children.

Between two forks a process and its child share all memory, and each page that either writes to is copied; to a Python
process, whose counts of references are in all it looks at, that happens a thousand times. So the fork server does not
fork for those children that need no Python: it writes scripts, and the mould, which writes to nothing, forks a child
for each.

The children are the fork server's (CLONE_PARENT, clone(2)), which waits for them as for its own.
"""

import errno
import os
import signal
import socket
import struct
import sys
from contextlib import suppress

from wasm_sandboxer.forking import wire
from wasm_sandboxer.linux import privileges, syscall
from wasm_sandboxer.linux.script import NOT_NEGATIVE, NOT_ZERO, Label, Script, equal
from wasm_sandboxer.linux.syscall import address_of

FIRST_DESCRIPTOR = 4
"""The number that a child finds the first of its descriptors by."""
_CONTROL = 3
_CLONE_PARENT = 0x8000  # linux/sched.h
_CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
_MSG_CMSG_CLOEXEC, _MSG_NOSIGNAL = 0x40000000, 0x4000  # linux/socket.h
_PATIENCE = 5.0  # seconds that it may take to fork
_HEADER = {"controllen": 40, "flags": 48}  # of a struct msghdr, offsets in bytes
_PID = struct.Struct("=i")
_CONTROLS = socket.CMSG_SPACE(wire.MAX_FDS * 4)


class Mould:
    """Forks children that make the calls of scripts, which must be in the memory of this one; one thread."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._control: socket.socket | None = None
        self._pidfd = -1

    def start(self) -> None:
        """Make it anew, of this process as it is now, which must have one thread; raises OSError."""
        self.stop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        loop = Script()
        _write_loop(loop, self._script, theirs.fileno())
        pid = syscall.fork_alone()
        if pid == 0:
            try:
                loop.run(self._script.failed)
            finally:
                os._exit(1)
        theirs.close()
        ours.settimeout(_PATIENCE)
        self._control, self._pidfd = ours, os.pidfd_open(pid)

    def stop(self) -> None:
        """End it; its children live on. Idempotent."""
        if self._control is not None:
            self._control.close()
            self._control = None
            with suppress(OSError):  # somebody else has reaped it
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            os.close(self._pidfd)

    def fork(self, fds: list[int]) -> int:
        """Fork a child that has these descriptors, in this order, and makes the calls; its id. Raises OSError.

        There may be a child all the same then, which nobody knows of. A ConnectionError says that the next time there
        will be another mould. Of the script nothing is left but in the child: it may have what no other shall know.
        """
        calls, data = self._script.content()
        self._script.wipe()
        control = self._send(calls, fds)
        try:
            control.send(data, socket.MSG_NOSIGNAL)
            answer = control.recv(_PID.size)
        except OSError as error:
            self.stop()  # whatever it is about to do, it must not take the next script for this one's data
            if isinstance(error, TimeoutError):
                raise OSError(errno.ETIMEDOUT, "the mould stands still") from None
            raise
        if not answer:
            self.stop()
            raise OSError(errno.EPIPE, "the mould has died")
        (pid,) = _PID.unpack(answer)
        if pid < 0:
            raise OSError(errno.EAGAIN, "too many processes, or too little memory")
        return int(pid)

    def _send(self, calls: bytes, fds: list[int]) -> socket.socket:
        """Send the first part, to another mould if this one is not there any more."""
        if self._control is not None:
            with suppress(ConnectionError):
                socket.send_fds(self._control, [calls], fds, socket.MSG_NOSIGNAL)
                return self._control
            print("fork server: the mould has died; making another", file=sys.stderr, flush=True)  # noqa: T201
        self.start()
        assert self._control is not None
        socket.send_fds(self._control, [calls], fds, socket.MSG_NOSIGNAL)
        return self._control


def _write_loop(loop: Script, script: Script, control: int) -> None:
    """What the mould does: take a script with its descriptors, fork, forget them."""
    privileges.end_with(loop, os.getpid())
    loop.call(address_of("prctl"), syscall.PR_SET_NAME, loop.data(syscall.named("wasm-mould")), 0, 0, 0)
    loop.call(address_of("dup2"), control, _CONTROL, check=NOT_NEGATIVE, what="dup2")
    loop.close_others(_CONTROL)
    calls, data = script.places()
    vector = loop.words(*calls)
    header = loop.words(0, 0, vector, 1, loop.room(_CONTROLS), _CONTROLS, 0)  # struct msghdr
    again, parent, refused = Label(), Label(), Label()
    loop.place(again)
    loop.call(address_of("memcpy"), header + _HEADER["controllen"], loop.words(_CONTROLS), 8)
    taken = loop.call(address_of("recvmsg"), _CONTROL, header, _MSG_CMSG_CLOEXEC, check=NOT_NEGATIVE, what="recvmsg")
    loop.call(address_of("abs"), taken, check=NOT_ZERO, what="recvmsg")  # or the fork server has ended
    size = loop.call(address_of("recv"), _CONTROL, *data, 0, check=NOT_NEGATIVE, what="recv")
    loop.call(address_of("abs"), size, check=NOT_ZERO, what="recv")
    # MSG_CTRUNC is in the first byte: not all the descriptors have found room.
    whole = loop.data(b"\0")
    loop.call(address_of("memcmp"), header + _HEADER["flags"], whole, 1, check=equal(0), otherwise=refused)
    flags = _CLONE_PARENT | signal.SIGCHLD
    pid = loop.call(address_of("syscall"), _CLONE, flags, 0, 0, 0, 0, check=equal(0), otherwise=parent)
    loop.call(address_of("close"), _CONTROL)  # before all else: who has it could speak for the mould
    loop.jump(Label(script.first))
    loop.place(refused)
    loop.call(address_of("memcpy"), int(pid), loop.words(-1), 8)
    loop.place(parent)
    for place, length in ((calls[0], taken), (data[0], size)):
        loop.call(address_of("memset"), place, 0, length)
    loop.call(address_of("send"), _CONTROL, int(pid), _PID.size, _MSG_NOSIGNAL)
    loop.close_others(_CONTROL)
    loop.jump(again)
