"""The fork server: a process with one thread that forks children for one with many.

It is a fresh Python, not a fork, so it can be started again at any time. One child is always forked in advance and
waits for something to do, so that nobody waits for a fork. A client that closes its end of a request's status socket
kills the child; the server ends when the control socket does, and its children with it.
"""

import fcntl
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

from wasm_sandboxer.forking import wire
from wasm_sandboxer.forking.job import default_signals, do_bounded, require_one_thread
from wasm_sandboxer.forking.jobs import Catalogue
from wasm_sandboxer.linux import syscall

RUN, PRELOAD = b"r", b"p"  # kinds of requests: something for a child, something for the server itself
_IDLE = 2  # milliseconds without a request after which the next spare child is forked
_CAREFUL = 500  # the same after one that died unasked
_OUT_OF_THE_WAY = 64  # the least number of a child's own socket: a command that it becomes has promised ones


@dataclass
class _Child:
    """A child; `status` is where its client hears of it, None while it is spare."""

    pid: int
    pidfd: int
    channel: socket.socket | None  # through which a spare child gets its request
    status: socket.socket | None = field(default=None)

    def close_channel(self) -> None:
        """Say no more to it; idempotent."""
        if self.channel is not None:
            self.channel.close()


def serve(control: socket.socket, catalogue: Catalogue) -> None:
    """Fork children until the control socket ends."""
    require_one_thread()
    syscall.set_thread_name("wasm-forkserver")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to handle
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)  # the daemon's own may be better than its guests shall have
    Server(control, catalogue).run()


class Server:
    """The server's loop: the control socket, and for each child a descriptor that says when it ends."""

    def __init__(self, control: socket.socket, catalogue: Catalogue) -> None:
        self._control = control
        self._catalogue = catalogue
        self._poll = select.poll()
        self._children: dict[int, _Child] = {}  # by pidfd and by status socket
        self._spare: _Child | None = None
        self._pause = _IDLE

    def run(self) -> None:
        """Serve until the control socket ends."""
        self._poll.register(self._control, select.POLLIN)
        while True:
            ready = self._poll.poll(self._pause if self._spare is None else None)
            if not ready:
                self._make_spare()
            for fd, _ in ready:
                if fd == self._control.fileno():
                    if not self._accept():
                        self._end_all()
                        return
                elif fd in self._children:
                    self._attend(fd)

    def _accept(self) -> bool:
        try:
            message, fds = wire.receive(self._control, wire.MAX_FDS)
        except wire.Truncated as cut:
            message, fds = b"", cut.fds
            if fds:  # the first is the client's
                with socket.socket(fileno=fds.pop(0)) as status:
                    wire.send_refused(status, f"the fork server: {cut.strerror}")
        else:
            if not message:
                return False
        try:
            if message[:1] == PRELOAD:
                self._preload(message, fds)
            elif message:
                self._give(message, socket.socket(fileno=fds.pop(0)), fds)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _preload(self, message: bytes, fds: list[int]) -> None:
        request, argument, own = wire.open_request(message, fds)
        self._catalogue.preloads[request.name](argument, own)
        require_one_thread()
        gc.collect()
        self._drop_spare()  # it was forked without

    def _give(self, message: bytes, status: socket.socket, fds: list[int]) -> None:
        """Have a child that does what is requested."""
        try:
            if self._fork_for(message, status, fds):
                return
        except OSError as error:
            wire.send_refused(status, f"cannot fork: {error.strerror}")
            status.close()
            return
        self._give_to_spare(message, status, fds)

    def _fork_for(self, message: bytes, status: socket.socket, fds: list[int]) -> bool:
        """Fork a child for this request alone, if there is a way; raises OSError."""
        request, argument, own = wire.open_request(message, fds[1:], again=True)
        fork = self._catalogue.forks.get(request.name) if request.bounds is None else None
        if fork is None:
            return False
        ask = partial(fork, argument, own, fds[0])
        try:
            child = self._child_of(ask, status)
        except ConnectionError:  # who was to fork it has died
            child = self._child_of(ask, status)
        if child is None:
            return False
        wire.send_begun(status, child.pid, child.pidfd)
        self._children[child.pidfd] = self._children[status.fileno()] = child
        self._poll.register(child.pidfd, select.POLLIN)
        self._poll.register(status, select.POLLHUP)
        return True

    def _child_of(self, fork: Callable[[], int | None], status: socket.socket) -> _Child | None:
        try:
            pid = fork()
            return _Child(pid, os.pidfd_open(pid), None, status) if pid is not None else None
        except OSError:
            self._end_strangers()
            raise

    def _end_strangers(self) -> None:
        """End children that nobody knows of; a mould too, which is no loss."""
        known = {child.pid for child in self._children.values()}
        with suppress(OSError):
            found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            for pid in {int(each) for each in found} - known:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _give_to_spare(self, message: bytes, status: socket.socket, fds: list[int]) -> None:
        for _ in range(3):
            try:
                child = self._spare or self._fork()
            except OSError as error:
                wire.send_refused(status, f"cannot fork: {error.strerror}")
                status.close()
                return
            self._spare = None
            wire.send_begun(status, child.pid, child.pidfd)
            try:
                assert child.channel is not None  # as every spare one has
                socket.send_fds(child.channel, [message], fds, socket.MSG_NOSIGNAL)
            except OSError:  # it has died: its end is noticed in its turn
                continue
            child.status = status
            self._children[status.fileno()] = child
            self._poll.register(status, select.POLLHUP)
            child.close_channel()
            return
        wire.send_refused(status, "children die as soon as they are forked")
        status.close()

    def _make_spare(self) -> None:
        try:
            self._spare = self._fork()
        except OSError as error:
            self._pause = _CAREFUL
            print(f"fork server: cannot fork: {error}", file=sys.stderr, flush=True)  # noqa: T201  # the daemon's log

    def _fork(self) -> _Child:
        require_one_thread()
        gc.freeze()  # what there is now is shared with children as long as nobody writes to it
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server = os.getpid()
        pid = syscall.fork_alone()
        if pid == 0:
            _be_spare(theirs, server, self._catalogue)
        theirs.close()
        try:
            child = _Child(pid, os.pidfd_open(pid), ours)
        except OSError:
            ours.close()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._children[child.pidfd] = child
        self._poll.register(child.pidfd, select.POLLIN)
        return child

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.close_channel()  # which ends it
            self._spare = None

    def _attend(self, fd: int) -> None:
        """A child has ended, or its client has gone: then it is killed, and ends soon."""
        child = self._children.pop(fd)
        self._poll.unregister(fd)
        if fd != child.pidfd:
            assert child.status is not None
            child.status.close()
            child.status = None
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
            return
        with suppress(OSError):  # it leads no group, or an empty one
            os.killpg(child.pid, signal.SIGKILL)  # no other can have its number before it is reaped
        _, status, used = os.wait4(child.pid, 0)
        if child.status is not None:
            cpu_time = used.ru_utime + used.ru_stime
            wire.send_ended(
                child.status, wire.End(status=status, cpu_time=cpu_time, peak_memory=used.ru_maxrss << 10)
            )
            self._poll.unregister(child.status)
            del self._children[child.status.fileno()]
            child.status.close()
        child.close_channel()
        os.close(child.pidfd)
        self._pause = _CAREFUL if child is self._spare else _IDLE
        if child is self._spare:
            self._spare = None

    def _end_all(self) -> None:
        for child in self._children.values():
            with suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)


def _be_spare(channel: socket.socket, server: int, catalogue: Catalogue) -> NoReturn:
    """Wait for a request, do it, end; whatever happens, the child must not go on as a copy of the server."""
    code = 1
    try:
        syscall.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != server:  # it died before that could be seen
            os._exit(1)
        gc.disable()  # a collection would write to all that is shared
        syscall.close_others(channel.fileno(), *catalogue.kept)
        os.setsid()
        default_signals()
        catalogue.warm_up()
        message, fds = wire.receive(channel, wire.MAX_FDS)
        if not message:
            os._exit(0)
        channel.close()
        answers = socket.socket(fileno=fcntl.fcntl(fds[0], fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY))
        os.close(fds[0])
        request, argument, own = wire.open_request(message, fds[1:])
        if request.bounds is not None:
            job = catalogue.jobs[request.name]
            do_bounded(lambda: job(argument, own), request.bounds, answers)

        def tell(content: bytes) -> None:
            with suppress(OSError):
                answers.send(content, socket.MSG_NOSIGNAL)

        code = catalogue.processes[request.name](argument, own, tell)
    except BaseException as error:  # noqa: BLE001  # there is nobody above who could handle it
        if sys.stderr is not None:  # else 2 is its guest's
            print(f"fork server: a child failed: {error!r}", file=sys.stderr, flush=True)  # noqa: T201
    finally:
        os._exit(code)
