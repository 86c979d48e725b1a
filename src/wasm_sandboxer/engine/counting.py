"""Counts with limits, in chains, as machine code changes them: the layout of a pool, and its two functions.

Guests charge and release on their own threads and without the GIL, in whatever process they run: only atomic
instructions change the counts.
"""

import ctypes
import functools

from wasm_sandboxer.linux.machine_code import Thunk, Thunks, install
from wasm_sandboxer.linux.script import Script

# Words of a pool, by their offsets in bytes. COUNT is where its count is, two words, and BOUND where its limit is: in
# the pool itself, or in a page that processes share. HERE is what this process has charged, of either: never more
# than the count, unless somebody lies in the page; the limit holds for both.
COUNT, BOUND, HERE, PARENT, DENIED, DENIALS, OWN_COUNT, OWN_LIMIT, SIZE = 0, 8, 16, 24, 32, 40, 48, 64, 72
USED, REFUSED, COUNT_SIZE = 0, 8, 16  # of a count
NO_LIMIT = (1 << 64) - 1
WORD = 8

# charge(pool, bytes) -> 0, or the pool that refused: it counts that, and nothing is charged to any.
CHARGE: Thunks = {
    "x86_64": Thunk(
        """
            mov %rdi, %r8
        1:  test %r8, %r8
            je 5f
            mov (%r8), %r9
            mov 8(%r8), %r10
            mov (%r9), %rax
        2:  lea (%rax,%rsi), %rcx
            cmp (%r10), %rcx
            ja 3f
            lock cmpxchg %rcx, (%r9)
            jne 2b
            mov 16(%r8), %rax
        6:  lea (%rax,%rsi), %rcx
            cmp (%r10), %rcx
            ja 7f
            lock cmpxchg %rcx, 16(%r8)
            jne 6b
            mov 24(%r8), %r8
            jmp 1b
        7:  lock sub %rsi, (%r9)
        3:  lock incq 8(%r9)
        4:  cmp %rdi, %r8
            je 5f
            mov (%rdi), %r9
            lock sub %rsi, 16(%rdi)
            lock sub %rsi, (%r9)
            mov 24(%rdi), %rdi
            jmp 4b
        5:  mov %r8, %rax
            ret
        """,
        bytes.fromhex(
            "4989f84d85c074554d8b084d8b5008498b01488d0c30493b0a7726f0490fb10975f0498b4010488d0c30493b0a770ef0"
            "490fb1481075ef4d8b4018ebc6f0492931f049ff41084939f874124c8b0ff048297710f0492931488b7f18ebe94c89c0"
            "c3"
        ),
    ),
    "aarch64": Thunk(
        """
            mov x8, x0
        1:  cbz x8, 6f
            ldp x13, x14, [x8]
            ldr x11, [x14]
        2:  ldaxr x9, [x13]
            add x10, x9, x1
            cmp x10, x11
            b.hi 3f
            stlxr w12, x10, [x13]
            cbnz w12, 2b
            add x9, x8, #16
        8:  ldxr x10, [x9]
            add x10, x10, x1
            cmp x10, x11
            b.hi 10f
            stxr w12, x10, [x9]
            cbnz w12, 8b
            ldr x8, [x8, #24]
            b 1b
        10: ldxr x10, [x13]
            sub x10, x10, x1
            stlxr w12, x10, [x13]
            cbnz w12, 10b
        3:  clrex
            add x9, x13, #8
        4:  ldxr x10, [x9]
            add x10, x10, #1
            stxr w12, x10, [x9]
            cbnz w12, 4b
        5:  cmp x0, x8
            b.eq 6f
            add x13, x0, #16
        9:  ldxr x10, [x13]
            sub x10, x10, x1
            stxr w12, x10, [x13]
            cbnz w12, 9b
            ldr x13, [x0]
        7:  ldxr x10, [x13]
            sub x10, x10, x1
            stlxr w12, x10, [x13]
            cbnz w12, 7b
            ldr x0, [x0, #24]
            b 5b
        6:  mov x0, x8
            ret
        """,
        bytes.fromhex(
            "e80300aa480500b40d3940a9cb0140f9a9fd5fc82a01018b5f010beb08020054aafd0cc86cffff35094100912a7d5fc8"
            "4a01018b5f010beba80000542a7d0cc86cffff35080d40f9efffff17aa7d5fc84a0101cbaafd0cc8acffff355f3f03d5"
            "a92100912a7d5fc84a0500912a7d0cc8acffff351f0008eba00100540d400091aa7d5fc84a0101cbaa7d0cc8acffff35"
            "0d0040f9aa7d5fc84a0101cbaafd0cc8acffff35000c40f9f3ffff17e00308aac0035fd6"
        ),
    ),
}

# release(pool, bytes): give back what was charged.
RELEASE: Thunks = {
    "x86_64": Thunk(
        """
        1:  test %rdi, %rdi
            je 2f
            mov (%rdi), %r9
            lock sub %rsi, 16(%rdi)
            lock sub %rsi, (%r9)
            mov 24(%rdi), %rdi
            jmp 1b
        2:  ret
        """,
        bytes.fromhex("4885ff74124c8b0ff048297710f0492931488b7f18ebe9c3"),
    ),
    "aarch64": Thunk(
        """
        1:  cbz x0, 4f
            add x11, x0, #16
        2:  ldxr x9, [x11]
            sub x9, x9, x1
            stxr w10, x9, [x11]
            cbnz w10, 2b
            ldr x11, [x0]
        3:  ldxr x9, [x11]
            sub x9, x9, x1
            stlxr w10, x9, [x11]
            cbnz w10, 3b
            ldr x0, [x0, #24]
            b 1b
        4:  ret
        """,
        bytes.fromhex(
            "a00100b40b400091697d5fc8290101cb697d0ac8aaffff350b0040f9697d5fc8290101cb69fd0ac8aaffff35000c40f9"
            "f4ffff17c0035fd6"
        ),
    ),
}


@functools.cache
def addresses() -> dict[str, int]:
    """Where charge and release are, for machine code that calls them."""
    return install({"charge": CHARGE, "release": RELEASE})


@functools.cache
def charge() -> "ctypes._CFunctionType":
    """(pool, bytes) -> the address of the pool that refuses, or 0."""
    # PYFUNCTYPE keeps the GIL: these take some nanoseconds.
    return ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t)(addresses()["charge"])


@functools.cache
def release() -> "ctypes._CFunctionType":
    """(pool, bytes)."""
    return ctypes.PYFUNCTYPE(None, ctypes.c_size_t, ctypes.c_size_t)(addresses()["release"])


def lay_out(
    script: Script, parent: int, limit: int | None = None, *, count: int = 0, bound: int = 0, used: int = 0
) -> int:
    """The address of a pool for a process without Python, in the memory of its script.

    Its count and its bound are in itself, unless it is said at which addresses; `used` is what it has at first.
    """
    pool = script.room(SIZE)
    script.set_words(
        pool,
        {
            COUNT: count or pool + OWN_COUNT,
            BOUND: bound or pool + OWN_LIMIT,
            HERE: used,
            PARENT: parent,
            OWN_COUNT + USED: used,
            OWN_LIMIT: NO_LIMIT if limit is None else limit,
        },
    )
    return pool
