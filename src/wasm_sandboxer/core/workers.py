"""Threads for what may block: mounts, bundles, modules. Each has a working directory of its own."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from wasm_sandboxer.linux import namespace, syscall

_T = TypeVar("_T")
_CLONE_FS = 0x00000200  # linux/sched.h: root, working directory and umask
_Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Workers:
    """A small pool; calls beyond its size wait their turn, never the loop.

    Not concurrent.futures': the end of its threads is waited for when Python exits, and one of ours may hang in
    the kernel, over a mount whose server is gone.
    """

    def __init__(self, count: int) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """The function's result, computed in a worker; a caller that is cancelled leaves it running to its end."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._jobs.put((loop, future, function, arguments))
        return await future

    def stop(self, seconds: float) -> None:
        """Take nothing more; wait for what runs, but no longer than this."""
        deadline = time.monotonic() + seconds
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        syscall.set_thread_name(threading.current_thread().name)
        namespace.unshare(_CLONE_FS)
        while (job := self._jobs.get()) is not None:
            loop, future, function, arguments = job
            result, error = None, None
            try:
                result = function(*arguments)
            except BaseException as failure:  # noqa: BLE001  # whatever it is, it is the caller's
                error = failure
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, result, error)
            del job, future, function, arguments, result, error  # nothing is kept alive while waiting


def _settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():  # its caller was cancelled
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
