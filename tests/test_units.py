"""Sizes, durations and addresses as people write and read them."""

import pytest

from wasm_sandboxer.errors import InvalidArgument
from wasm_sandboxer.units import format_duration, format_size, parse_address, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("1", 1), ("512", 512), ("5b", 5), ("1k", 1024), ("1kb", 1000), ("1Ki", 1024), ("1KiB", 1024),
        ("64MiB", 64 << 20), ("64 MiB", 64 << 20), (" 1g ", 1 << 30), ("1.5GiB", 3 << 29), ("2t", 2 << 40),
        ("1tb", 10**12), ("9223372036854775807", (1 << 63) - 1), ("0.5", 0),
    ],
)  # fmt: skip
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1 2", "1.k", ".5", "1e3", "0x10", "1kk", "١", "1_000", "∞"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"is not a size; write bytes or a unit, as in 512KiB, 64MiB, 1GiB$"):
        parse_size(text)


@pytest.mark.parametrize("text", ["9223372036854775808", "8388608TiB", "9" * 5000, "9" * 5000 + ".5"])
def test_a_size_that_no_machine_has_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"is more than any machine has$"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("5", 5), ("1.5", 1.5), ("500ms", 0.5), ("1.5s", 1.5), ("2m", 120), ("1h30m", 5400), ("1d", 86400),
        ("100us", 1e-4), ("100µs", 1e-4), ("5ns", 5e-9), (" 1s ", 1), ("1m1m", 120),
    ],
)  # fmt: skip
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "x", "-1s", "1y", "1s2", "s", "1 s", "1.s", "1h 30m", "٣s", "inf", "nan", "²"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"is not a duration; write seconds or a unit, as in 500ms, .*$"):
        parse_duration(text)


def test_a_duration_without_end_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"is longer than anything lasts$"):
        parse_duration("9" * 400)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (24678, "24.1 KiB"), (64 << 20, "64 MiB"), (3 << 29, "1.5 GiB"),
     (5 << 40, "5 TiB"), (5000 << 40, "5000 TiB")],
)  # fmt: skip
def test_a_size_is_written(count: int, text: str) -> None:
    assert format_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00043, "430 µs"), (0.0123, "12.3 ms"), (4.2, "4.20 s"), (185, "3m 5s"), (7800, "2h 10m"), (60, "1m"),
     (90061, "1d 1h"), (86400, "1d"), (3600, "1h")],
)  # fmt: skip
def test_a_duration_is_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)), ("[::1]:0", ("::1", 0)), (":65535", ("", 65535)),
        ("localhost:80", ("localhost", 80)),
    ],
)  # fmt: skip
def test_an_address_is_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "9464", "127.0.0.1", "::1:80", "[::1]", "a:65536", "a:-1", "a:b", "a:١", "[x]:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"is not an address; write ADDR:PORT"):
        parse_address(text)
