"""Values and foreign text as C source."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.c_code.calls import float_literal

_WIDTH = 100
"""Characters of a line of numbers."""


def decimal_literal(value: float) -> str:
    """A float32 exactly, in decimal digits: C++ knows hexadecimal ones since C++17 only.

    >>> decimal_literal(0.1)
    '1.000000015e-01f'
    """
    return f"{float(np.float32(value)):.9e}f"


def numbers(array: NDArray[Any], literal: Callable[[float], str] = float_literal) -> str:
    """The values of a flat array in lines, as C reads them; ``literal`` writes those of float32."""
    if array.dtype.kind == "f":
        texts = [literal(float(value)) for value in array]
    else:
        # INT32_MIN has no literal of its own type.
        texts = ["INT32_MIN" if value == -(2**31) else str(value) for value in array.tolist()]
    lines, line = [], ""
    for text in texts:
        if line and len(line) + len(text) + 2 > _WIDTH:
            lines.append(line)
            line = ""
        line += (" " if line else "    ") + text + ","
    return "\n".join([*lines, line])


def braced(value: int | Sequence[int]) -> str:
    """An integer, or several in braces.

    >>> braced([1, 2]), braced(3)
    ('{1, 2}', '3')
    """
    if isinstance(value, int | np.integer):
        return str(int(value))
    return "{" + ", ".join(str(int(part)) for part in value) + "}"


def comment(text: str) -> str:
    """Text that neither begins nor ends a comment, nor goes on in the next line."""
    return re.sub(r"[^\x20-\x7e]|[*\\?]", "_", text)


def string_literal(text: str) -> str:
    r"""A string of C and C++ with the text's UTF-8 bytes; no part of it is an escape or a trigraph.

    >>> print(string_literal('a "b" \u00e9?'))
    "a \"b\" \303\251\077"
    """
    plain = {*range(0x20, 0x7F)} - {ord(character) for character in '"\\?'}
    escapes = {ord('"'): '\\"', ord("\\"): "\\\\"}
    bytes_of = text.encode("utf-8", "replace")
    parts = [chr(byte) if byte in plain else escapes.get(byte, f"\\{byte:03o}") for byte in bytes_of]
    return f'"{"".join(parts)}"'
