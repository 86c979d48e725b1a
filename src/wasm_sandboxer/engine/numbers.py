"""Numbers as people give them to a function, the same for core modules and components; pure.

An integer is decimal, whatever zeros it begins with, or hexadecimal after 0x; a float is what WebAssembly's text
format and C's printf write. All of it in ASCII, with an optional sign and nothing around it.
"""

import math
import re
import struct

_INTEGER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)", re.ASCII)
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_HEXADECIMAL = re.compile(r"[+-]?0[xX]([0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)([pP][+-]?[0-9]+)?", re.ASCII)
_NAMED = re.compile(r"[+-]?(inf|infinity|nan)", re.ASCII | re.IGNORECASE)
_FORMATS = {32: "<f", 64: "<d"}


def integer(text: str) -> int:
    """The integer; raises ValueError for what is none."""
    if not _INTEGER.fullmatch(text):
        raise ValueError(text)
    return int(text, 16 if "x" in text.lower() else 10)


def floating(text: str, bits: int) -> float:
    """The float; raises ValueError for what is none, or too large for so many bits."""
    if _NAMED.fullmatch(text):
        return float(text)
    try:
        if _DECIMAL.fullmatch(text):
            value = float(text)
        elif _HEXADECIMAL.fullmatch(text):
            value = float.fromhex(text)
        else:
            raise ValueError(text)
        struct.pack(_FORMATS[bits], value)
    except OverflowError:
        raise ValueError(text) from None
    if math.isinf(value):
        raise ValueError(text)
    return value
