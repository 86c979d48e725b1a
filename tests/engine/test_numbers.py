"""Numbers as text: one rule for core modules and components."""

import math

import pytest

from wasm_sandboxer.engine import numbers

NO_INTEGERS = ["", " ", " 5 ", "٣", "0b1", "0o7", "0x", "1_0", "0x_1", "5\n", "--5", "1e3", "9" * 5000]
NO_FLOATS = ["", " 5 ", "٣", "1_0", "0x", "0x.p1", "1e", ".", "infinite", "5\n", "1e999", "0x1p9999", "9" * 5000]


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("010", 10), ("-0", 0), ("+7", 7), ("0x1F", 31), ("-0XfF", -255)]
)
def test_an_integer_is_decimal_or_hexadecimal(text: str, value: int) -> None:
    assert numbers.integer(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", 0.1), ("-0", -0.0), ("007", 7.0), ("1.", 1.0), (".5", 0.5), ("1E+3", 1000.0), ("0x1.8p1", 3.0),
        ("-0xA", -10.0), ("inf", math.inf), ("-Infinity", -math.inf),
    ],
)  # fmt: skip
def test_a_float_is_what_webassembly_and_c_write(text: str, value: float) -> None:
    assert math.copysign(1, numbers.floating(text, 64)) == math.copysign(1, value)
    assert numbers.floating(text, 64) == value
    assert math.isnan(numbers.floating("-NaN", 64))


@pytest.mark.parametrize("text", NO_INTEGERS)
def test_nothing_else_is_an_integer(text: str) -> None:
    with pytest.raises(ValueError):
        numbers.integer(text)


@pytest.mark.parametrize("text", NO_FLOATS)
def test_nothing_else_is_a_float(text: str) -> None:
    with pytest.raises(ValueError):
        numbers.floating(text, 64)


def test_a_float_of_32_bits_has_bounds_of_its_own() -> None:
    assert numbers.floating("3.4e38", 32) == 3.4e38
    with pytest.raises(ValueError):
        numbers.floating("1e39", 32)
