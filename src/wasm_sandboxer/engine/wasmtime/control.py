"""A guest's cell: how the daemon stops and pauses a guest that runs on wasmtime."""

import ctypes
import os
import select
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import wasmtime

from wasm_sandboxer.engine.counting import addresses
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.protocol import Passage
from wasm_sandboxer.engine.wasmtime import thunks
from wasm_sandboxer.engine.wasmtime.binding import NO_FINALIZER, delete_error, ffi, new_stop_error
from wasm_sandboxer.engine.wasmtime.memories import GuestMemories
from wasm_sandboxer.engine.wasmtime.runtime import Runtime
from wasm_sandboxer.errors import WasmSandboxerError
from wasm_sandboxer.guest import FILES, Stdio
from wasm_sandboxer.linux import syscall

_WORD = 8
_Cell = ctypes.c_uint64 * (thunks.CELL_SIZE // _WORD)  # kept: Python makes the type of an array anew each time


class CellControl:
    """Stops, pauses and resumes one guest; see Control.

    The cell is memory that the thunks read. Its words are written by plain aligned 64-bit stores, which both
    machines do whole, and before the epoch is bumped, which is a barrier.
    """

    def __init__(self, runtime: Runtime, stdio: Stdio, pool: MemoryPool, *, files: int = FILES) -> None:
        """`pool` is the guest's own; `files` are how many it may have open."""
        self.memories = GuestMemories(pool)
        self.files = MemoryPool("its", files, runtime.files)
        self._runtime = runtime
        self._lock = threading.Lock()
        self._closed = False
        self._paused = False
        self.stopped = False
        self._cell = _Cell()
        self.address = ctypes.addressof(self._cell)
        thunks.put_doors(self._cell, thunks.CELL_DOORS, ())
        self._cell[thunks.CELL_FILES // _WORD] = self.files.address
        self._cell[thunks.CELL_CHARGE // _WORD] = addresses()["charge"]
        self._cell[thunks.CELL_RELEASE // _WORD] = addresses()["release"]
        syscall.semaphore_init(self.address + thunks.CELL_SEMAPHORE)
        for number, pollfd in enumerate(pollfds(stdio)):
            self._cell[thunks.CELL_POLL // _WORD + number] = pollfd

    def set_memory(self, address: int) -> None:
        """Tell the cell where the guest's linear memory begins, before the shim can be called."""
        self._cell[thunks.CELL_MEMORY // _WORD] = address

    def guard(self, store: wasmtime.Store) -> None:
        """Have the store's guest look at this cell whenever the epoch is bumped."""
        # A deadline of now: the first check asks the cell, so a stop or pause before this point is not lost.
        store.set_epoch_deadline(0)
        # Safe: the cell outlives the store, since a control is closed only after its guest has ended.
        ffi.wasmtime_store_epoch_deadline_callback(store.ptr(), self._runtime.on_epoch, self.address, NO_FINALIZER)

    @contextmanager
    def entering(self, passage: Passage) -> Iterator[None]:
        """Have the guest enter its bounds before its next instruction; raises WasmSandboxerError if it could not.

        The passage's descriptors are closed in the end, those that it did not come to as well.
        """
        self._cell[thunks.CELL_TEXT // _WORD] = thunks.TEXT
        self._cell[thunks.CELL_NICE // _WORD] = passage.nice[0]
        self._cell[thunks.CELL_STATUS // _WORD] = 0
        self._cell[thunks.CELL_REFUSAL // _WORD] = new_stop_error()
        thunks.put_doors(self._cell, thunks.CELL_DOORS, passage.enter)
        try:
            yield
        finally:
            left = (ctypes.c_int32 * len(passage.enter)).from_buffer(self._cell, thunks.CELL_DOORS)
            for door in left:
                if door >= 0:
                    os.close(door)
            thunks.put_doors(self._cell, thunks.CELL_DOORS, ())
            if refusal := self._cell[thunks.CELL_REFUSAL // _WORD]:
                delete_error(refusal)
                self._cell[thunks.CELL_REFUSAL // _WORD] = 0
        status = ctypes.c_int64(self._cell[thunks.CELL_STATUS // _WORD]).value
        if status < 0 and not self.stopped:  # else it has become a real-time thread, which not every group takes
            raise WasmSandboxerError(f"it cannot enter its control group: {os.strerror(-status)}")

    def stop(self) -> None:
        """See Control."""
        with self._lock:
            if self._closed or self.stopped:
                return
            self.stopped = True
            self._cell[thunks.CELL_ERROR // _WORD] = new_stop_error()
            self._release()
            self._runtime.bump_epoch()

    def pause(self) -> None:
        """See Control."""
        with self._lock:
            if self._closed or self.stopped or self._paused:
                return
            self._paused = True
            syscall.semaphore_drain(self.address + thunks.CELL_SEMAPHORE)
            self._cell[thunks.CELL_PAUSE // _WORD] = syscall.address_of("sem_wait")
            self._runtime.bump_epoch()

    def resume(self) -> None:
        """See Control."""
        with self._lock:
            if not self._closed:
                self._release()

    def memory(self) -> int:
        """See Control."""
        return self.memories.pool.used

    def resident(self) -> int:
        """See Control."""
        return self.memories.resident()

    def close(self) -> None:
        """See Control."""
        with self._lock:
            if not self._closed and self._cell[thunks.CELL_ERROR // _WORD]:
                delete_error(self._cell[thunks.CELL_ERROR // _WORD])
            self._closed = True

    def _release(self) -> None:
        if self._paused:
            self._paused = False
            self._cell[thunks.CELL_PAUSE // _WORD] = 0
            syscall.semaphore_post(self.address + thunks.CELL_SEMAPHORE)


def pollfds(stdio: Stdio) -> list[int]:
    """A word for each standard stream: the struct pollfd by which the shim waits for it."""
    words = []
    for number, fd in enumerate((stdio.stdin, stdio.stdout, stdio.stderr)):
        events = select.POLLOUT if number else select.POLLIN
        words.append(int.from_bytes(struct.pack("=ihh", -1 if fd is None else fd, events, 0), "little"))
    return words
