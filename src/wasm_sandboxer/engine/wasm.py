"""What a file is, read from its bytes alone: kind, memories, names; no engine, no execution.

Only the outer structure is read (sections, not code), so this is safe and quick on hostile input. Validity is
the engine's to judge.

Source: WebAssembly core specification, binary format; component-model Binary.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wasm_sandboxer.engine.protocol import ImportItem, Kind
from wasm_sandboxer.errors import ModuleError

MAGIC = b"\0asm"
PAGE = 64 << 10
_MODULE_VERSION = b"\x01\x00\x00\x00"
_COMPONENT_LAYER = b"\x01\x00"  # the second half of the preamble's version word
_IMPORT_SECTION, _TABLE_SECTION, _MEMORY_SECTION = 2, 4, 5
_TABLE, _MEMORY = 1, 2  # kinds of imports
# Instructions of a constant expression: how many numbers follow each. A heap type reads as a number, too.
_CONSTANTS = {0x41: 1, 0x42: 1, 0x23: 1, 0xD2: 1, 0xD0: 1, 0x6A: 0, 0x6B: 0, 0x6C: 0, 0x7C: 0, 0x7D: 0, 0x7E: 0}
_GC_CONSTANTS = {0: 1, 1: 1, 6: 1, 7: 1, 8: 2, 26: 0, 27: 0, 28: 0}
_CORE_MODULE_SECTION, _COMPONENT_SECTION = 1, 4  # inside a component
_MAX_NESTING = 16

_LOOKS_LIKE = (
    (b"\x7fELF", "an ELF program"),
    (b"#!", "a script"),
    (b"MZ", "a Windows program"),
    (b"\xcf\xfa\xed\xfe", "a macOS program"),
    (b"\xca\xfe\xba\xbe", "a Java class or a macOS program"),
    (b"BC\xc0\xde", "LLVM bitcode"),
    (b"!<arch>\n", "a static library"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\0", "xz data"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"{", "JSON or similar text"),
)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A linear memory that a module declares or imports; sizes in pages of 64 KiB, maximum None if unbounded.

    A table's limits look the same, in elements.
    """

    minimum: int
    maximum: int | None
    shared: bool
    is_64: bool
    imported: bool = False


@dataclass(frozen=True, kw_only=True)
class Spaces:
    """The linear memories and tables of a module, or of all modules of a component, in their order."""

    memories: tuple[Memory, ...] = ()
    tables: tuple[Memory, ...] = ()

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Spaces":
        """What dataclasses.asdict and JSON made of one."""
        return cls(**{name: tuple(Memory(**limits) for limits in found[name]) for name in ("memories", "tables")})


def describe(data: bytes) -> str:
    """What bytes that are not WebAssembly look like, for people: "an ELF program", "text", "unknown data"."""
    for magic, name in _LOOKS_LIKE:
        if data.startswith(magic):
            return name
    head = data[:512]
    # A compiled file of wasmtime is an ELF object too, and was caught above.
    return "text" if head and all(byte >= 32 or byte in b"\t\n\r\f" for byte in head) else "unknown data"


def looks_like_text(data: bytes) -> bool:
    """Whether this may be the text format: a parenthesis first, after white space and comments."""
    rest = data[:4096].lstrip()
    while rest.startswith((b";;", b"(;")):
        end = rest.find(b"\n") if rest.startswith(b";;") else rest.find(b";)") + 1
        if end <= 0:
            return True
        rest = rest[end + 1 :].lstrip()
    return rest.startswith(b"(")


def kind_of(data: bytes) -> Kind:
    """Module or component, from the preamble; raises ModuleError, saying what the data is instead."""
    if not data:
        raise ModuleError("the file is empty")
    if not (data.startswith(MAGIC) or MAGIC.startswith(data)):
        raise ModuleError(f"not WebAssembly but {describe(data)}")
    if len(data) < 8:
        raise ModuleError(f"the file is cut short: {len(data)} bytes, and a preamble alone has 8")
    if data[4:8] == _MODULE_VERSION:
        return Kind.MODULE
    if data[6:8] == _COMPONENT_LAYER:
        return Kind.COMPONENT
    version = int.from_bytes(data[4:8], "little")
    raise ModuleError(f"WebAssembly of an unknown version ({version:#x}); version 1 and components are known")


def imports(data: bytes, *, at_most: int) -> tuple[ImportItem, ...]:
    """The first of what a core module imports, without types; raises ModuleError for what is cut short."""
    found: list[ImportItem] = []
    try:
        for body in (body for number, body in sections(data) if number == _IMPORT_SECTION):
            reader = Reader(body)
            for _ in range(min(reader.number(), at_most)):
                found.append(ImportItem(module=reader.name(), name=reader.name(), type=""))
                kind = reader.byte()
                if kind == _MEMORY:
                    reader.memory()
                elif not reader.skip_import(kind):
                    break
    except (IndexError, UnicodeDecodeError):
        raise ModuleError("the file is cut short or damaged: a section runs past its end") from None
    return tuple(found)


def spaces(data: bytes) -> Spaces:
    """What a binary declares or imports, the core modules inside a component included.

    Raises ModuleError for a structure that is cut short; code is not looked at.
    """
    try:
        declared = list(_spaces(data, 0))
    except (IndexError, KeyError, UnicodeDecodeError):
        raise ModuleError("the file is cut short or damaged: a section runs past its end") from None
    return Spaces(
        memories=tuple(limits for kind, limits in declared if kind == _MEMORY),
        tables=tuple(limits for kind, limits in declared if kind == _TABLE),
    )


def _spaces(data: bytes, depth: int) -> Iterator[tuple[int, Memory]]:
    if depth > _MAX_NESTING:
        raise ModuleError(f"components are nested more than {_MAX_NESTING} deep")
    nested = (_CORE_MODULE_SECTION, _COMPONENT_SECTION) if kind_of(data) is Kind.COMPONENT else ()
    for number, body in sections(data):
        if number in nested:
            yield from _spaces(body, depth + 1)
        elif nested:
            continue
        elif number == _MEMORY_SECTION:
            reader = Reader(body)
            yield from [(_MEMORY, reader.memory()) for _ in range(reader.number())]
        elif number == _TABLE_SECTION:
            reader = Reader(body)
            yield from [(_TABLE, reader.table()) for _ in range(reader.number())]
        elif number == _IMPORT_SECTION:
            yield from _imported(Reader(body))


def sections(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The sections of a binary, by number; raises IndexError where one runs past the end."""
    reader = Reader(data, 8)
    while not reader.at_end():
        number = reader.byte()
        yield number, reader.take(reader.number())


def numbered_sections(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Each section's number, all of it as it stands, and its content; raises as sections()."""
    reader = Reader(data, 8)
    while not reader.at_end():
        begin = reader.position
        number = reader.byte()
        body = reader.take(reader.number())
        yield number, data[begin : reader.position], body


def leb(number: int) -> bytes:
    """An unsigned number as LEB128."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def _imported(reader: "Reader") -> Iterator[tuple[int, Memory]]:
    for _ in range(reader.number()):
        reader.take(reader.number())
        reader.take(reader.number())
        kind = reader.byte()
        if kind == _MEMORY:
            yield kind, reader.memory(imported=True)
        elif kind == _TABLE:
            reader.skip_type()
            yield kind, reader.memory(imported=True)
        elif not reader.skip_import(kind):
            return  # a kind that a later proposal adds: the engine will say


class Reader:
    """A position in bytes; every reading raises IndexError at their end."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self._data = data
        self._position = position

    @property
    def position(self) -> int:
        """How far it has read."""
        return self._position

    def since(self, position: int) -> bytes:
        """What it has read since it was there."""
        return self._data[position : self._position]

    def go_back(self, position: int) -> None:
        """Read again from there."""
        self._position = position

    def at_end(self) -> bool:
        """Whether everything is read."""
        return self._position >= len(self._data)

    def peek(self) -> int:
        """The next byte, which stays the next."""
        return self._data[self._position]

    def byte(self) -> int:
        """The next byte."""
        value = self._data[self._position]
        self._position += 1
        return value

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if self._position + count > len(self._data):
            raise IndexError
        start, self._position = self._position, self._position + count
        return self._data[start : self._position]

    def number(self) -> int:
        """An unsigned LEB128 number of at most 64 bits."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value
            if shift > 63:
                raise IndexError

    def signed(self) -> int:
        """A signed LEB128 number of at most 64 bits."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value - (1 << shift) if byte & 0x40 else value
            if shift > 63:
                raise IndexError

    def name(self) -> str:
        """Text with its length before it."""
        return self.take(self.number()).decode()

    def memory(self, *, imported: bool = False) -> Memory:
        """A memory's limits, or a table's, which are written alike."""
        flags = self.byte()
        minimum = self.number()
        maximum = self.number() if flags & 1 else None
        if flags & 8:  # custom page size: its exponent
            self.number()
        shared, is_64 = bool(flags & 2), bool(flags & 4)
        return Memory(minimum=minimum, maximum=maximum, shared=shared, is_64=is_64, imported=imported)

    def table(self) -> Memory:
        """A table's type, and past what its elements are at first."""
        has_value = self.peek() == 0x40
        if has_value:
            self.take(2)
        self.skip_type()
        limits = self.memory()
        if has_value:
            self.skip_expression()
        return limits

    def skip_type(self) -> None:
        """Pass over a value's or reference's type."""
        if self.byte() in (0x63, 0x64):
            self.number()

    def skip_expression(self) -> None:
        """Pass over a constant expression; raises KeyError for an instruction that none has."""
        while (code := self.byte()) != 0x0B:
            match code:
                case 0x43:
                    self.take(4)
                case 0x44:
                    self.take(8)
                case 0xFD:
                    self.number()
                    self.take(16)
                case 0xFB:
                    for _ in range(_GC_CONSTANTS[self.number()]):
                        self.number()
                case _:
                    for _ in range(_CONSTANTS[code]):
                        self.number()

    def skip_import(self, kind: int) -> bool:
        """Pass over an import's type; False if the kind is not known."""
        match kind:
            case 0:  # function: type index
                self.number()
            case 3:  # global: value type, mutability
                self.skip_type()
                self.byte()
            case 4:  # tag: attribute, type index
                self.byte()
                self.number()
            case _:
                return False
        return True
