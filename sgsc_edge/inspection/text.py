"""Tables for a terminal, and names."""

from __future__ import annotations

from collections.abc import Collection, Sequence

_SUFFIXES = ("_dequantized", "_quantized")


def plain_name(name: str) -> str:
    """A tensor's name without what QuantizeLinear and DequantizeLinear add to it."""
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def printable(text: str, width: int = 60) -> str:
    """``text`` without control characters, its middle left out beyond ``width`` characters."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = (width - 1) // 2
    return clean if len(clean) <= width else f"{clean[:half]}…{clean[-half:]}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], text: Collection[str] = ()) -> str:
    """Columns as wide as their widest cell; numbers right-aligned but in the columns named in ``text``."""
    cells = [header, *(tuple(printable(cell, 80) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    numeric = [
        name not in text
        and all(not row[column] or row[column].lstrip("+-")[:1].isdigit() for row in cells[1:])
        for column, name in enumerate(header)
    ]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    )
