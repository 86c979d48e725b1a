"""Sizes and durations as people write them; pure."""

import math
import re

from wasm_sandboxer.errors import InvalidArgument

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")
_LARGEST = (1 << 63) - 1  # what the kernel and the engine take
_SIZE_UNITS = {
    "": 1, "b": 1,
    "k": 1 << 10, "kb": 10**3, "ki": 1 << 10, "kib": 1 << 10,
    "m": 1 << 20, "mb": 10**6, "mi": 1 << 20, "mib": 1 << 20,
    "g": 1 << 30, "gb": 10**9, "gi": 1 << 30, "gib": 1 << 30,
    "t": 1 << 40, "tb": 10**12, "ti": 1 << 40, "tib": 1 << 40,
}  # fmt: skip
_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:\[\]]*)):([0-9]{1,5})")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h|d)")
_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(text: str) -> int:
    """Bytes meant by "64MiB", "1g", "512k" or a plain number; a bare k, m, g or t is binary, as docker has it.

    Raises InvalidArgument with the text and the form that is expected.
    """
    match = _SIZE.fullmatch(text)
    unit = _SIZE_UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise InvalidArgument(f"{text[:40]!r} is not a size; write bytes or a unit, as in 512KiB, 64MiB, 1GiB")
    digits = match[1]
    size = (float(digits) if "." in digits or len(digits) > 20 else int(digits)) * unit
    if size > _LARGEST:
        raise InvalidArgument(f"{text[:40]!r} is more than any machine has")
    return int(size)


def parse_duration(text: str) -> float:
    """Seconds meant by "500ms", "1.5s", "2m", "1h30m" or a plain number of seconds.

    Raises InvalidArgument with the text and the form that is expected.
    """
    stripped = text.strip()
    if stripped.replace(".", "", 1).isdigit():
        stripped += "s"
    parts = _DURATION_PART.findall(stripped)
    if not parts or "".join(number + unit for number, unit in parts) != stripped:
        raise InvalidArgument(f"{text[:40]!r} is not a duration; write seconds or a unit, as in 500ms, 10s, 1h30m")
    seconds = sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)
    if not math.isfinite(seconds):
        raise InvalidArgument(f"{text[:40]!r} is longer than anything lasts")
    return seconds


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:9464", "[::1]:9464" or ":9464", which is every address of the machine.

    Raises InvalidArgument with the text and the form that is expected.
    """
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or int(match[3]) > 65535:
        raise InvalidArgument(f"{text[:60]!r} is not an address; write ADDR:PORT, as in 127.0.0.1:9464 or [::1]:9464")
    return match[1] or match[2], int(match[3])


def format_size(count: int) -> str:
    """A byte count for people: "0 B", "24.1 KiB", "64 MiB"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.1f}".removesuffix(".0") + f" {unit}"
        value /= 1024
    return f"{value:.1f}".removesuffix(".0") + " TiB"


def format_duration(seconds: float) -> str:
    """A duration for people, to about three digits: "430 µs", "12.3 ms", "4.20 s", "3m 5s", "2h 10m"."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")]
    shown = [f"{amount}{unit}" for amount, unit in parts if amount][:2]
    return " ".join(shown)
