"""Linear memories made by machine code: for a process in which Python does not run; see memories.py for the others.

The engine has one function that makes memories. This is it; it calls Python's, unless a desk has been set up here:
then it charges the desk's pool and maps the memory by itself.

Source: wasmtime/config.h, wasmtime_memory_creator_t and wasmtime_linear_memory_t; mmap(2), mprotect(2).
"""

import ctypes
import functools
import mmap

from wasm_sandboxer.engine import counting
from wasm_sandboxer.linux import signals
from wasm_sandboxer.linux.machine_code import Thunk, Thunks, install

# A desk's words, by their offsets in bytes: the pool, 0 where Python makes the memories; Python's function; what new
# memories' words are filled with, and where the next begin; the bytes that the pool refused; and the image that the
# first memory of its size is shown, as a part of a file. See memories.py.
POOL, PYTHON, MASK, CHARGE, RELEASE, NEW_ERROR, MESSAGE, GET, GROW, FINALIZER, NEXT, REFUSED = range(0, 96, 8)
IMAGE_SIZE, IMAGE_MEMORY, IMAGE_ADDRESS, IMAGE_FILE, IMAGE_OFFSET, SIZE = range(96, 144, 8)
MEMORY_SIZE = 80  # bytes of a memory's words

# new_memory(desk, type, minimum, maximum, reserved, guard, out) -> error or NULL
NEW: Thunks = {
    "x86_64": Thunk(
        """
            mov (%rdi), %rax
            test %rax, %rax
            jne 1f
            jmp *8(%rdi)
        1:  push %rbx
            push %rbp
            push %r12
            push %r13
            push %r14
            mov %rdi, %rbx
            mov %rdx, %r12
            mov 48(%rsp), %r14
            cmp %rdx, %r8
            cmovb %rdx, %r8
            add $4095, %r8
            and 16(%rbx), %r8
            mov %r8, %r13
            add $4095, %r9
            and 16(%rbx), %r9
            mov %r9, %rbp
            mov %rax, %rdi
            mov %r12, %rsi
            call *24(%rbx)
            test %rax, %rax
            jne 3f
            xor %edi, %edi
            lea (%r13,%rbp,2), %rsi
            xor %edx, %edx
            mov $0x4022, %r10d
            mov $-1, %r8
            xor %r9d, %r9d
            mov $9, %eax
            syscall
            cmp $-4095, %rax
            jae 2f
            add %rax, %rbp
            mov %rbp, %rdi
            lea 4095(%r12), %rsi
            and 16(%rbx), %rsi
            mov $3, %edx
            mov $10, %eax
            syscall
            test %rax, %rax
            jne 2f
            mov 96(%rbx), %rsi
            test %rsi, %rsi
            je 5f
            cmp 104(%rbx), %r12
            jne 5f
            mov 112(%rbx), %rdi
            add %rbp, %rdi
            mov $3, %edx
            mov $0x12, %r10d
            mov 120(%rbx), %r8
            mov 128(%rbx), %r9
            mov $9, %eax
            syscall
            cmp $-4095, %rax
            jae 2f
            movq $0, 96(%rbx)
        5:  mov 80(%rbx), %rdx
            mov %rbp, (%rdx)
            mov %r12, 8(%rdx)
            mov %r13, 16(%rdx)
            mov (%rbx), %rax
            mov %rax, 24(%rdx)
            mov 16(%rbx), %rax
            mov %rax, 32(%rdx)
            mov 24(%rbx), %rax
            mov %rax, 40(%rdx)
            mov 32(%rbx), %rax
            mov %rax, 48(%rdx)
            mov 40(%rbx), %rax
            mov %rax, 56(%rdx)
            mov 48(%rbx), %rax
            mov %rax, 64(%rdx)
            mov %rdx, (%r14)
            add $80, %rdx
            mov %rdx, 80(%rbx)
            mov 56(%rbx), %rax
            mov %rax, 8(%r14)
            mov 64(%rbx), %rax
            mov %rax, 16(%r14)
            mov 72(%rbx), %rax
            mov %rax, 24(%r14)
            xor %eax, %eax
            jmp 4f
        2:  mov (%rbx), %rdi
            mov %r12, %rsi
            call *32(%rbx)
            jmp 6f
        3:  mov %r12, 88(%rbx)
        6:  mov 48(%rbx), %rdi
            call *40(%rbx)
        4:  pop %r14
            pop %r13
            pop %r12
            pop %rbp
            pop %rbx
            ret
        """,
        bytes.fromhex(
            "488b074885c07503ff670853554154415541564889fb4989d44c8b7424304939d04c0f42c24981c0ff0f00004c234310"
            "4d89c54981c1ff0f00004c234b104c89cd4889c74c89e6ff53184885c00f850601000031ff498d746d0031d241ba2240"
            "000049c7c0ffffffff4531c9b8090000000f05483d01f0ffff0f83cf0000004801c54889ef498db424ff0f0000482373"
            "10ba03000000b80a0000000f054885c00f85a8000000488b73604885f6743a4c3b63687534488b7b704801efba030000"
            "0041ba120000004c8b43784c8b8b80000000b8090000000f05483d01f0ffff736d48c7436000000000488b535048892a"
            "4c8962084c896a10488b0348894218488b431048894220488b431848894228488b432048894230488b43284889423848"
            "8b4330488942404989164883c25048895350488b433849894608488b434049894610488b43484989461831c0eb16488b"
            "3b4c89e6ff5320eb044c896358488b7b30ff5328415e415d415c5d5bc3"
        ),
    ),
    "aarch64": Thunk(
        """
            ldp x8, x9, [x0]
            cbnz x8, 1f
            br x9
        1:  stp x29, x30, [sp, #-64]!
            stp x19, x20, [sp, #16]
            stp x21, x22, [sp, #32]
            str x23, [sp, #48]
            mov x19, x0
            mov x20, x2
            mov x23, x6
            ldr x9, [x19, #16]
            neg x10, x9
            sub x10, x10, #1
            cmp x4, x2
            csel x21, x2, x4, lo
            add x21, x21, x10
            and x21, x21, x9
            add x22, x5, x10
            and x22, x22, x9
            mov x0, x8
            mov x1, x20
            ldr x9, [x19, #24]
            blr x9
            cbnz x0, 3f
            add x1, x21, x22, lsl #1
            mov x2, #0
            mov x3, #0x4022
            mov x4, #-1
            mov x5, #0
            mov x8, #222
            svc #0
            cmn x0, #4095
            b.hs 2f
            add x22, x22, x0
            ldr x9, [x19, #16]
            neg x10, x9
            sub x10, x10, #1
            add x1, x20, x10
            and x1, x1, x9
            mov x0, x22
            mov x2, #3
            mov x8, #226
            svc #0
            cbnz x0, 2f
            ldp x1, x10, [x19, #96]
            cbz x1, 5f
            cmp x10, x20
            b.ne 5f
            ldr x0, [x19, #112]
            add x0, x0, x22
            mov x2, #3
            mov x3, #0x12
            ldp x4, x5, [x19, #120]
            mov x8, #222
            svc #0
            cmn x0, #4095
            b.hs 2f
            str xzr, [x19, #96]
        5:  ldr x0, [x19, #80]
            ldr x8, [x19]
            ldp x9, x10, [x19, #16]
            ldp x11, x12, [x19, #32]
            ldr x13, [x19, #48]
            stp x22, x20, [x0]
            stp x21, x8, [x0, #16]
            stp x9, x10, [x0, #32]
            stp x11, x12, [x0, #48]
            str x13, [x0, #64]
            ldp x8, x9, [x19, #56]
            ldr x10, [x19, #72]
            stp x0, x8, [x23]
            stp x9, x10, [x23, #16]
            add x0, x0, #80
            str x0, [x19, #80]
            mov x0, #0
            b 4f
        2:  ldr x0, [x19]
            mov x1, x20
            ldr x9, [x19, #32]
            blr x9
            b 6f
        3:  str x20, [x19, #88]
        6:  ldr x0, [x19, #48]
            ldr x9, [x19, #40]
            blr x9
        4:  ldr x23, [sp, #48]
            ldp x21, x22, [sp, #32]
            ldp x19, x20, [sp, #16]
            ldp x29, x30, [sp], #64
            ret
        """,
        bytes.fromhex(
            "082440a9480000b520011fd6fd7bbca9f35301a9f55b02a9f71b00f9f30300aaf40302aaf70306aa690a40f9ea0309cb"
            "4a0500d19f0002eb5530849ab5020a8bb502098ab6000a8bd602098ae00308aae10314aa690e40f920013fd6400700b5"
            "a106168b020080d2430488d204008092050080d2c81b80d2010000d41ffc3fb182050054d602008b690a40f9ea0309cb"
            "4a0500d181020a8b2100098ae00316aa620080d2481c80d2010000d4200400b5612a46a9a10100b45f0114eb61010054"
            "603a40f90000168b620080d2430280d2649647a9c81b80d2010000d41ffc3fb1820200547f3200f9602a40f9680240f9"
            "692a41a96b3242a96d1a40f9165000a9152001a9092802a90b3003a90d2000f968a643a96a2640f9e02200a9e92a01a9"
            "00400191602a00f9000080d20a000014600240f9e10314aa691240f920013fd602000014742e00f9601a40f9691640f9"
            "20013fd6f71b40f9f55b42a9f35341a9fd7bc4a8c0035fd6"
        ),
    ),
}


_Words = ctypes.c_uint64 * (SIZE // 8)


class Desk:
    """Where the engine's function finds what it needs; as long as the engine."""

    def __init__(self, python: int, get: int, grow: int, new_error: int, message: int) -> None:
        """All are addresses; `python` makes memories as long as nothing is set up here, `message` an error's text."""
        count = counting.addresses()
        own = _addresses()
        mask = (1 << 64) - mmap.PAGESIZE
        self._words = _Words(
            0,
            python,
            mask,
            count["charge"],
            count["release"],
            new_error,
            message,
            get,
            grow,
            own["nothing"],
            *[0] * 7,
        )
        self.address = ctypes.addressof(self._words)
        self.function = own["new"]


@functools.cache
def _addresses() -> dict[str, int]:
    return install({"new": NEW, "nothing": signals.NOTHING})
