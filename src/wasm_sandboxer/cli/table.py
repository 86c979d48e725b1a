"""Plain tables for people."""

from collections.abc import Iterable, Sequence

from wasm_sandboxer.cli import one_line


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns aligned on the left, two spaces apart, as docker and kubectl print them.

    A row is one line that a terminal only shows, whatever it says: names come from images.
    """
    table = [list(header), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )
