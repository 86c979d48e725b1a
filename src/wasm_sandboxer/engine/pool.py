"""Memory pools: how much linear memory guests may have together, counted as they grow.

A pool has a limit and perhaps a parent: a guest's pool lies in its container's, that in its pod's, that in the
node's. What is charged to one is charged to all above it, or to none if one of them refuses. Guests charge and
release from machine code, on their own threads and without the GIL: only atomic instructions change the counts.

With several levels there is an instant in which a request that a parent is about to refuse is counted in the child;
another request that comes in it may be refused too. No count ever exceeds its limit.
"""

import ctypes
import functools

from wasm_sandboxer.linux.machine_code import Thunk, Thunks, install

# Words of a pool, by their offsets in bytes.
USED, LIMIT, REFUSED, PARENT, DENIED, DENIALS, SIZE = 0, 8, 16, 24, 32, 40, 48
_NO_LIMIT = (1 << 64) - 1
_WORD = 8

# charge(pool, bytes) -> 0, or the pool that refused: it counts that, and nothing is charged to any.
CHARGE: Thunks = {
    "x86_64": Thunk(
        """
            mov %rdi, %r8
        1:  test %r8, %r8
            je 5f
            mov (%r8), %rax
        2:  lea (%rax,%rsi), %rcx
            cmp 8(%r8), %rcx
            ja 3f
            lock cmpxchg %rcx, (%r8)
            jne 2b
            mov 24(%r8), %r8
            jmp 1b
        3:  lock incq 16(%r8)
        4:  cmp %rdi, %r8
            je 5f
            lock sub %rsi, (%rdi)
            mov 24(%rdi), %rdi
            jmp 4b
        5:  mov %r8, %rax
            ret
        """,
        bytes.fromhex(
            "4989f84d85c0742e498b00488d0c30493b4808770df0490fb10875ef4d8b4018ebe1f049ff40104939f8740af0482937"
            "488b7f18ebf14c89c0c3"
        ),
    ),
    "aarch64": Thunk(
        """
            mov x8, x0
        1:  cbz x8, 6f
            ldr x11, [x8, #8]
        2:  ldaxr x9, [x8]
            add x10, x9, x1
            cmp x10, x11
            b.hi 3f
            stlxr w12, x10, [x8]
            cbnz w12, 2b
            ldr x8, [x8, #24]
            b 1b
        3:  clrex
            add x9, x8, #16
        4:  ldxr x10, [x9]
            add x10, x10, #1
            stxr w12, x10, [x9]
            cbnz w12, 4b
        5:  cmp x0, x8
            b.eq 6f
        7:  ldxr x10, [x0]
            sub x10, x10, x1
            stlxr w12, x10, [x0]
            cbnz w12, 7b
            ldr x0, [x0, #24]
            b 5b
        6:  mov x0, x8
            ret
        """,
        bytes.fromhex(
            "e80300aa080300b40b0540f909fd5fc82a01018b5f010beba80000540afd0cc86cffff35080d40f9f7ffff175f3f03d5"
            "094100912a7d5fc84a0500912a7d0cc8acffff351f0008ebe00000540a7c5fc84a0101cb0afc0cc8acffff35000c40f9"
            "f9ffff17e00308aac0035fd6"
        ),
    ),
}

# release(pool, bytes): give back what was charged.
RELEASE: Thunks = {
    "x86_64": Thunk(
        """
        1:  test %rdi, %rdi
            je 2f
            lock sub %rsi, (%rdi)
            mov 24(%rdi), %rdi
            jmp 1b
        2:  ret
        """,
        bytes.fromhex("4885ff740af0482937488b7f18ebf1c3"),
    ),
    "aarch64": Thunk(
        """
        1:  cbz x0, 3f
        2:  ldxr x9, [x0]
            sub x9, x9, x1
            stlxr w10, x9, [x0]
            cbnz w10, 2b
            ldr x0, [x0, #24]
            b 1b
        3:  ret
        """,
        bytes.fromhex("e00000b4097c5fc8290101cb09fc0ac8aaffff35000c40f9faffff17c0035fd6"),
    ),
}


class MemoryPool:
    """A count of bytes with a limit; any thread. Lives as long as anybody may charge it."""

    def __init__(self, what: str, limit: int | None = None, parent: "MemoryPool | None" = None) -> None:
        """`what` names it for people ("the pod's"); no limit but the parents' with None."""
        self.what = what
        self.parent = parent
        self._words = (ctypes.c_uint64 * (SIZE // _WORD))()
        self.address = ctypes.addressof(self._words)
        self._words[PARENT // _WORD] = parent.address if parent is not None else 0
        self.limit = limit

    @classmethod
    def at(cls, what: str, address: int) -> "MemoryPool":
        """One whose words lie where somebody else keeps them, as they are; without a parent."""
        pool = cls.__new__(cls)
        pool.what = what
        pool.parent = None
        # Safe: the caller keeps SIZE bytes there as long as anybody may charge the pool.
        pool._words = (ctypes.c_uint64 * (SIZE // _WORD)).from_address(address)  # noqa: SLF001
        pool.address = address
        return pool

    @property
    def limit(self) -> int | None:
        """The most there may be, in bytes. One that is set below what is used refuses growth, and takes nothing."""
        limit = self._words[LIMIT // _WORD]
        return None if limit == _NO_LIMIT else limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self._words[LIMIT // _WORD] = _NO_LIMIT if limit is None else limit

    @property
    def used(self) -> int:
        """Bytes charged now."""
        return self._words[USED // _WORD]

    @property
    def refused(self) -> int:
        """How often this limit was the one that refused."""
        return self._words[REFUSED // _WORD]

    @property
    def denied(self) -> bool:
        """For a guest's own pool: whether its latest growth was refused, whoever refused it."""
        return bool(self._words[DENIED // _WORD])

    @property
    def denials(self) -> int:
        """For a guest's own pool: how many of its growths were refused."""
        return self._words[DENIALS // _WORD]

    @classmethod
    def of_guest(cls, limit: int | None, parent: "MemoryPool | None") -> "MemoryPool":
        """A guest's own pool in its container's, or for a guest in none, with its own limit."""
        return cls("its", None, parent) if parent is not None else cls("its", limit)

    def charge(self, size: int) -> "MemoryPool | None":
        """Count so many bytes here and in all parents; the pool that refuses, if one does."""
        # Safe: the addresses in the chain are those of pools that `parent` keeps alive.
        refusing = _charge()(self.address, size)
        pool: MemoryPool | None = self
        while refusing and pool is not None and pool.address != refusing:
            pool = pool.parent
        return pool if refusing else None

    def release(self, size: int) -> None:
        """Give back what was charged."""
        _release()(self.address, size)

    def room(self) -> int | None:
        """Bytes that could be charged now; None if nothing limits them."""
        rooms: list[int] = []
        pool: MemoryPool | None = self
        while pool is not None:
            if (limit := pool.limit) is not None:
                rooms.append(max(0, limit - pool.used))
            pool = pool.parent
        return min(rooms, default=None)


@functools.cache
def addresses() -> dict[str, int]:
    """Where charge and release are, for machine code that calls them."""
    return install({"charge": CHARGE, "release": RELEASE})


@functools.cache
def _charge() -> "ctypes._CFunctionType":
    # PYFUNCTYPE keeps the GIL: these take some nanoseconds.
    return ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t)(addresses()["charge"])


@functools.cache
def _release() -> "ctypes._CFunctionType":
    return ctypes.PYFUNCTYPE(None, ctypes.c_size_t, ctypes.c_size_t)(addresses()["release"])
