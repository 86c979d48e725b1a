"""Three callbacks in machine code, so that a guest's thread never takes the GIL.

A guest's thread that held the GIL when its cgroup's quota ran out would stop the whole daemon until the next
period. A ctypes callback takes the GIL; these few instructions do not. They touch only their arguments and the
guest's cell.

on_epoch(context, cell, *delta, *kind) -> error or NULL
    Called by the engine in a store whose epoch deadline has passed (wasmtime_store_epoch_deadline_callback).
    If the cell's `pause` is set it calls that (sem_wait) with the cell's semaphore; then it returns the cell's
    error, once, or NULL with the deadline one tick ahead.

transfer(cell, caller, values, count) -> NULL
    A host function (i32 write, i32 which, i32 pointer, i32 length) -> i64 for wasmtime_func_new_unchecked, whose
    values are 16 bytes each: read(2) or write(2) of the guest's memory on the cell's descriptor `which`. The
    result is the system call's own, a negative errno for an error. Only the shim can call it, and it has
    checked the range.

wait(cell, caller, values, count) -> NULL
    A host function (i32 which, i64 seconds, i64 nanoseconds) -> i64: ppoll(2) on the cell's descriptor `which`, or
    on none if that is -1, for so long, or for ever if the seconds are negative. The result is the returned
    events, 0 when the time has come, or a negative errno: -EINTR whenever a signal arrives.
"""

import functools

from wasm_sandboxer.linux.machine_code import Thunk, Thunks, install

# Offsets in a guest's cell.
CELL_ERROR = 0  # u64: the error that stops the guest, or 0
CELL_PAUSE = 8  # u64: the address of sem_wait while the guest shall pause, or 0
CELL_SEMAPHORE = 16  # sem_t, 32 bytes on both machines
CELL_MEMORY = 48  # u64: where the guest's linear memory begins
CELL_POLL = 56  # struct pollfd[3]: stdin, stdout, stderr
CELL_TIME = 80  # struct timespec
CELL_SIZE = 96

ON_EPOCH: Thunks = {
    "x86_64": Thunk(
        """
            push %rsi
            push %rdx
            sub $8, %rsp
            mov 8(%rsi), %rax
            test %rax, %rax
            je 1f
            lea 16(%rsi), %rdi
            call *%rax
        1:  add $8, %rsp
            pop %rdx
            pop %rsi
            mov (%rsi), %rax
            movq $1, (%rdx)
            movq $0, (%rsi)
            ret
        """,
        bytes.fromhex("56524883ec08488b46084885c07406488d7e10ffd04883c4085a5e488b0648c7020100000048c70600000000c3"),
    ),
    "aarch64": Thunk(
        """
            stp x29, x30, [sp, #-32]!
            stp x1, x2, [sp, #16]
            ldr x8, [x1, #8]
            cbz x8, 1f
            add x0, x1, #16
            blr x8
        1:  ldp x1, x2, [sp, #16]
            ldp x29, x30, [sp], #32
            ldr x0, [x1]
            str xzr, [x1]
            mov x9, #1
            str x9, [x2]
            ret
        """,
        bytes.fromhex(
            "fd7bbea9e10b01a9280440f9680000b42040009100013fd6e10b41a9fd7bc2a8200040f93f0000f9290080d2490000f9c0035fd6"
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
    return install({"on_epoch": ON_EPOCH, "transfer": TRANSFER, "wait": WAIT})


def address(name: str) -> int:
    """Where on_epoch, transfer or wait is; valid for the life of the process."""
    return _addresses()[name]
