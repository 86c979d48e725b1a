"""Write docs/configuration.md from the fields of Config, so that every key is documented once.

With --check only say, by the exit code, whether it is up to date.
"""

import sys
from dataclasses import fields
from enum import StrEnum
from pathlib import Path

from wasm_sandboxer.config import Config
from wasm_sandboxer.units import format_duration, format_size

TARGET = Path(__file__).parent.parent / "docs" / "configuration.md"
HEAD = """\
# Configuration

`wasm-sandboxer serve` reads TOML from `--config FILE`, or from /etc/wasm-sandboxer/config.toml if that exists. All
keys stand at the top level; one that is unknown or of the wrong type is refused by name. Options of the command line
of the same names go before the file. SIGHUP reads `log_level` again; everything else applies at the next start.

Sizes are bytes or written as 64MiB, 1GiB; durations are seconds or written as 500ms, 10s, 1h30m.

| key | default | what it is |
|---|---|---|
"""


def main() -> int:
    """Write the file, or with --check say whether it is up to date."""
    text = HEAD + "".join(
        f"| `{each.name}` | `{_default(each.default, each.metadata['unit'])}` | {each.metadata['about']} |\n"
        for each in fields(Config)
    )
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.read_text() == text else 1
    TARGET.write_text(text)
    return 0


def _default(value: object, unit: str) -> str:
    if unit == "size" and isinstance(value, int):
        return format_size(value).replace(" ", "") if value else "0"
    if unit == "duration" and isinstance(value, float):
        return format_duration(value).replace(".00 s", "s")
    if value == Path():
        return '""'
    return value.value if isinstance(value, StrEnum) else str(value) or '""'


if __name__ == "__main__":
    sys.exit(main())
