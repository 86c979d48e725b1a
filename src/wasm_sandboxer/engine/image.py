"""What a module's memory holds at the start, arranged so that guests can share it and the engine does little for it.

An engine with foreign memories copies data segments into each of them, by code that it compiles for every single
one: that costs each guest the copying and pages of its own, and with the thousands of segments that Go's linker makes
it takes a minute to compile. It must also be kept from mapping segments into memories by itself: that it can do with
memories of its own only, and ends the process otherwise. So a module's segments are painted into one another, and

- much data in a core module's only memory becomes an image: a range of bytes outside the module, which is mapped
  into each memory and shared until a guest writes;
- other data becomes a few segments, whose places are not plain constants, so that the engine copies them.

Segments that are used up by this stay in their places, without bytes: memory.init and data.drop find them just as
they find one that was active. A module one of whose segments depends on what is known only at run time, or does not
fit, is left as it is; the engine copies those one by one.

Source: WebAssembly core specification, binary format: data section, constant expressions; component-model Binary.md.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from wasm_sandboxer.engine.protocol import Kind
from wasm_sandboxer.engine.wasm import PAGE, Memory, Reader, kind_of, leb, numbered_sections, spaces
from wasm_sandboxer.errors import ModuleError

_DATA_SECTION = 11
_CORE_MODULE_SECTION, _COMPONENT_SECTION = 1, 4  # inside a component
_ALIGNMENT = 64 << 10  # the largest page that Linux has on a machine of ours
_LEAST = 32 << 10  # bytes of data below which copying them is no worse than mapping them
_GAP = 1 << 10  # bytes between two segments that are painted into one range
_ACTIVE, _PASSIVE, _ACTIVE_IN = 0, 1, 2
_USED_UP = bytes([_PASSIVE, 0])


@dataclass(frozen=True, kw_only=True)
class Image:
    """Where an image is: `offset` in its file, `address` in the memory, which has `memory` bytes at the start."""

    offset: int
    address: int
    size: int
    memory: int


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """A binary to compile, and what its memory shall hold at the start besides, as whole pages from an address."""

    binary: bytes
    data: bytes = b""
    address: int = 0
    memory: int = 0


def arrange(binary: bytes) -> Arranged:
    """The binary as it is to be compiled. Raises ModuleError for data that cannot be read."""
    try:
        if kind_of(binary) is Kind.COMPONENT:
            return Arranged(binary=_component(binary))
        return _module(binary, with_image=True)
    except (IndexError, KeyError):
        raise ModuleError("its data section is cut short or damaged") from None


def padding(size: int) -> int:
    """How many bytes to write after so many, so that an image that follows can be mapped."""
    return -size % _ALIGNMENT


@dataclass(frozen=True)
class _Segment:
    """A segment as it stands; `memory` and `address` are None for one that is passive."""

    source: bytes
    data: bytes
    memory: int | None = None
    address: int | None = None  # None too for a place that is no constant
    is_64: bool = False  # what the place is for


@dataclass
class _Range:
    memory: int
    begin: int
    data: bytearray

    @property
    def end(self) -> int:
        return self.begin + len(self.data)


def _component(binary: bytes) -> bytes:
    """A component, the core modules in it arranged without images: their memories cannot be told apart."""
    out = bytearray(binary[:8])
    for number, whole, body in numbered_sections(binary):
        if number == _CORE_MODULE_SECTION:
            body = _module(body, with_image=False).binary  # noqa: PLW2901
        elif number == _COMPONENT_SECTION:
            body = _component(body)  # noqa: PLW2901
        else:
            out += whole
            continue
        out += bytes([number]) + leb(len(body)) + body
    return bytes(out)


def _module(binary: bytes, *, with_image: bool) -> Arranged:
    memories = spaces(binary).memories
    out = bytearray(binary[:8])
    arranged = Arranged(binary=binary)
    for number, whole, body in numbered_sections(binary):
        if number != _DATA_SECTION:
            out += whole
            continue
        segments = list(_segments(Reader(body)))
        if not all(_is_known(segment, memories) for segment in segments):
            return arranged
        ranges = _painted(segments)
        if with_image and _is_worth_an_image(ranges, memories):
            arranged = _image(ranges, memories[0])
            ranges = []
        body = leb(len(segments)) + _replaced(segments, ranges, memories)  # noqa: PLW2901
        out += bytes([number]) + leb(len(body)) + body
    return Arranged(binary=bytes(out), data=arranged.data, address=arranged.address, memory=arranged.memory)


def _segments(reader: Reader) -> Iterator[_Segment]:
    for _ in range(reader.number()):
        begin = reader.position
        flag = reader.number()
        if flag == _PASSIVE:
            data = reader.take(reader.number())
            yield _Segment(reader.since(begin), data)
            continue
        memory = reader.number() if flag == _ACTIVE_IN else 0
        address, is_64 = _constant(reader)
        data = reader.take(reader.number())
        yield _Segment(reader.since(begin), data, memory, address, is_64)


def _constant(reader: Reader) -> tuple[int | None, bool]:
    """The number that a constant expression is, and whether of 64 bits; None for one that is more than a number."""
    begin = reader.position
    wide = {0x41: 32, 0x42: 64}.get(reader.byte())
    if wide is not None:
        number = reader.signed() & ((1 << wide) - 1)
        if reader.byte() == 0x0B:
            return number, wide == 64
    reader.go_back(begin)
    reader.skip_expression()
    return None, False


def _is_known(segment: _Segment, memories: tuple[Memory, ...]) -> bool:
    """Whether a segment, if active, has its place inside of what a memory of the module's has at the start."""
    if segment.memory is None:
        return True
    if segment.memory >= len(memories):
        return False  # for the engine to refuse
    memory = memories[segment.memory]
    if segment.is_64 != memory.is_64:
        return False  # as above
    inside = segment.address is not None and segment.address + len(segment.data) <= memory.minimum * PAGE
    return inside and not memory.imported


def _painted(segments: list[_Segment]) -> list[_Range]:
    """Ranges that hold what the active segments leave in memory, in order of memory and address."""
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for segment in segments:
        if segment.memory is not None and segment.address is not None and segment.data:
            places[segment.memory].append((segment.address, segment.address + len(segment.data)))
    ranges = []
    for memory, found in sorted(places.items()):
        begin, end = -1, -1
        for start, stop in sorted(found):
            if begin >= 0 and start <= end + _GAP:
                end = max(end, stop)
                continue
            if begin >= 0:
                ranges.append(_Range(memory, begin, bytearray(end - begin)))
            begin, end = start, stop
        ranges.append(_Range(memory, begin, bytearray(end - begin)))
    _paint(segments, ranges)
    return ranges


def _paint(segments: list[_Segment], ranges: list[_Range]) -> None:
    """Write every active segment into the range that holds its place, in their order."""
    by_memory: dict[int, list[_Range]] = defaultdict(list)
    for each in ranges:
        by_memory[each.memory].append(each)
    for segment in segments:
        if segment.memory is None or segment.address is None or not segment.data:
            continue
        there = _holding(by_memory[segment.memory], segment.address)
        at = segment.address - there.begin
        there.data[at : at + len(segment.data)] = segment.data


def _holding(ranges: list[_Range], address: int) -> _Range:
    low, high = 0, len(ranges) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if ranges[middle].begin <= address:
            low = middle
        else:
            high = middle - 1
    return ranges[low]


def _is_worth_an_image(ranges: list[_Range], memories: tuple[Memory, ...]) -> bool:
    """Whether the module's only memory has enough data, without large holes in between."""
    total = sum(len(each.data) for each in ranges)
    if len(memories) != 1 or memories[0].is_64 or memories[0].shared or total < _LEAST:
        return False
    return ranges[-1].end - ranges[0].begin <= 4 * total


def _image(ranges: list[_Range], memory: Memory) -> Arranged:
    begin = ranges[0].begin // _ALIGNMENT * _ALIGNMENT
    end = -(-ranges[-1].end // _ALIGNMENT) * _ALIGNMENT
    data = bytearray(end - begin)
    for each in ranges:
        data[each.begin - begin : each.end - begin] = each.data
    return Arranged(binary=b"", data=bytes(data), address=begin, memory=memory.minimum * PAGE)


def _replaced(segments: list[_Segment], ranges: list[_Range], memories: tuple[Memory, ...]) -> bytes:
    """As many segments as there were: passive ones as they are, the first active ones with the ranges."""
    rest = iter(ranges)
    out = bytearray()
    for segment in segments:
        if segment.memory is None:
            out += segment.source
        elif (each := next(rest, None)) is not None:
            out += _segment(each, is_64=memories[each.memory].is_64)
        else:
            out += _USED_UP
    return bytes(out)


def _segment(each: _Range, *, is_64: bool) -> bytes:
    """A segment at the sum of its address and zero, which the engine does not take for a constant."""
    constant, add = (0x42, 0x7C) if is_64 else (0x41, 0x6A)
    place = bytes([constant]) + _signed_leb(each.begin, 64 if is_64 else 32) + bytes([constant, 0, add, 0x0B])
    return bytes([_ACTIVE_IN]) + leb(each.memory) + place + leb(len(each.data)) + bytes(each.data)


def _signed_leb(number: int, width: int) -> bytes:
    """An address as the signed constant that stands for it."""
    if number >> (width - 1):
        number -= 1 << width
    out = bytearray()
    while not -0x40 <= number < 0x40:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number & 0x7F])
