"""Budgets as people write them: ``"6 kB"``, ``"0.1x"``, or several, ``"3 kB, 6 kB"``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sgsc_edge.config_text import parse_size

_KILO = 1000


@dataclass(frozen=True)
class Budget:
    """Bytes of weights, scales and biases as the target stores them: absolute, or a ratio of the float size.

    Exactly one of ``bytes`` (> 0) and ``ratio`` (0 < ratio <= 1) is set.
    """

    bytes: int | None = None
    ratio: float | None = None

    def limit(self, float_bytes: int) -> int:
        """The budget in bytes for a model whose float parameters take ``float_bytes``."""
        return self.bytes if self.bytes is not None else int((self.ratio or 0.0) * float_bytes)

    @property
    def label(self) -> str:
        """The shortest way to write it, which is also a folder's name.

        >>> [Budget(bytes=n).label for n in (800, 6000, 6144)], Budget(ratio=0.10).label
        (['800B', '6kB', '6.144kB'], '0.1x')
        """
        if self.bytes is None:
            return f"{self.ratio:.10g}x"
        if self.bytes < _KILO:
            return f"{self.bytes}B"
        whole, rest = divmod(self.bytes, _KILO)
        return f"{whole}.{rest:03d}".rstrip("0").rstrip(".") + "kB"


def parse_budget(value: object) -> Budget:
    """``"6 kB"`` (1 kB = 1000 bytes) or ``"0.1x"`` as a ``Budget``; ``ValueError`` otherwise.

    >>> parse_budget("6 kB"), parse_budget("0.1x")
    (Budget(bytes=6000, ratio=None), Budget(bytes=None, ratio=0.1))
    """
    if isinstance(value, Budget):
        return value
    if not isinstance(value, str):
        raise ValueError(
            f'write a size such as "6 kB", or a ratio of the float size such as "0.1x", not {value!r}'
        )
    if match := re.fullmatch(r"(\d*\.?\d+)[ ]?x", value.strip()):
        ratio = float(match[1])
        if not 0 < ratio <= 1:
            raise ValueError(f"a ratio of the float size lies in (0, 1], not {ratio:g}")
        return Budget(ratio=ratio)
    return Budget(bytes=parse_size(value))


def parse_budgets(value: object) -> tuple[Budget, ...]:
    """One budget or several, in a list or between commas; ``ValueError`` otherwise.

    Of several the message shows all, for an entry that is empty cannot be seen by itself.

    >>> [budget.label for budget in parse_budgets("3kB, 0.1x")], len(parse_budgets(["6 kB"]))
    (['3kB', '0.1x'], 1)
    """
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        parts = [parts]
    if not parts:
        raise ValueError('write a size such as "6 kB", or several: an empty list is no budget')
    try:
        return tuple(parse_budget(part) for part in parts)
    except ValueError as error:
        if len(parts) == 1:
            raise
        raise ValueError(f"{error}, in {value!r}") from None
