"""Threads for what may block: mounts, bundles, modules. Each has a working directory of its own.

One works at a time unless it is stuck: what it does is half Python, and more would only wake each other for the GIL.
With two, containers that are made ten at a time took a fifth more CPU time, with eight half as much again.

Those that are stuck may stay so for minutes: over a compilation, a log program that says nothing, a mount whose
server is gone. So while all are, more threads are made, and end again when nobody has wanted them for a while.
"""

import asyncio
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from wasm_sandboxer.linux import namespace, syscall

_T = TypeVar("_T")
_CLONE_FS = 0x00000200  # linux/sched.h: root, working directory and umask
# Seconds that a job takes if it waits for something: a mount from afar, a compilation. Others take one or two
# milliseconds, on a busy machine ten. A guess.
_STUCK = 0.02
_FEW = 1
# Threads at most: as many jobs may be stuck at once before one that is not must wait. A guess, above what a node has
# of pods; a thread that waits costs some ten KiB.
_MOST = 256
_PATIENCE = 3.0  # seconds that a thread beyond the resident ones waits for something to do, before it ends; a guess
_Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Workers:
    """A small pool that grows while all of it is stuck; calls beyond that wait their turn, never the loop.

    Not concurrent.futures': the end of its threads is waited for when Python exits, and one of ours may hang in
    the kernel, over a mount whose server is gone.
    """

    def __init__(self, count: int, few: int = _FEW, *, most: int = _MOST, patience: float = _PATIENCE) -> None:
        """`count` threads stay; no more than `few` work unless some are stuck, and up to `most` while all are.

        Those beyond `count` end once they were idle for `patience`, in seconds.
        """
        self._count = count
        self._few = few
        self._most = most
        self._patience = patience
        # All have that of when the pool was made, before the daemon's own: a log program inherits its thread's.
        self._priority = os.getpriority(os.PRIO_PROCESS, 0)
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # of all that follows
        self._jobs: deque[_Job] = deque()
        self._begun: dict[threading.Lock, float] = {}  # when those that work began their job
        self._idle: list[threading.Lock] = []  # the bells of those that wait; each is held until it is rung
        self._look_out: asyncio.TimerHandle | None = None
        self._stopping = False
        self._threads: set[threading.Thread] = set()
        for _ in range(count):
            self._idle.append(self._make())

    async def run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """The function's result, computed in a worker; a caller that is cancelled leaves it running to its end."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        with self._lock:
            self._jobs.append((loop, future, function, arguments))
            if not self._ring() and self._look_out is None:
                self._look_out = loop.call_later(_STUCK, self._look, loop)
        return await future

    def stop(self, seconds: float) -> None:
        """Take nothing more; wait for what runs, but no longer than this."""
        deadline = time.monotonic() + seconds
        with self._lock:
            self._stopping = True
            for bell in self._idle:
                bell.release()
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _room(self) -> bool:
        """Whether another may work: of those that do, only so many get on."""
        stuck = time.monotonic() - _STUCK
        return sum(begun > stuck for begun in self._begun.values()) < self._few

    def _ring(self) -> bool:
        """Wake one, if there is room: the last to go idle, for what it needs is still in the processor's caches."""
        if not self._room():
            return False
        bell = self._idle.pop() if self._idle else self._make_more()
        if bell is None:
            return False
        self._begun[bell] = time.monotonic()
        bell.release()
        return True

    def _make(self) -> threading.Lock:
        """A thread that waits for its bell; raises RuntimeError where the system lets us have no more."""
        bell = threading.Lock()
        bell.acquire()
        name = f"worker-{next(self._numbers)}"
        thread = threading.Thread(target=self._work, args=(bell,), name=name, daemon=True)
        thread.start()
        self._threads.add(thread)
        return bell

    def _make_more(self) -> "threading.Lock | None":
        """One more, now that all there are, are stuck; None where there can be none."""
        if self._stopping or len(self._threads) >= self._most:
            return None
        try:
            return self._make()
        except RuntimeError:
            return None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """While jobs wait, see whether those that work get on."""
        with self._lock:
            self._look_out = None
            if self._jobs:
                self._ring()
                self._look_out = loop.call_later(_STUCK, self._look, loop)

    def _work(self, bell: threading.Lock) -> None:
        syscall.set_thread_name(threading.current_thread().name)
        namespace.unshare(_CLONE_FS)
        with suppress(OSError):  # not privileged, and the daemon has made itself worse
            os.setpriority(os.PRIO_PROCESS, 0, self._priority)
        while self._wanted(bell):
            while (job := self._next(bell)) is not None:
                _do(job)
                del job  # nothing is kept alive while waiting
            if self._stopping:
                return

    def _wanted(self, bell: threading.Lock) -> bool:
        """Wait for the bell; False if there are more than stay, and it was not rung for so long.

        Whoever begins to wait while there are not waits for ever: of those there are never more than stay.
        """
        while not bell.acquire(timeout=self._patience if len(self._threads) > self._count else -1):
            with self._lock:
                # Else it is rung at this moment, or enough others have ended meanwhile.
                if bell in self._idle and len(self._threads) > self._count and not self._stopping:
                    self._idle.remove(bell)
                    self._threads.remove(threading.current_thread())
                    return False
        return True

    def _next(self, bell: threading.Lock) -> _Job | None:
        """A job; without one, or where enough others work, the caller is idle from here on."""
        with self._lock:
            self._begun.pop(bell, None)
            if self._jobs and (self._room() or self._stopping):
                self._begun[bell] = time.monotonic()
                return self._jobs.popleft()
            self._idle.append(bell)
            return None


def _do(job: _Job) -> None:
    loop, future, function, arguments = job
    result, error = None, None
    try:
        result = function(*arguments)
    except BaseException as failure:  # noqa: BLE001  # whatever it is, it is the caller's
        error = failure
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(_settle, future, result, error)


def _settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():  # its caller was cancelled
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
