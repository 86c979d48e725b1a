"""What a core module imports and exports, with types as text, read from its bytes; no engine.

The engine's C API ends the process when it is asked for a type that it has no name for (v128 and most
references), and a module may export what it likes. So nobody asks it: the compiler's child reads the types once,
from a module the engine has found valid, and the store keeps them.

Source: WebAssembly core specification 3.0, binary format: types, modules.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from wasm_sandboxer.engine.protocol import ExportItem, ImportItem
from wasm_sandboxer.engine.wasm import Memory, Reader, Spaces, sections
from wasm_sandboxer.errors import ModuleError
from wasm_sandboxer.units import format_size

_MOST_DESCRIBED = 1 << 20  # bytes, as JSON; some ten thousand imports and exports

_TYPES, _IMPORTS, _FUNCTIONS, _TABLES, _MEMORIES, _GLOBALS, _EXPORTS, _START, _TAGS = 1, 2, 3, 4, 5, 6, 7, 8, 13
_FUNC, _TABLE, _MEMORY, _GLOBAL, _TAG = range(5)  # kinds of imports and exports
_VALUES = {
    0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128", 0x78: "i8", 0x77: "i16",
    0x74: "nullexnref", 0x73: "nullfuncref", 0x72: "nullexternref", 0x71: "nullref", 0x70: "funcref",
    0x6F: "externref", 0x6E: "anyref", 0x6D: "eqref", 0x6C: "i31ref", 0x6B: "structref", 0x6A: "arrayref",
    0x69: "exnref",
}  # fmt: skip
_NULLABLE_REFERENCE, _REFERENCE = 0x63, 0x64


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A function's type; its parameters' and results' types as text: "i32", "externref"."""

    params: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        results = ", ".join(self.results)
        arrow = f" -> ({results})" if len(self.results) > 1 else f" -> {results}" if results else ""
        return f"({', '.join(self.params)}){arrow}"


@dataclass(frozen=True, kw_only=True)
class Interface:
    """A module's imports and exports in their order, and the signatures of the functions among the exports.

    `starts` says that it has a start function, which runs when an instance is made.
    """

    imports: tuple[ImportItem, ...] = ()
    exports: tuple[ExportItem, ...] = ()
    functions: dict[str, Signature]
    starts: bool = False

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Interface":
        """What dataclasses.asdict and JSON made of one."""
        return cls(
            imports=tuple(ImportItem(**item) for item in found["imports"]),
            exports=tuple(ExportItem(**item) for item in found["exports"]),
            functions={
                name: Signature(params=tuple(types["params"]), results=tuple(types["results"]))
                for name, types in found["functions"].items()
            },
            starts=found["starts"],
        )


def check_description(interface: Interface | None, spaces: Spaces) -> None:
    """Raise ModuleError if there is more to a module than the host shall read, each time the module is loaded."""
    size = len(json.dumps([interface and asdict(interface), asdict(spaces)]))
    if size <= _MOST_DESCRIBED:
        return
    if interface is not None:  # a core module's memories and tables are few: the engine bounds them
        what = f"{len(interface.imports)} imports and {len(interface.exports)} exports"
    else:
        what = f"{len(spaces.memories)} memories and {len(spaces.tables)} tables"
    raise ModuleError(
        f"its {what} take {format_size(size)} to describe, and {format_size(_MOST_DESCRIBED)} is the bound"
    )


def interface_of(module: bytes) -> Interface:
    """The interface of a core module that is valid; raises ModuleError for what is not."""
    try:
        return _Parser().parse(module)
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise ModuleError(f"its imports and exports cannot be read ({type(error).__name__})") from None


class _Parser:
    def __init__(self) -> None:
        self._types: list[Signature | None] = []  # None for a type that is no function's
        self._spaces: dict[int, list[str]] = {kind: [] for kind in range(5)}  # by kind, then by index
        self._signatures: list[Signature] = []  # of functions, by index
        self._imports: list[ImportItem] = []
        self._exports: list[ExportItem] = []
        self._functions: dict[str, Signature] = {}

    def parse(self, module: bytes) -> Interface:
        parts = {
            _TYPES: self._type_section, _IMPORTS: self._import_section, _FUNCTIONS: self._function_section,
            _TABLES: self._table_section, _MEMORIES: self._memory_section, _TAGS: self._tag_section,
            _GLOBALS: self._global_section, _EXPORTS: self._export_section,
        }  # fmt: skip
        starts = False
        for number, body in sections(module):
            if number in parts:
                parts[number](Reader(body))
            starts = starts or number == _START
        return Interface(
            imports=tuple(self._imports),
            exports=tuple(self._exports),
            functions=dict(self._functions),
            starts=starts,
        )

    # ---- sections ----

    def _type_section(self, reader: Reader) -> None:
        for _ in range(reader.number()):
            if reader.peek() == 0x4E:  # a group of types that know each other
                reader.byte()
                for _ in range(reader.number()):
                    self._types.append(self._type(reader))
            else:
                self._types.append(self._type(reader))

    def _import_section(self, reader: Reader) -> None:
        for _ in range(reader.number()):
            module, name = reader.name(), reader.name()
            kind = reader.byte()
            self._imports.append(ImportItem(module=module, name=name, type=self._external(reader, kind)))

    def _function_section(self, reader: Reader) -> None:
        for _ in range(reader.number()):
            self._external(reader, _FUNC)

    def _table_section(self, reader: Reader) -> None:
        for _ in range(reader.number()):
            has_value = reader.peek() == 0x40
            if has_value:
                reader.take(2)
            self._external(reader, _TABLE)
            if has_value:
                reader.skip_expression()

    def _memory_section(self, reader: Reader) -> None:
        for _ in range(reader.number()):
            self._external(reader, _MEMORY)

    def _tag_section(self, reader: Reader) -> None:
        for _ in range(reader.number()):
            self._external(reader, _TAG)

    def _global_section(self, reader: Reader) -> None:
        for _ in range(reader.number()):
            self._external(reader, _GLOBAL)
            reader.skip_expression()

    def _export_section(self, reader: Reader) -> None:
        for _ in range(reader.number()):
            name, kind, index = reader.name(), reader.byte(), reader.number()
            self._exports.append(ExportItem(name=name, type=self._spaces[kind][index]))
            if kind == _FUNC:
                self._functions[name] = self._signatures[index]

    # ---- types ----

    def _external(self, reader: Reader, kind: int) -> str:
        """The type of something imported or defined, which gets the next index of its kind."""
        match kind:
            case 0:
                signature = self._types[reader.number()]
                assert signature is not None  # the module is valid
                self._signatures.append(signature)
                text = f"func {signature}"
            case 1:
                element = self._value(reader)
                text = f"table of {reader.memory().minimum} {element}"
            case 2:
                text = _memory_text(reader.memory())
            case 3:
                content = self._value(reader)
                text = f"{'mutable ' if reader.byte() else ''}global {content}"
            case 4:
                reader.byte()
                signature = self._types[reader.number()]
                text = f"tag {signature}"
            case _:
                raise KeyError(kind)
        self._spaces[kind].append(text)
        return text

    def _type(self, reader: Reader) -> Signature | None:
        form = reader.byte()
        if form in (0x50, 0x4F):  # a subtype: of which types, then what it is
            for _ in range(reader.number()):
                reader.number()
            form = reader.byte()
        match form:
            case 0x60:
                return Signature(params=tuple(self._values(reader)), results=tuple(self._values(reader)))
            case 0x5F:  # a structure
                for _ in range(reader.number()):
                    self._field(reader)
            case 0x5E:  # an array
                self._field(reader)
            case _:
                raise KeyError(form)
        return None

    def _field(self, reader: Reader) -> None:
        self._value(reader)
        reader.byte()

    def _values(self, reader: Reader) -> Iterator[str]:
        for _ in range(reader.number()):
            yield self._value(reader)

    def _value(self, reader: Reader) -> str:
        code = reader.byte()
        if code not in (_NULLABLE_REFERENCE, _REFERENCE):
            return _VALUES[code]
        null = "null " if code == _NULLABLE_REFERENCE else ""
        return f"(ref {null}{self._heap_type(reader)})"

    def _heap_type(self, reader: Reader) -> str:
        if reader.peek() not in _VALUES:
            return str(reader.number())
        name = _VALUES[reader.byte()].removesuffix("ref")
        return "none" if name == "null" else name.replace("null", "no")


def _memory_text(memory: Memory) -> str:
    top = "" if memory.maximum is None else f", at most {memory.maximum}"
    wide = "64-bit " if memory.is_64 else ""
    return f"{wide}memory of {memory.minimum} page{'' if memory.minimum == 1 else 's'}{top}"
