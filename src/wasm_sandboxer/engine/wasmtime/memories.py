"""Linear memories of our own making, so that their growth is charged to pools and a refusal is known.

The engine asks for each memory when an instance is made (new_memory, in Python: no guest runs yet), grows it by
machine code on the guest's thread, and gives it back when the store goes. What the engine's own allocator would do
besides, mapping the data segments of a module instead of copying them, is done here too (image.py).

A memory reserves its whole range at once and never moves: the guard the engine asks for lies behind it, and as
much before it.

Source: wasmtime/config.h, wasmtime_memory_creator_t and wasmtime_linear_memory_t; mmap(2), mprotect(2), mincore(2).
"""

import ctypes
import functools
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from wasm_sandboxer.engine import counting
from wasm_sandboxer.engine.image import Image
from wasm_sandboxer.engine.pool import MemoryPool
from wasm_sandboxer.engine.wasmtime.binding import ffi
from wasm_sandboxer.engine.wasmtime.making import Desk
from wasm_sandboxer.linux import memory
from wasm_sandboxer.linux.machine_code import Thunk, Thunks, install
from wasm_sandboxer.units import format_size

_WORD = 8
# A linear memory's words, by their offsets in bytes: where it is and how large, what it is charged to, the mask of
# whole pages of this machine, and what grow() calls.
_BASE, _LENGTH, _CAPACITY, _POOL, _MASK, _CHARGE, _RELEASE, _NEW_ERROR, _MESSAGE, _SIZE = range(0, 80, 8)
_Words = ctypes.c_uint64 * (_SIZE // _WORD)  # kept: Python makes the type of an array anew each time
_MESSAGE_TEXT = ctypes.create_string_buffer(b"its memory cannot be mapped")

# get_memory(memory, *size, *capacity) -> base
GET: Thunks = {
    "x86_64": Thunk(
        """
            mov 8(%rdi), %rax
            mov %rax, (%rsi)
            mov 16(%rdi), %rax
            mov %rax, (%rdx)
            mov (%rdi), %rax
            ret
        """,
        bytes.fromhex("488b4708488906488b4710488902488b07c3"),
    ),
    "aarch64": Thunk(
        """
            ldp x8, x9, [x0, #8]
            str x8, [x1]
            str x9, [x2]
            ldr x0, [x0]
            ret
        """,
        bytes.fromhex("08a440a9280000f9490000f9000040f9c0035fd6"),
    ),
}

# grow_memory(memory, new_size) -> error or NULL: charge the difference to the pool, make it accessible with
# mprotect(2), note the size; else note the denial in the pool and answer with a new error.
GROW: Thunks = {
    "x86_64": Thunk(
        """
            push %rbx
            push %rbp
            push %r12
            mov %rdi, %rbx
            mov %rsi, %r12
            mov %rsi, %rbp
            sub 8(%rdi), %rbp
            cmp 16(%rdi), %rsi
            ja 2f
            mov 24(%rdi), %rdi
            mov %rbp, %rsi
            call *40(%rbx)
            test %rax, %rax
            jne 2f
            mov (%rbx), %rdi
            lea (%rdi,%r12), %rsi
            add 8(%rbx), %rdi
            and 32(%rbx), %rdi
            sub %rdi, %rsi
            mov $3, %edx
            mov $10, %eax
            syscall
            test %rax, %rax
            jne 1f
            mov %r12, 8(%rbx)
            mov 24(%rbx), %rcx
            mov %rax, 32(%rcx)
            jmp 3f
        1:  mov 24(%rbx), %rdi
            mov %rbp, %rsi
            call *48(%rbx)
        2:  mov 24(%rbx), %rcx
            movq $1, 32(%rcx)
            incq 40(%rcx)
            mov 64(%rbx), %rdi
            call *56(%rbx)
        3:  pop %r12
            pop %rbp
            pop %rbx
            ret
        """,
        bytes.fromhex(
            "535541544889fb4989f44889f5482b6f08483b7710774a488b7f184889eeff53284885c0753b488b3b4a8d342748037b08"
            "48237b204829feba03000000b80a0000000f054885c0750e4c896308488b4b1848894120eb21488b7b184889eeff533048"
            "8b4b1848c741200100000048ff4128488b7b40ff5338415c5d5bc3"
        ),
    ),
    "aarch64": Thunk(
        """
            stp x29, x30, [sp, #-48]!
            stp x19, x20, [sp, #16]
            str x21, [sp, #32]
            mov x19, x0
            mov x20, x1
            ldp x9, x10, [x0, #8]
            sub x21, x1, x9
            cmp x1, x10
            b.hi 2f
            ldr x8, [x19, #40]
            ldr x0, [x19, #24]
            mov x1, x21
            blr x8
            cbnz x0, 2f
            ldp x0, x9, [x19]
            add x1, x0, x20
            add x0, x0, x9
            ldr x9, [x19, #32]
            and x0, x0, x9
            sub x1, x1, x0
            mov x2, #3
            mov x8, #226
            svc #0
            cbnz x0, 1f
            str x20, [x19, #8]
            ldr x9, [x19, #24]
            str xzr, [x9, #32]
            b 3f
        1:  ldr x8, [x19, #48]
            ldr x0, [x19, #24]
            mov x1, x21
            blr x8
        2:  ldr x9, [x19, #24]
            mov x10, #1
            str x10, [x9, #32]
            ldr x10, [x9, #40]
            add x10, x10, #1
            str x10, [x9, #40]
            ldr x8, [x19, #56]
            ldr x0, [x19, #64]
            blr x8
        3:  ldr x21, [sp, #32]
            ldp x19, x20, [sp, #16]
            ldp x29, x30, [sp], #48
            ret
        """,
        bytes.fromhex(
            "fd7bbda9f35301a9f51300f9f30300aaf40301aa09a840a9350009cb3f000aeb08030054681640f9600e40f9e10315aa"
            "00013fd6600200b5602640a90100148b0000098b691240f90000098a210000cb620080d2481c80d2010000d4a00000b5"
            "740600f9690e40f93f1100f90e000014681a40f9600e40f9e10315aa00013fd6690e40f92a0080d22a1100f92a1540f9"
            "4a0500912a1500f9681e40f9602240f900013fd6f51340f9f35341a9fd7bc3a8c0035fd6"
        ),
    ),
}

# void *env, wasm_memorytype_t *, minimum, maximum, reserved, guard, wasmtime_linear_memory_t *out -> error
_Out = ctypes.c_size_t * 4
_NewMemory = ctypes.CFUNCTYPE(ctypes.c_size_t, *[ctypes.c_size_t] * 7)
_Finalizer = ctypes.CFUNCTYPE(None, ctypes.c_size_t)


class GuestMemories:
    """The linear memories of one guest and what they are charged to."""

    def __init__(self, pool: MemoryPool) -> None:
        """`pool` is the guest's own."""
        self.pool = pool
        self.lacking = False
        """Whether one could not be made, since a pool had no room for it."""
        self._lock = threading.Lock()
        self._made: list[_LinearMemory] = []

    def resident(self) -> int:
        """Bytes of them that are in memory; 0 once they are gone. Any thread."""
        with self._lock:
            return sum(memory.resident(each.base, each.length) for each in self._made)

    def add(self, made: "_LinearMemory") -> None:
        """One more."""
        with self._lock:
            self._made.append(made)

    def remove(self, gone: "_LinearMemory") -> None:
        """Unmap one and give back what it was charged."""
        with self._lock:
            self._made.remove(gone)
        gone.unmap()
        self.pool.release(gone.length)


class MappedImage:
    """What a guest's memory holds at the start, as a part of an open file that nobody changes."""

    def __init__(self, file: int, image: Image) -> None:
        self.file = file
        self.image = image

    def fits(self, minimum: int) -> bool:
        """Whether a memory of this size is the one; the engine's other memories, for collected objects, are empty."""
        return minimum == self.image.memory

    def map_into(self, base: int) -> None:
        """Show it in the memory that begins at `base`, copied where the guest writes; raises OSError."""
        memory.map_private(base + self.image.address, self.image.size, self.file, self.image.offset)


class _LinearMemory:
    """One mapping, and the words by which machine code knows it."""

    def __init__(
        self, owner: GuestMemories, minimum: int, reserved: int, guard: int, image: MappedImage | None
    ) -> None:
        """Raises OSError."""
        self.owner = owner
        capacity = _pages(max(minimum, reserved))
        self._guard = _pages(guard)
        self._mapped = capacity + 2 * self._guard
        self._start = memory.reserve(self._mapped)
        self.base = self._start + self._guard
        try:
            if minimum:
                memory.make_accessible(self.base, _pages(minimum))
            if image is not None:
                image.map_into(self.base)
        except OSError:
            memory.unmap(self._start, self._mapped)
            raise
        self._words = _Words(self.base, minimum, capacity, owner.pool.address, -mmap.PAGESIZE, *_callees())
        self.address = ctypes.addressof(self._words)

    @property
    def length(self) -> int:
        """Bytes the guest has."""
        return self._words[_LENGTH // _WORD]

    def unmap(self) -> None:
        """Give the range back."""
        memory.unmap(self._start, self._mapped)


class Memories:
    """Makes the linear memories of one engine's guests. Any thread, each for one guest at a time."""

    def __init__(self) -> None:
        self._current = threading.local()
        self._all: dict[int, _LinearMemory] = {}
        # The engine keeps their addresses as long as it lives: they are held here, and this by the engine's owner.
        self._new = _NewMemory(self._new_memory)
        self._finalize = _Finalizer(self._forget)
        self._functions = (*_thunks(), ctypes.cast(self._finalize, ctypes.c_void_p).value or 0)
        python = ctypes.cast(self._new, ctypes.c_void_p).value or 0
        self.desk = Desk(python, *_thunks(), *_callees()[2:])

    def serve(self, config: Any) -> None:
        """Have the engine of this configuration ask here for its memories."""
        creator = ffi.wasmtime_memory_creator_t(
            env=self.desk.address, new_memory=ctypes.cast(self.desk.function, ffi.wasmtime_new_memory_callback_t)
        )
        # Safe: the structure is copied, and the desk and the callback outlive the engine.
        ffi.wasmtime_config_host_memory_creator_set(config.ptr(), ctypes.byref(creator))

    @contextmanager
    def made_for(self, guest: GuestMemories, image: MappedImage | None) -> Iterator[None]:
        """What memories the calling thread needs meanwhile are this guest's, one of them with the image."""
        self._current.guest, self._current.image = guest, image
        try:
            yield
        finally:
            self._current.guest = None

    def _new_memory(
        self, _env: int, _type: int, minimum: int, _maximum: int, reserved: int, guard: int, out: int
    ) -> int:
        try:
            guest: GuestMemories = self._current.guest
            image: MappedImage | None = self._current.image
            if image is not None and image.fits(minimum):
                self._current.image = None  # it is the guest's; the next is another's
            else:
                image = None
            if (refusing := guest.pool.charge(minimum)) is not None:
                guest.lacking = True
                return _error(too_much(minimum, refusing))
            try:
                made = _LinearMemory(guest, minimum, reserved, guard, image)
            except OSError as error:
                guest.pool.release(minimum)
                return _error(f"its memory cannot be mapped: {error.strerror}")
        except Exception as error:  # noqa: BLE001  # nothing may pass through the engine
            return _error(f"internal error: {error!r}")
        guest.add(made)
        self._all[made.address] = made
        # Safe: `out` is a wasmtime_linear_memory_t: env, get_memory, grow_memory, finalizer.
        _Out.from_address(out)[:] = [made.address, *self._functions]
        return 0

    def _forget(self, address: int) -> None:
        gone = self._all.pop(address)
        gone.owner.remove(gone)


def too_much(size: int, refusing: MemoryPool) -> str:
    """What to tell of a guest that its pool, or one above it, refuses so many bytes at the start."""
    used = f", of which {format_size(refusing.used)} are in use" if refusing.used else ""
    limit = format_size(refusing.limit or 0)
    return f"it needs {format_size(size)} of memory, and {refusing.what} limit is {limit}{used}"


def _error(message: str) -> int:
    error = ffi.wasmtime_error_new(ctypes.create_string_buffer(message.encode(errors="replace")))
    return ctypes.cast(error, ctypes.c_void_p).value or 0


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


@functools.cache
def _thunks() -> tuple[int, int]:
    addresses = install({"get": GET, "grow": GROW})
    return addresses["get"], addresses["grow"]


@functools.cache
def _callees() -> tuple[int, int, int, int]:
    """What grow() calls: charge, release, the engine's maker of errors, and its argument."""
    count = counting.addresses()
    new_error = ctypes.cast(ffi.dll.wasmtime_error_new, ctypes.c_void_p).value or 0
    return count["charge"], count["release"], new_error, ctypes.addressof(_MESSAGE_TEXT)
