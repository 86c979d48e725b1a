"""WebAssembly made for tests: from text, or byte by byte where no text could say it."""

import functools
import random

import wasmtime

PREAMBLE = b"\0asm\1\0\0\0"
COMPONENT_PREAMBLE = b"\0asm\x0d\0\1\0"
EMPTY = '(module (memory (export "memory") 1) (func (export "_start")))'


@functools.cache
def binary(text: str) -> bytes:
    """The binary form of text."""
    return bytes(wasmtime.wat2wasm(text))


def leb(number: int) -> bytes:
    """An unsigned number in LEB128."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def section(number: int, body: bytes) -> bytes:
    """A section of a module or component."""
    return bytes([number]) + leb(len(body)) + body


def custom(name: str, size: int) -> bytes:
    """A custom section that only takes room."""
    return section(0, leb(len(name)) + name.encode() + bytes(size))


def module(*sections: bytes) -> bytes:
    """A core module of these sections."""
    return PREAMBLE + b"".join(sections)


def wasi(functions: str) -> str:
    """The lines of text that import these functions of WASI preview 1, under their own names."""
    types = {
        "args_get": "(param i32 i32) (result i32)",
        "clock_time_get": "(param i32 i64 i32) (result i32)",
        "fd_allocate": "(param i32 i64 i64) (result i32)",
        "fd_close": "(param i32) (result i32)",
        "fd_fdstat_get": "(param i32 i32) (result i32)",
        "fd_fdstat_set_flags": "(param i32 i32) (result i32)",
        "fd_filestat_set_size": "(param i32 i64) (result i32)",
        "fd_filestat_set_times": "(param i32 i64 i64 i32) (result i32)",
        "fd_prestat_get": "(param i32 i32) (result i32)",
        "fd_read": "(param i32 i32 i32 i32) (result i32)",
        "fd_renumber": "(param i32 i32) (result i32)",
        "fd_write": "(param i32 i32 i32 i32) (result i32)",
        "path_filestat_set_times": "(param i32 i32 i32 i32 i64 i64 i32) (result i32)",
        "path_open": "(param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)",
        "path_unlink_file": "(param i32 i32 i32) (result i32)",
        "poll_oneoff": "(param i32 i32 i32 i32) (result i32)",
        "proc_exit": "(param i32)",
        "random_get": "(param i32 i32) (result i32)",
    }
    return "\n".join(
        f'(import "wasi_snapshot_preview1" "{name}" (func ${name} {types[name]}))' for name in functions.split()
    )


@functools.cache
def heavy_module() -> bytes:
    """A valid command of half a megabyte whose compilation takes many seconds and hundreds of megabytes.

    One function with thousands of variables, each alive through all of it: their places in registers and on
    the stack are what takes long.
    """
    chance = random.Random(1)
    variables, steps = 5000, 40_000
    body = bytearray()
    for step in range(steps):
        one, two, three = (leb(chance.randrange(variables)) for _ in range(3))
        body += b"\x20" + one + b"\x20" + two + b"\x6a\x21" + three  # three = one + two
        if step % 8 == 0:
            body += b"\x20" + one + b"\x04\x40\x20" + two + b"\x21" + three + b"\x0b"  # if one: three = two
    code = leb(1) + leb(variables) + b"\x7f" + bytes(body) + b"\x0b"
    return module(
        section(1, b"\x01\x60\x00\x00"),
        section(3, b"\x01\x00"),
        section(7, b"\x01\x06_start\x00\x00"),
        section(10, b"\x01" + leb(len(code)) + code),
    )
