"""What a module's memory holds at the start, taken out of the module so that all its guests can share it.

An engine copies data segments into each new memory, which costs every guest the copying and its own pages. Here
the segments become one image, a range of bytes that is mapped into each memory copy-on-write, and the module that
is compiled has empty ones in their place. That is done where it cannot be told apart from the original: one memory
of the module's own, segments at constant places inside of what it has at the start.

Source: WebAssembly core specification, binary format: data section; memory.init and data.drop find a segment that was
active used up in either case.
"""

from dataclasses import dataclass

from wasm_sandboxer.engine.wasm import PAGE, Reader, Spaces

_DATA_SECTION = 11
_LEAST = 32 << 10  # bytes of data below which copying them is no worse than mapping them
_ALIGNMENT = 64 << 10  # the largest page that Linux has on a machine of ours
_EMPTY = b"\x00\x41\x00\x0b\x00"  # an active segment at i32.const 0, without bytes
_ACTIVE, _PASSIVE, _ACTIVE_IN = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Image:
    """Where an image is: `offset` in its file, `address` in the memory, which has `memory` bytes at the start."""

    offset: int
    address: int
    size: int
    memory: int


def split(module: bytes, spaces: Spaces) -> tuple[bytes, bytes, int]:
    """A core module without its data, the data as one range of whole pages, and where that begins in memory.

    The module as it is and no data, where this cannot be done or is not worth it.
    """
    try:
        place = _section(module, _DATA_SECTION)
        segments = _segments(Reader(module[place.body : place.end])) if place is not None else None
    except IndexError:  # it is cut short, which the engine will say in its own words
        return module, b"", 0
    if place is None or segments is None or not _is_worth_it(segments, spaces):
        return module, b"", 0
    begin, end = _pages(segments)
    data = bytearray(end - begin)
    for segment in segments:
        if segment.address is not None:
            data[segment.begin - begin : segment.end - begin] = segment.data
    body = _leb(len(segments)) + b"".join(segment.without_data() for segment in segments)
    stripped = module[: place.begin] + bytes([_DATA_SECTION]) + _leb(len(body)) + body + module[place.end :]
    return stripped, bytes(data), begin


def padding(size: int) -> int:
    """How many bytes to write after so many, so that an image that follows can be mapped."""
    return -size % _ALIGNMENT


@dataclass(frozen=True)
class _Place:
    begin: int  # of the section's number
    body: int
    end: int


@dataclass(frozen=True)
class _Segment:
    address: int | None  # None for a passive one
    data: bytes

    @property
    def begin(self) -> int:
        return self.address or 0

    @property
    def end(self) -> int:
        return self.begin + len(self.data)

    def without_data(self) -> bytes:
        """The segment as it stands in the stripped module."""
        if self.address is not None:
            return _EMPTY
        return bytes([_PASSIVE]) + _leb(len(self.data)) + self.data


def _section(module: bytes, wanted: int) -> _Place | None:
    """Where a section is; None if there is none, or more than one, which no valid module has."""
    reader = Reader(module, 8)
    found: list[_Place] = []
    while not reader.at_end():
        begin = reader.position
        number = reader.byte()
        size = reader.number()
        body = reader.position
        reader.take(size)
        if number == wanted:
            found.append(_Place(begin, body, body + size))
    return found[0] if len(found) == 1 else None


def _segments(reader: Reader) -> list[_Segment] | None:
    """All segments; None if one's place is not a constant of 32 bits in the first memory."""
    segments = []
    for _ in range(reader.number()):
        flag = reader.number()
        if flag == _PASSIVE:
            segments.append(_Segment(None, reader.take(reader.number())))
            continue
        if flag not in (_ACTIVE, _ACTIVE_IN) or (flag == _ACTIVE_IN and reader.number() != 0):
            return None
        if reader.byte() != 0x41:
            return None
        address = reader.signed() & 0xFFFFFFFF
        if reader.byte() != 0x0B:
            return None
        segments.append(_Segment(address, reader.take(reader.number())))
    return segments


def _is_worth_it(segments: list[_Segment], spaces: Spaces) -> bool:
    """Whether there is one memory, all data lies inside of it, and there is enough of that without large holes."""
    active = [segment for segment in segments if segment.address is not None]
    total = sum(len(segment.data) for segment in active)
    if len(spaces.memories) != 1 or total < _LEAST:
        return False
    (memory,) = spaces.memories
    begin, end = _pages(segments)
    inside = end <= memory.minimum * PAGE  # what does not fit is for the engine to refuse
    return inside and end - begin <= 4 * total + _ALIGNMENT and not (memory.imported or memory.shared or memory.is_64)


def _pages(segments: list[_Segment]) -> tuple[int, int]:
    """Where the pages begin and end that active segments are in."""
    active = [segment for segment in segments if segment.address is not None]
    begin = min(segment.begin for segment in active) // _ALIGNMENT * _ALIGNMENT
    return begin, -(-max(segment.end for segment in active) // _ALIGNMENT) * _ALIGNMENT


def _leb(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])
