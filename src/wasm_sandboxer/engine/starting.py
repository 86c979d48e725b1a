"""A module's start function, made an export, so that it is called once the guest has all that it may call.

The engine calls a start function while it makes the instance. But what waits, and what the standard streams are, is
served by a shim that needs the guest's memory, which is there only then. Languages run programs in it: AssemblyScript
a module's top level, if nobody says otherwise.

Source: WebAssembly core specification, binary format: export section, start section.
"""

from wasm_sandboxer.engine.wasm import Reader, leb, numbered_sections
from wasm_sandboxer.errors import ModuleError

EXPORT = "wasm-sandboxer/start"
"""The name of the export."""

_EXPORTS, _START = 7, 8
_FUNCTION = 0  # a kind of exports


def export_start(binary: bytes) -> bytes:
    """A core module with its start function as EXPORT; one without is as it was, or that the engine is to refuse.

    Raises ModuleError for one that exports something under this name.
    """
    try:
        return _export_start(binary)
    except IndexError:  # something is cut short
        return binary


def _export_start(binary: bytes) -> bytes:
    sections = list(numbered_sections(binary))
    start = next((body for number, _, body in sections if number == _START), None)
    if start is None:
        return binary
    entry = _name(EXPORT) + bytes([_FUNCTION]) + leb(Reader(start).number())
    out, exported = bytearray(binary[:8]), False
    for number, whole, body in sections:
        if number == _EXPORTS:
            out += _exports(body, entry)
            exported = True
        elif number != _START:
            out += whole
        elif not exported:  # the section comes just before
            out += _exports(leb(0), entry)
            exported = True
    return bytes(out)


def _exports(body: bytes, entry: bytes) -> bytes:
    """The export section with one more entry."""
    if _name(EXPORT) in body and EXPORT in _names(Reader(body)):
        raise ModuleError(f"it exports {EXPORT!r}, a name that is kept for its start function")
    reader = Reader(body)
    count = reader.number()
    grown = leb(count + 1) + body[reader.position :] + entry
    return bytes([_EXPORTS]) + leb(len(grown)) + grown


def _names(reader: Reader) -> set[str]:
    found = set()
    for _ in range(reader.number()):
        found.add(reader.take(reader.number()).decode(errors="replace"))
        reader.byte()
        reader.number()
    return found


def _name(text: str) -> bytes:
    return leb(len(text.encode())) + text.encode()
