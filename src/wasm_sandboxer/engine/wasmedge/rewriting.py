"""A module's bytes made fit for WasmEdge: without what it would trust, with less memory, or harmless to try.

What is written here has sections of the specification's own numbers and none of custom content, with lengths in
their shortest form: however WasmEdge reads it, there is no place for machine code in it.

Source: WebAssembly core specification, binary format: modules.
"""

from collections.abc import Iterator

from wasm_sandboxer.engine.wasm import Memory, Reader, leb, sections
from wasm_sandboxer.errors import ModuleError

_PREAMBLE = b"\0asm\1\0\0\0"
_CUSTOM, _MEMORIES, _EXPORTS, _START = 0, 5, 7, 8
_LAST = 13  # tags
_PAGES = 1 << 16


def cleaned(module: bytes) -> bytes:
    """The module without custom sections; raises ModuleError for what is no module's structure."""
    try:
        parts = [(number, body) for number, body in sections(module) if number != _CUSTOM]
    except IndexError:
        raise ModuleError("the file is cut short or damaged: a section runs past its end") from None
    if strange := [number for number, _ in parts if number > _LAST]:
        raise ModuleError(f"it has a section of an unknown kind ({strange[0]})")
    return _joined(parts)


def harmless(module: bytes) -> bytes:
    """A cleaned module of the same types, imports and code, of which nothing runs by itself or has a name to run."""
    parts = [(number, body) for number, body in sections(module) if number != _START]
    return _joined([(number, _renamed(body) if number == _EXPORTS else body) for number, body in parts])


def capped(module: bytes, pages: int) -> bytes:
    """The module with memories of at most so many pages each; what WasmEdge has compiled stays in it.

    Raises ModuleError if one starts with more.
    """
    parts = []
    for number, body in sections(module):
        if number == _MEMORIES:
            reader = Reader(body)
            types = [reader.memory() for _ in range(reader.number())]
            parts.append((number, leb(len(types)) + b"".join(_capped(each, pages) for each in types)))
        else:
            parts.append((number, body))
    return _joined(parts)


def _capped(memory: Memory, pages: int) -> bytes:
    if memory.minimum > pages:
        raise ModuleError(f"it needs {memory.minimum} pages of memory to start, and its limit is {pages}")
    flags = 1 | (2 if memory.shared else 0)  # of 64 bits there are none
    return bytes([flags]) + leb(memory.minimum) + leb(min(pages, _maximum(memory)))


def _maximum(memory: Memory) -> int:
    return _PAGES if memory.maximum is None else memory.maximum


def _renamed(exports: bytes) -> bytes:
    """The exports under names that no host looks for; what they are stays exported, as code may count on it."""
    reader = Reader(exports)
    count = reader.number()
    out = bytearray(leb(count))
    for _ in range(count):
        name = b"tried " + reader.take(reader.number())
        kind, index = reader.byte(), reader.number()
        out += leb(len(name)) + name + bytes([kind]) + leb(index)
    return bytes(out)


def _joined(parts: list[tuple[int, bytes]]) -> bytes:
    return b"".join(_pieces(parts))


def _pieces(parts: list[tuple[int, bytes]]) -> Iterator[bytes]:
    yield _PREAMBLE
    for number, body in parts:
        yield bytes([number]) + leb(len(body))
        yield body
