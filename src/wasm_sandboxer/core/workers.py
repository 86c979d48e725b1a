"""Threads for what may block: mounts, bundles, modules. Each has a working directory of its own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from wasm_sandboxer.linux import namespace

_T = TypeVar("_T")
_CLONE_FS = 0x00000200  # linux/sched.h: root, working directory and umask


class Workers:
    """A small pool; calls beyond its size wait their turn, never the loop."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, "worker", initializer=lambda: namespace.unshare(_CLONE_FS))

    async def run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """The function's result, computed in a worker; a caller that is cancelled leaves it running to its end."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def stop(self) -> None:
        """Wait for what runs, take nothing more."""
        self._pool.shutdown(wait=True)
