"""Functions in machine code, so that a guest's thread never takes the GIL.

A guest's thread that held the GIL when its cgroup's quota ran out would stop the whole daemon until the next
period. A ctypes callback takes the GIL; these few instructions do not. They touch only their arguments and the
guest's cell.

on_epoch(context, cell, *delta, *kind) -> error or NULL
    Called by the engine in a store whose epoch deadline has passed (wasmtime_store_epoch_deadline_callback), and so
    before the guest's first instruction. If the cell has doors, the thread takes the guest's priority, and then goes
    through them into its group, by writing `0` to each and closing it; what a write failed with is left in the cell.
    If the cell's `pause` is set it calls that (sem_wait) with the cell's semaphore. Then it returns the cell's
    error, once, or its refusal if the thread could not enter, or NULL with the deadline one tick ahead.

call(block) -> what the function returned
    Calls the function in the block with its seven words; then, before anybody could take the GIL, the thread leaves
    its group through the block's doors, which stay open, and takes its own priority back.

transfer(cell, caller, values, count) -> NULL
    A host function (i32 write, i32 which, i32 pointer, i32 length) -> i64 for wasmtime_func_new_unchecked, whose
    values are 16 bytes each: read(2) or write(2) of the guest's memory on the cell's descriptor `which`. The
    result is the system call's own, a negative errno for an error. Only the shim can call it, and it has
    checked the range.

wait(cell, caller, values, count) -> NULL
    A host function (i32 which, i64 seconds, i64 nanoseconds) -> i64: ppoll(2) on the cell's descriptor `which`, or
    on none if that is -1, for so long, or for ever if the seconds are negative. The result is the returned
    events, 0 when the time has come, or a negative errno: -EINTR whenever a signal arrives.

count(cell, caller, values, count) -> NULL
    A host function (i32 more) -> i32: charge one file to the cell's pool, or give one back if `more` is negative. The
    result is 1 if the pool refuses, else 0.
"""

import ctypes
import functools
from collections.abc import Sequence

from wasm_sandboxer.linux.machine_code import Thunk, Thunks, install

# Offsets in a guest's cell.
CELL_ERROR = 0  # u64: the error that stops the guest, or 0
CELL_PAUSE = 8  # u64: the address of sem_wait while the guest shall pause, or 0
CELL_SEMAPHORE = 16  # sem_t, 32 bytes on both machines
CELL_MEMORY = 48  # u64: where the guest's linear memory begins
CELL_POLL = 56  # struct pollfd[3]: stdin, stdout, stderr
CELL_TIME = 80  # struct timespec
CELL_DOORS = 96  # i32[8]: descriptors, then -1; each is -1 once it is used
CELL_TEXT = 128  # the text "0"
CELL_NICE = 136  # i64: the guest's priority
CELL_STATUS = 144  # i64: a negative errno if a door could not be gone through
CELL_REFUSAL = 152  # u64: the error that ends the guest then
CELL_FILES = 160  # u64: the pool that the guest's open files are charged to
CELL_CHARGE = 168  # u64: what charges it, and
CELL_RELEASE = 176  # u64: what gives back
CELL_SIZE = 184

# Offsets in a block for call().
BLOCK_FUNCTION = 0
BLOCK_ARGUMENTS = 8  # u64[7]
BLOCK_DOORS = 64  # i32[8]
BLOCK_TEXT = 96
BLOCK_NICE = 104
BLOCK_SIZE = 112

TEXT = ord("0")
DOORS = 7  # at most
_Doors = ctypes.c_int32 * (DOORS + 1)  # kept: Python makes the type of an array anew each time
ARGUMENTS = 7

ON_EPOCH: Thunks = {
    "x86_64": Thunk(
        """
            push %rsi
            push %rdx
            sub $8, %rsp
            cmpq $0, (%rsi)
            jne 4f
            cmpl $0, 0x60(%rsi)
            js 3f
            mov %rsi, %r9
            mov 0x88(%r9), %edx
            xor %edi, %edi
            xor %esi, %esi
            mov $141, %eax
            syscall
            lea 0x60(%r9), %r8
        1:  movslq (%r8), %rdi
            movl $-1, (%r8)
            lea 0x80(%r9), %rsi
            mov $1, %edx
            mov $1, %eax
            syscall
            test %rax, %rax
            jns 2f
            mov %rax, 0x90(%r9)
        2:  mov $3, %eax
            syscall
            add $4, %r8
            cmpl $0, (%r8)
            jns 1b
            mov %r9, %rsi
        3:  mov 8(%rsi), %rax
            test %rax, %rax
            je 4f
            lea 16(%rsi), %rdi
            call *%rax
        4:  add $8, %rsp
            pop %rdx
            pop %rsi
            mov (%rsi), %rax
            movq $0, (%rsi)
            test %rax, %rax
            jne 5f
            cmpq $0, 0x90(%rsi)
            je 5f
            mov 0x98(%rsi), %rax
            movq $0, 0x98(%rsi)
        5:  movq $1, (%rdx)
            ret
        """,
        bytes.fromhex(
            "56524883ec0848833e00756b837e600078564989f1418b918800000031ff31f6b88d0000000f054d8d416049633841c7"
            "00ffffffff498db180000000ba01000000b8010000000f054885c0790749898190000000b8030000000f054983c00441"
            "83380079c64c89ce488b46084885c07406488d7e10ffd04883c4085a5e488b0648c706000000004885c0751c4883be90"
            "000000007412488b869800000048c786980000000000000048c70201000000c3"
        ),
    ),
    "aarch64": Thunk(
        """
            stp x29, x30, [sp, #-32]!
            stp x1, x2, [sp, #16]
            mov x9, x1
            ldr x10, [x9]
            cbnz x10, 4f
            add x11, x9, #0x60
            ldr w10, [x11]
            tbnz w10, #31, 3f
            mov x0, #0
            mov x1, #0
            ldrsw x2, [x9, #0x88]
            mov x8, #140
            svc #0
            mov w12, #-1
        1:  ldrsw x13, [x11]
            str w12, [x11], #4
            mov x0, x13
            add x1, x9, #0x80
            mov x2, #1
            mov x8, #64
            svc #0
            tbz x0, #63, 2f
            str x0, [x9, #0x90]
        2:  mov x0, x13
            mov x8, #57
            svc #0
            ldr w10, [x11]
            tbz w10, #31, 1b
        3:  ldr x8, [x9, #8]
            cbz x8, 4f
            add x0, x9, #16
            blr x8
        4:  ldp x1, x2, [sp, #16]
            ldp x29, x30, [sp], #32
            ldr x0, [x1]
            str xzr, [x1]
            cbnz x0, 5f
            ldr x9, [x1, #0x90]
            cbz x9, 5f
            ldr x0, [x1, #0x98]
            str xzr, [x1, #0x98]
        5:  mov x9, #1
            str x9, [x2]
            ret
        """,
        bytes.fromhex(
            "fd7bbea9e10b01a9e90301aa2a0140f98a0300b52b8101916a0140b9aa02f837000080d2010080d2228980b9881180d2"
            "010000d40c0080126d0180b96c4500b8e0030daa21010291220080d2080880d2010000d44000f8b6204900f9e0030daa"
            "280780d2010000d46a0140b96afeff36280540f9680000b42041009100013fd6e10b41a9fd7bc2a8200040f93f0000f9"
            "a00000b5294840f9690000b4204c40f93f4c00f9290080d2490000f9c0035fd6"
        ),
    ),
}
CALL: Thunks = {
    "x86_64": Thunk(
        """
            push %rbx
            sub $16, %rsp
            mov %rdi, %rbx
            mov 0x38(%rbx), %rax
            mov %rax, (%rsp)
            mov 0x08(%rbx), %rdi
            mov 0x10(%rbx), %rsi
            mov 0x18(%rbx), %rdx
            mov 0x20(%rbx), %rcx
            mov 0x28(%rbx), %r8
            mov 0x30(%rbx), %r9
            call *(%rbx)
            mov %rax, (%rbx)
            lea 0x40(%rbx), %r8
        1:  movslq (%r8), %rdi
            test %edi, %edi
            js 2f
            lea 0x60(%rbx), %rsi
            mov $1, %edx
            mov $1, %eax
            syscall
            add $4, %r8
            jmp 1b
        2:  xor %edi, %edi
            xor %esi, %esi
            mov 0x68(%rbx), %edx
            mov $141, %eax
            syscall
            mov (%rbx), %rax
            add $16, %rsp
            pop %rbx
            ret
        """,
        bytes.fromhex(
            "534883ec104889fb488b433848890424488b7b08488b7310488b5318488b4b204c8b43284c8b4b30ff134889034c8d43"
            "4049633885ff7816488d7360ba01000000b8010000000f054983c004ebe331ff31f68b5368b88d0000000f05488b0348"
            "83c4105bc3"
        ),
    ),
    "aarch64": Thunk(
        """
            stp x29, x30, [sp, #-32]!
            str x19, [sp, #16]
            mov x19, x0
            ldp x8, x0, [x19]
            ldp x1, x2, [x19, #0x10]
            ldp x3, x4, [x19, #0x20]
            ldp x5, x6, [x19, #0x30]
            blr x8
            str x0, [x19]
            add x9, x19, #0x40
        1:  ldrsw x0, [x9], #4
            tbnz x0, #63, 2f
            add x1, x19, #0x60
            mov x2, #1
            mov x8, #64
            svc #0
            b 1b
        2:  mov x0, #0
            mov x1, #0
            ldrsw x2, [x19, #0x68]
            mov x8, #140
            svc #0
            ldr x0, [x19]
            ldr x19, [sp, #16]
            ldp x29, x30, [sp], #32
            ret
        """,
        bytes.fromhex(
            "fd7bbea9f30b00f9f30300aa680240a9610a41a9631242a9651a43a900013fd6600200f969020191204580b8c000f8b7"
            "61820191220080d2080880d2010000d4faffff17000080d2010080d2626a80b9881180d2010000d4600240f9f30b40f9"
            "fd7bc2a8c0035fd6"
        ),
    ),
}
COUNT: Thunks = {
    "x86_64": Thunk(
        """
            push %rbx
            mov %rdx, %rbx
            mov %rdi, %r10
            mov 0xa0(%r10), %rdi
            mov $1, %esi
            cmpl $0, (%rbx)
            js 1f
            call *0xa8(%r10)
            test %rax, %rax
            setne %al
            movzbl %al, %eax
            jmp 2f
        1:  call *0xb0(%r10)
            xor %eax, %eax
        2:  mov %rax, (%rbx)
            xor %eax, %eax
            pop %rbx
            ret
        """,
        bytes.fromhex(
            "534889d34989fa498bbaa0000000be01000000833b00781241ff92a80000004885c00f95c00fb6c0eb0941ff92b00000"
            "0031c048890331c05bc3"
        ),
    ),
    "aarch64": Thunk(
        """
            stp x29, x30, [sp, #-32]!
            str x19, [sp, #16]
            mov x19, x2
            mov x9, x0
            ldr x0, [x9, #0xa0]
            mov x1, #1
            ldr w10, [x19]
            tbnz w10, #31, 1f
            ldr x9, [x9, #0xa8]
            blr x9
            cmp x0, #0
            cset x0, ne
            b 2f
        1:  ldr x9, [x9, #0xb0]
            blr x9
            mov x0, #0
        2:  str x0, [x19]
            mov x0, #0
            ldr x19, [sp, #16]
            ldp x29, x30, [sp], #32
            ret
        """,
        bytes.fromhex(
            "fd7bbea9f30b00f9f30302aae90300aa205140f9210080d26a0240b9ca00f837295540f920013fd61f0000f1e0079f9a"
            "04000014295940f920013fd6000080d2600200f9000080d2f30b40f9fd7bc2a8c0035fd6"
        ),
    ),
}
TRANSFER: Thunks = {
    "x86_64": Thunk(
        """
            mov %rdx, %r9
            mov (%rdx), %eax
            mov 32(%rdx), %esi
            add 0x30(%rdi), %rsi
            mov 16(%rdx), %ecx
            mov 0x38(%rdi,%rcx,8), %edi
            mov 48(%rdx), %edx
            syscall
            mov %rax, (%r9)
            xor %eax, %eax
            ret
        """,
        bytes.fromhex("4989d18b028b7220480377308b4a108b7ccf388b52300f0549890131c0c3"),
    ),
    "aarch64": Thunk(
        """
            mov x9, x2
            ldr w8, [x2]
            add w8, w8, #63
            ldr w1, [x2, #32]
            ldr x10, [x0, #0x30]
            add x1, x1, x10
            ldr w11, [x2, #16]
            add x0, x0, x11, lsl #3
            ldr w0, [x0, #0x38]
            ldr w2, [x2, #48]
            svc #0
            str x0, [x9]
            mov x0, #0
            ret
        """,
        bytes.fromhex(
            "e90302aa480040b908fd0011412040b90a1840f921000a8b4b1040b9000c0b8b003840b9423040b9010000d4200100f9"
            "000080d2c0035fd6"
        ),
    ),
}
WAIT: Thunks = {
    "x86_64": Thunk(
        """
            mov %rdx, %r9
            mov 16(%rdx), %rax
            mov 32(%rdx), %rcx
            mov %rax, 0x50(%rdi)
            mov %rcx, 0x58(%rdi)
            lea 0x50(%rdi), %rdx
            test %rax, %rax
            jns 1f
            xor %edx, %edx
        1:  movslq (%r9), %rax
            xor %esi, %esi
            lea 0x38(%rdi,%rax,8), %rdi
            test %eax, %eax
            js 2f
            mov $1, %esi
        2:  xor %r10d, %r10d
            mov $8, %r8d
            mov $271, %eax
            syscall
            test %rax, %rax
            jle 3f
            movzwl 6(%rdi), %eax
        3:  mov %rax, (%r9)
            xor %eax, %eax
            ret
        """,
        bytes.fromhex(
            "4989d1488b4210488b4a204889475048894f58488d57504885c0790231d249630131f6488d7cc73885c07805be010000"
            "004531d241b808000000b80f0100000f054885c07e040fb7470649890131c0c3"
        ),
    ),
    "aarch64": Thunk(
        """
            mov x9, x2
            ldr x10, [x2, #16]
            ldr x11, [x2, #32]
            stp x10, x11, [x0, #0x50]
            add x2, x0, #0x50
            tbz x10, #63, 1f
            mov x2, #0
        1:  ldrsw x12, [x9]
            mov x1, #0
            add x0, x0, x12, lsl #3
            add x0, x0, #0x38
            mov x13, x0
            tbnz x12, #63, 2f
            mov x1, #1
        2:  mov x3, #0
            mov x4, #8
            mov x8, #73
            svc #0
            cmp x0, #0
            b.le 3f
            ldrh w0, [x13, #6]
        3:  str x0, [x9]
            mov x0, #0
            ret
        """,
        bytes.fromhex(
            "e90302aa4a0840f94b1040f90a2c05a9024001914a00f8b6020080d22c0180b9010080d2000c0c8b00e00091ed0300aa"
            "4c00f8b7210080d2030080d2040180d2280980d2010000d41f0000f14d000054a00d4079200100f9000080d2c0035fd6"
        ),
    ),
}


@functools.cache
def _addresses() -> dict[str, int]:
    return install({"on_epoch": ON_EPOCH, "call": CALL, "count": COUNT, "transfer": TRANSFER, "wait": WAIT})


def address(name: str) -> int:
    """Where a function is; valid for the life of the process."""
    return _addresses()[name]


def put_doors(words: "ctypes.Array[ctypes.c_uint64]", offset: int, doors: Sequence[int]) -> None:
    """Write descriptors into a cell or block, and the end of their list."""
    assert len(doors) <= DOORS
    numbers = _Doors.from_buffer(words, offset)
    numbers[: len(doors) + 1] = [*doors, -1]
