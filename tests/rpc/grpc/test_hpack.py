"""HPACK against the examples of RFC 7541, appendix C, and whatever else may come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasm_sandboxer.rpc.grpc import huffman
from wasm_sandboxer.rpc.grpc.hpack import Decoder, HpackError, literal

CODES = {symbol: format(code, "b")[1:] for code, symbol in huffman._CODES.items()}


def packed(data):
    bits = "".join(CODES[byte] for byte in data)
    bits += "1" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


def decode(*blocks):
    decoder = Decoder()
    return [decoder.decode(bytes.fromhex(block)) for block in blocks][-1]


FIRST = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")]
SECOND = [*FIRST, ("cache-control", "no-cache")]
THIRD = [
    (":method", "GET"), (":scheme", "https"), (":path", "/index.html"), (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("block", "field"),
    [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", ("custom-key", "custom-header")),  # C.2.1
        ("040c2f73616d706c652f70617468", (":path", "/sample/path")),  # C.2.2
        ("100870617373776f726406736563726574", ("password", "secret")),  # C.2.3
        ("82", (":method", "GET")),  # C.2.4
    ],
)
def test_fields_of_every_kind(block, field):
    assert decode(block) == [field]


@pytest.mark.parametrize(
    "blocks",
    [
        (  # C.3
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ),
        (  # C.4, in Huffman's code
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ),
    ],
)
def test_requests_in_a_row_share_a_table(blocks):
    assert decode(*blocks[:1]) == FIRST
    assert decode(*blocks[:2]) == SECOND
    assert decode(*blocks) == THIRD


def test_the_table_forgets_the_oldest_of_what_does_not_fit():
    decoder = Decoder()
    for number in range(200):
        decoder.decode(b"\x40" + literal(f"name-{number:04}", "x" * 23)[1:])
    assert decoder._size == 64 * 64  # each takes 32 + 9 + 23
    assert decoder.decode(b"\xbe") == [("name-0199", "x" * 23)]
    assert decoder.decode(b"\xfd") == [("name-0136", "x" * 23)]
    with pytest.raises(HpackError):
        decoder.decode(b"\xfe")


def test_a_field_larger_than_the_table_empties_it():
    decoder = Decoder()
    decoder.decode(b"\x40" + literal("a", "b")[1:])
    assert decoder.decode(b"\x40" + literal("a", "x" * 5000)[1:]) == [("a", "x" * 5000)]
    assert not decoder._table


def test_the_table_may_be_made_smaller_and_larger_again():
    decoder = Decoder()
    decoder.decode(b"\x40" + literal("a", "b")[1:])
    assert decoder.decode(bytes.fromhex("203fe11f")) == []  # 0, then 4096
    assert not decoder._table
    decoder.decode(b"\x40" + literal("c", "d")[1:])
    assert decoder.decode(b"\xbe") == [("c", "d")]


@pytest.mark.parametrize(
    "block",
    [
        "80",  # field 0
        "be",  # an empty table's first
        "ff",  # half an integer
        "ffffffffffffffff",
        "ff8080808080808080808001",
        "00",
        "0001",
        "000161",
        "00016105",
        "0001610562",
        "3fe21f",  # a table of 4097 bytes
        "8220",  # a size behind a field
        "00820000",  # zeros where a Huffman code's padding must be ones
        "0081ff0161",  # padding of a whole byte
        "0084ffffffff0161",  # the end of the string
    ],
)
def test_a_block_that_makes_no_sense_is_refused(block):
    with pytest.raises(HpackError):
        decode(block)


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_no_bytes_do_more_than_be_refused(blocks):
    decoder = Decoder()
    try:
        for block in blocks:
            decoder.decode(block)
    except HpackError:
        pass
    assert decoder._size <= 4096
    assert decoder._size == sum(len(name) + len(value) + 32 for name, value in decoder._table)


@given(st.binary(max_size=300))
def test_huffman_reads_what_was_packed(data):
    assert huffman.decode(packed(data)) == data


@given(st.text(st.characters(max_codepoint=255), min_size=1), st.text(st.characters(max_codepoint=255)))
def test_what_is_written_is_read(name, value):
    assert Decoder().decode(literal(name, value)) == [(name, value)]
