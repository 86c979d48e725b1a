"""HPACK's Huffman code, for reading only; RFC 7541, section 5.2 and appendix B. Pure."""

__all__ = ["HuffmanError", "decode"]

# The code is canonical: the codes of one length follow each other in the order of their symbols, so their
# lengths say all. The last symbol, 256, is the end of the string, which is never sent.
_LENGTHS = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28,
    28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15,
    6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22,
    20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23,
    23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22,
    22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26,
    27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27,
    26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
)  # fmt: skip
_END = 256
_LONGEST_PADDING = 7  # bits


class HuffmanError(ValueError):
    """The bytes are no Huffman-coded string."""


def _codes() -> dict[int, int]:
    """Symbols by their codes, each with a 1 before it that keeps leading zeros."""
    codes: dict[int, int] = {}
    code = length = 0
    for wanted, symbol in sorted((wanted, symbol) for symbol, wanted in enumerate(_LENGTHS)):
        code <<= wanted - length
        length = wanted
        codes[1 << length | code] = symbol
        code += 1
    return codes


_CODES = _codes()


def decode(data: bytes) -> bytes:
    """The string; raises HuffmanError."""
    symbols = bytearray()
    code = 1
    for byte in data:
        for shift in (7, 6, 5, 4, 3, 2, 1, 0):
            code = code << 1 | byte >> shift & 1
            symbol = _CODES.get(code)
            if symbol is not None:
                if symbol == _END:
                    raise HuffmanError("the end of the string is in its midst")
                symbols.append(symbol)
                code = 1
    padding = code.bit_length() - 1
    if padding > _LONGEST_PADDING or code != (2 << padding) - 1:
        raise HuffmanError("the padding is not the beginning of the end of the string")
    return bytes(symbols)
