"""Makes a component of a frame, which is text, and the core modules that belong into it.

A component wraps core modules: it says what WASI interfaces it imports and exports, and how their values pass
to and from each module's memory. Compilers to Wasm know nothing of that. So the frame is written by hand, as
the text format of components, with an empty `(core module $name)` wherever a module belongs; this module
translates it and puts the compiled modules into those gaps.

Nothing here knows what the modules do. Whether they fit their frame is only found out by the engine, when
the component is loaded or instantiated.

The binary format: https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md
"""

from collections.abc import Iterator, Sequence

import wasmtime

PREAMBLE_SIZE = 8
EMPTY_MODULE = b"\0asm\1\0\0\0"
CORE_MODULE_SECTION = 1

# LEB128: seven bits of a number to a byte, the lowest first; the eighth says that more follow.
BITS = 7
LOW = 0x7F
MORE = 0x80


def build(frame: str, modules: Sequence[bytes]) -> bytes:
    """The component that the frame's text describes, its empty core modules filled in order.

    Raises `ValueError` when there are more or fewer gaps than modules, `wasmtime.WasmtimeError` when the
    frame is not well-formed text.
    """
    return fill(bytes(wasmtime.wat2wasm(frame)), modules)


def fill(frame: bytes, modules: Sequence[bytes]) -> bytes:
    """As `build`, from a frame in the binary format.

    A component is a preamble and sections; a core module is one section. Neither counts nor offsets span
    sections, so one can be replaced by one of another length.
    """
    rest = list(modules)
    parts = [frame[:PREAMBLE_SIZE]]
    for kind, content in sections(frame):
        filled = content
        if kind == CORE_MODULE_SECTION and is_gap(content):
            if not rest:
                raise ValueError(f"the frame has more gaps than the {len(modules)} modules given")
            filled = rest.pop(0)
        parts += [bytes([kind]), leb128(len(filled)), filled]
    if rest:
        raise ValueError(f"the frame has no gap for {len(rest)} of the {len(modules)} modules given")
    return b"".join(parts)


def is_gap(module: bytes) -> bool:
    """Whether a core module has nothing in it but, perhaps, its name."""
    return module.startswith(EMPTY_MODULE) and all(kind == 0 for kind, _ in sections(module))


def sections(binary: bytes) -> Iterator[tuple[int, bytes]]:
    """Each section's id and content, of a component or a core module: both are built alike."""
    at = PREAMBLE_SIZE
    while at < len(binary):
        kind = binary[at]
        size, start = read_leb128(binary, at + 1)
        at = start + size
        yield kind, binary[start:at]


def leb128(number: int) -> bytes:
    """The number in the encoding that both formats use, which is unsigned LEB128."""
    encoded = bytearray()
    while number > LOW:
        encoded.append(number & LOW | MORE)
        number >>= BITS
    encoded.append(number)
    return bytes(encoded)


def read_leb128(binary: bytes, at: int) -> tuple[int, int]:
    """The number that stands at that offset, and the offset behind it."""
    number = shift = 0
    while True:
        byte = binary[at]
        at += 1
        number |= (byte & LOW) << shift
        shift += BITS
        if not byte & MORE:
            return number, at
