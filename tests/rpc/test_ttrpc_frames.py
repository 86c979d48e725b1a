import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasm_sandboxer.rpc.ttrpc.frames import MAX_DATA, REQUEST, RESPONSE, Frame, FrameReader, encode

frames = st.lists(
    st.builds(
        Frame,
        stream=st.integers(0, 2**32 - 1),
        kind=st.integers(0, 255),
        flags=st.integers(0, 255),
        data=st.binary(max_size=300),
    ),
    max_size=8,
)


def read(reader: FrameReader, *pieces: bytes) -> list[Frame]:
    found = []
    for piece in pieces:
        reader.feed(piece)
        while frame := reader.next():
            found.append(frame)
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def too_long(stream: int, length: int) -> bytes:
    return struct.pack(">IIBB", length, stream, REQUEST, 0)


def test_header_is_length_stream_kind_flags_big_endian():
    assert encode(0x01020304, RESPONSE, b"abc", 5) == b"\0\0\0\x03\x01\x02\x03\x04\x02\x05abc"


def test_reads_frames_fed_byte_by_byte():
    wire = encode(1, REQUEST, b"first") + encode(3, REQUEST, b"") + encode(5, 9, b"third", 7)
    assert read(FrameReader(), *(wire[i : i + 1] for i in range(len(wire)))) == [
        Frame(1, REQUEST, 0, b"first"),
        Frame(3, REQUEST, 0, b""),
        Frame(5, 9, 7, b"third"),
    ]


@given(frames, st.lists(st.integers(0, 10_000), max_size=20))
def test_reads_the_same_frames_however_they_are_cut(sent, places):
    wire = b"".join(encode(f.stream, f.kind, f.data, f.flags) for f in sent)
    assert read(FrameReader(), *cut(wire, places)) == sent


@given(frames, frames, st.integers(1, 70_000), st.lists(st.integers(0, 100_000), max_size=20))
def test_drops_a_frame_that_is_too_long_and_keeps_its_neighbours(before, after, excess, places):
    # The limit is lowered to what can be tried a hundred times.
    def wire(some):
        return b"".join(encode(f.stream, f.kind, f.data, f.flags) for f in some)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wasm_sandboxer.rpc.ttrpc.frames.MAX_DATA", 300)
        long = too_long(7, 300 + excess) + bytes(300 + excess)
        found = read(FrameReader(), *cut(wire(before) + long + wire(after), places))
    assert found == [*before, Frame(7, REQUEST, 0, None), *after]


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_any_bytes_are_read_without_error(pieces):
    read(FrameReader(), *pieces)


def test_longest_frame_is_read():
    data = bytes(range(256)) * (MAX_DATA // 256)
    wire = encode(1, REQUEST, data)
    pieces = [wire[i : i + 65_536] for i in range(0, len(wire), 65_536)]
    assert read(FrameReader(), *pieces) == [Frame(1, REQUEST, 0, data)]


def test_too_long_a_frame_is_reported_as_soon_as_its_header_is_there():
    reader = FrameReader()
    assert read(reader, too_long(9, MAX_DATA + 1)) == [Frame(9, REQUEST, 0, None)]


def test_holds_nothing_of_a_frame_that_is_too_long():
    reader = FrameReader()
    read(reader, too_long(9, 2**32 - 1))
    for _ in range(100):
        read(reader, bytes(65_536))
        assert len(reader._buffer) == 0


def test_holds_nothing_once_everything_is_read():
    reader = FrameReader()
    read(reader, encode(1, REQUEST, bytes(1000)))
    assert len(reader._buffer) == 0
