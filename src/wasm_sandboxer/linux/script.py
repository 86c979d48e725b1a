"""Scripts: calls of native functions in a row, made by some machine code, for a process that shall run no Python.

A child of a Python process copies every page that holds an object it looks at, since that counts references: to run
a guest took one ten times as long as its parent would have. So the parent writes down what is to be called, in memory
that the child has too, and the child does it. What the calls point to lies there as well.

A call whose result is not as it should be goes on elsewhere, and leaves what was tried for whoever tells of it.
"""

import ctypes
import functools
import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from wasm_sandboxer.errors import WasmSandboxerError
from wasm_sandboxer.linux import syscall
from wasm_sandboxer.linux.machine_code import Thunk, Thunks, install

_WORD = 8
ARGUMENTS = 7
# A call's words, by their offsets in bytes: seven for arguments. A set bit of FLAGS says that the argument of that
# number (never the last) is not in its word, but where that points to; bit 7, that the check is turned round.
FUNCTION, FLAGS, FIRST, SIZE = 0, 8, 16, 128
RESULT, MASK, EXPECTED, OTHERWISE, WHAT, WHAT_LENGTH = range(72, 120, 8)
_TURNED = 1 << ARGUMENTS
_CALLS = 1024  # the most in a script
ROOM = 128 << 10  # bytes for what they point to; less than a socket takes at once
_CALL = struct.Struct(f"={(WHAT_LENGTH + _WORD) // _WORD}Q")
_ALL = (1 << 64) - 1

# run(calls, failed): make the calls up to one of no function; `failed` are two words, WHAT and its length.
RUN: Thunks = {
    "x86_64": Thunk(
        """
            push %rbx
            push %rbp
            push %r12
            mov %rdi, %rbx
            mov %rsi, %r12
        1:  mov (%rbx), %r11
            test %r11, %r11
            je 5f
            mov 8(%rbx), %rbp
            mov 16(%rbx), %rdi
            test $1, %ebp
            je 2f
            mov (%rdi), %rdi
        2:  mov 24(%rbx), %rsi
            test $2, %ebp
            je 2f
            mov (%rsi), %rsi
        2:  mov 32(%rbx), %rdx
            test $4, %ebp
            je 2f
            mov (%rdx), %rdx
        2:  mov 40(%rbx), %rcx
            test $8, %ebp
            je 2f
            mov (%rcx), %rcx
        2:  mov 48(%rbx), %r8
            test $16, %ebp
            je 2f
            mov (%r8), %r8
        2:  mov 56(%rbx), %r9
            test $32, %ebp
            je 2f
            mov (%r9), %r9
        2:  pushq 64(%rbx)
            pushq 64(%rbx)
            xor %eax, %eax
            call *%r11
            add $16, %rsp
            mov %rax, 72(%rbx)
            and 80(%rbx), %rax
            cmp 88(%rbx), %rax
            setne %al
            shr $7, %ebp
            xor %ebp, %eax
            test $1, %al
            jne 4f
            add $128, %rbx
            jmp 1b
        4:  mov 104(%rbx), %rax
            mov %rax, (%r12)
            mov 112(%rbx), %rax
            mov %rax, 8(%r12)
            mov 96(%rbx), %rbx
            jmp 1b
        5:  pop %r12
            pop %rbp
            pop %rbx
            ret
        """,
        bytes.fromhex(
            "535541544889fb4989f44c8b1b4d85db0f84ab000000488b6b08488b7b10f7c5010000007403488b3f488b7318f7c502"
            "0000007403488b36488b5320f7c5040000007403488b12488b4b28f7c5080000007403488b094c8b4330f7c510000000"
            "74034d8b004c8b4b38f7c52000000074034d8b09ff7340ff734031c041ffd34883c4104889434848234350483b43580f"
            "95c0c1ed0731e8a801750c4881c380000000e963ffffff488b436849890424488b43704989442408488b5b60e949ffff"
            "ff415c5d5bc3"
        ),
    ),
    "aarch64": Thunk(
        """
            stp x29, x30, [sp, #-48]!
            stp x19, x20, [sp, #16]
            str x21, [sp, #32]
            mov x19, x0
            mov x20, x1
        1:  ldr x9, [x19]
            cbz x9, 5f
            ldr x21, [x19, #8]
            ldp x0, x1, [x19, #16]
            ldp x2, x3, [x19, #32]
            ldp x4, x5, [x19, #48]
            tbz x21, #0, 2f
            ldr x0, [x0]
        2:  tbz x21, #1, 2f
            ldr x1, [x1]
        2:  tbz x21, #2, 2f
            ldr x2, [x2]
        2:  tbz x21, #3, 2f
            ldr x3, [x3]
        2:  tbz x21, #4, 2f
            ldr x4, [x4]
        2:  tbz x21, #5, 2f
            ldr x5, [x5]
        2:  ldr x6, [x19, #64]
            blr x9
            str x0, [x19, #72]
            ldp x10, x11, [x19, #80]
            and x10, x0, x10
            cmp x10, x11
            cset x10, ne
            eor x10, x10, x21, lsr #7
            tbnz x10, #0, 4f
            add x19, x19, #128
            b 1b
        4:  ldp x10, x11, [x19, #104]
            stp x10, x11, [x20]
            ldr x19, [x19, #96]
            b 1b
        5:  ldr x21, [sp, #32]
            ldp x19, x20, [sp, #16]
            ldp x29, x30, [sp], #48
            ret
        """,
        bytes.fromhex(
            "fd7bbda9f35301a9f51300f9f30300aaf40301aa690240f9090400b4750640f9600641a9620e42a9641643a955000036"
            "000040f955000836210040f955001036420040f955001836630040f955002036840040f955002836a50040f9662240f9"
            "20013fd6602600f96a2e45a90a000a8a5f010bebea079f9a4a1d55ca6a00003773020291e4ffff176aae46a98a2e00a9"
            "733240f9e0ffff17f51340f9f35341a9fd7bc3a8c0035fd6"
        ),
    ),
}


@dataclass(frozen=True)
class Check:
    """What a call's result, as far as the mask shows it, must be; with `turned` what it must not be."""

    mask: int
    expected: int
    turned: bool = False


_ANYTHING, _NOTHING = Check(0, 0), Check(0, 1)
NOT_NEGATIVE = Check(1 << 31, 0)  # of an int
NEGATIVE = Check(1 << 31, 1 << 31)
NULL = Check(_ALL, 0)
NOT_NULL = Check(_ALL, 0, turned=True)
NOT_ZERO = Check(0xFFFFFFFF, 0, turned=True)  # of an int
TRUE = Check(0xFF, 1)  # of a bool


def equal(value: int) -> Check:
    """Exactly this, of an int."""
    return Check(0xFFFFFFFF, value)


class Result(int):
    """What a call of the script will have returned, for a later one: the address of its word."""


def exactly(value: int) -> Check:
    """A whole word of this value."""
    return Check(_ALL, value)


@dataclass
class Label:
    """A place in a script, perhaps one to come."""

    address: int = 0
    awaiting: list[int] = field(default_factory=list)  # words that shall hold the address


class NoRoom(WasmSandboxerError):
    """The script would be too long."""

    def __init__(self) -> None:
        super().__init__("what its process is to be given is too much")


class Script:
    """Made and run by one thread; its memory is used anew by the next that begins."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _CALLS * SIZE + 2 * ROOM, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.begin()

    def begin(self) -> None:
        """Make a new one in place of what was there."""
        self._calls = 0
        self._used = _CALLS * SIZE
        self._asides: list[tuple[Label, Callable[[], None]]] = []
        self._labels: list[Label] = []  # that somebody refers to
        self.failed = self.room(2 * _WORD)
        """Two words: where what was tried last and failed is named, and how long its name is; as in struct iovec."""
        self.errno = self.room(_WORD)
        self.failing = Label()
        """Where a check leads that fails, unless something else is said; for the script's maker to place."""

    def room(self, size: int) -> int:
        """The address of so many bytes, which are 0, on a border of words."""
        offset = -(-self._used // _WORD) * _WORD
        if offset + size > _CALLS * SIZE + ROOM:
            raise NoRoom
        self._memory[offset : offset + size] = bytes(size)
        self._used = offset + size
        return self._start + offset

    def data(self, content: bytes) -> int:
        """The address of these bytes, and a NUL behind them."""
        offset = -(-self._used // _WORD) * _WORD
        end = offset + len(content) + 1
        if end > _CALLS * SIZE + ROOM:
            raise NoRoom
        self._memory[offset:end] = content + b"\0"
        self._used = end
        return self._start + offset

    def text(self, content: str) -> int:
        """The address of this text with a NUL at its end; raises ValueError for what could not be one."""
        encoded = content.encode()
        if b"\0" in encoded:
            raise ValueError(content)
        return self.data(encoded)

    def words(self, *values: int) -> int:
        """The address of these words."""
        return self.data(b"".join((value & _ALL).to_bytes(_WORD, "little") for value in values))

    def spare(self) -> int:
        """Where there is room that the script does not take: ROOM bytes, for what comes later."""
        return self._start + _CALLS * SIZE + ROOM

    def set_words(self, address: int, values: dict[int, int]) -> None:
        """Set words of what was made room for, by their offsets in bytes."""
        for offset, value in values.items():
            self._write(address + offset, value & _ALL)

    def call(
        self,
        function: int,
        *arguments: int | Result,
        check: Check | None = None,
        what: str = "",
        otherwise: Label | None = None,
    ) -> Result:
        """Call a native function; where the check fails, go on at `otherwise`, or at `failing`."""
        if self._calls >= _CALLS - 1:
            raise NoRoom
        must = check or _ANYTHING
        flags = _TURNED if must.turned else 0
        given = [0] * ARGUMENTS
        for number, argument in enumerate(arguments):
            if type(argument) is Result:
                flags |= 1 << number
            given[number] = argument & _ALL
        assert not flags & 1 << (ARGUMENTS - 1)  # the last is never indirect
        name = self.data(what.encode()) if what else 0
        offset = self._calls * SIZE
        self._calls += 1
        _CALL.pack_into(
            self._memory, offset, function, flags, *given, 0, must.mask, must.expected, 0, name, len(what.encode())
        )
        address = self._start + offset
        if check is not None:
            self._refer(otherwise or self.failing, address + OTHERWISE)
        return Result(address + RESULT)

    def close_others(self, *kept: int) -> None:
        """As syscall.close_others."""
        borders = [2, *sorted(kept), syscall.LAST_FD + 1]
        for first, last in ((low + 1, high - 1) for low, high in pairwise(borders)):
            if first <= last:
                arguments = syscall.CLOSE_RANGE, first, last, 0
                self.call(syscall.address_of("syscall"), *arguments, check=equal(0), what="close_range")

    def jump(self, label: Label, what: str = "") -> None:
        """Go on elsewhere; with `what` because that has failed."""
        self.call(syscall.address_of("labs"), check=_NOTHING, what=what, otherwise=label)  # any that asks no kernel

    def end(self) -> None:
        """Stop there: whoever runs the script goes on."""
        self.call(0)

    def place(self, label: Label) -> None:
        """What follows is what the label names."""
        label.address = self._start + self._calls * SIZE
        for address in label.awaiting:
            self._write(address, label.address)
        label.awaiting.clear()

    def aside(self, label: Label, write: Callable[[], None]) -> None:
        """Have the label name calls that `write` makes, behind all others: it must not let them run on."""
        self._asides.append((label, write))

    def keep_errno(self) -> None:
        """Copy what errno is now into this script's own."""
        place = self.call(syscall.address_of("__errno_location"))
        self.call(syscall.address_of("memcpy"), self.errno, place, 4)

    def run(self, failed: int | None = None) -> None:
        """Make the calls, in this very process; raises OSError for the one that fails.

        Where they lead on to the calls of another script, `failed` is that one's: what fails is noted there.
        """
        self.finish()
        self.place(self.failing)
        self.keep_errno()
        self.end()
        _run()(self._start, failed or self.failed)
        if name := self._read(self.failed):
            what = ctypes.string_at(name, self._read(self.failed + _WORD)).decode()
            number = self._read(self.errno)
            raise OSError(number, f"{what}: {os.strerror(number)}")

    def finish(self) -> None:
        """Write down what stands aside; no call follows."""
        for label, write in self._asides:
            self.place(label)
            write()
        self.end()

    @property
    def first(self) -> int:
        """Where the first call is."""
        return self._start

    def content(self) -> tuple[bytes, bytes]:
        """The calls, and what they point to, for another process that has the same memory at the same places."""
        assert not any(label.awaiting for label in self._labels)
        return self._memory[: self._calls * SIZE], self._memory[_CALLS * SIZE : self._used]

    def wipe(self) -> None:
        """Leave nothing of the script behind."""
        for begin, end in ((0, self._calls * SIZE), (_CALLS * SIZE, self._used)):
            self._memory[begin:end] = bytes(end - begin)

    def places(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where the two belong, each with the most bytes that they can have."""
        return (self._start, _CALLS * SIZE), (self._start + _CALLS * SIZE, ROOM)

    def _refer(self, label: Label, address: int) -> None:
        self._labels.append(label)
        if label.address:
            self._write(address, label.address)
        else:
            label.awaiting.append(address)

    def _write(self, address: int, value: int) -> None:
        offset = address - self._start
        self._memory[offset : offset + _WORD] = value.to_bytes(_WORD, "little")

    def _read(self, address: int) -> int:
        offset = address - self._start
        return int.from_bytes(self._memory[offset : offset + _WORD], "little")


@functools.cache
def _run() -> Callable[[int, int], int | None]:
    # PYFUNCTYPE keeps the GIL: in a child there is no other thread to have it.
    return ctypes.PYFUNCTYPE(None, ctypes.c_size_t, ctypes.c_size_t)(install({"run": RUN})["run"])
