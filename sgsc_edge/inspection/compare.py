"""Two model files side by side: tensors by name, bytes, and what differs.

Names are compared as they are, then without what QuantizeLinear and DequantizeLinear add to them
(``_quantized``, ``_dequantized``), so that a ``.tflite`` meets the ``.onnx`` that it was made of. Where no
constant of one file has its name in the other (files without names), constants are paired in their order,
weights with weights and biases with biases.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sgsc_edge.inspection.summary import Inspection, TensorSummary
from sgsc_edge.inspection.text import plain_name, printable, table


@dataclass(frozen=True)
class Pair:
    """A tensor of the first file and its like in the second; one of them is None where it has none.

    Differences are of bytes, second minus first; what is not there has none.
    """

    name: str
    first: TensorSummary | None
    second: TensorSummary | None
    payload_difference: int
    metadata_difference: int

    @staticmethod
    def of(first: TensorSummary | None, second: TensorSummary | None) -> Pair:
        """The pair, called as in the first file that has it."""
        named = first or second
        assert named is not None
        return Pair(
            named.name,
            first,
            second,
            (second.payload_bytes if second else 0) - (first.payload_bytes if first else 0),
            (second.metadata_bytes if second else 0) - (first.metadata_bytes if first else 0),
        )

    @property
    def channels_removed(self) -> int | None:
        """Output channels of a layer's weights that the second file lacks; None where unknown."""
        channels = [None if side is None else side.channels for side in (self.first, self.second)]
        return None if channels[0] is None or channels[1] is None else channels[0] - channels[1]


@dataclass(frozen=True)
class Total:
    """Bytes of one use (named as in ``Totals``) in both files."""

    name: str
    first: int
    second: int
    difference: int


@dataclass(frozen=True)
class Comparison:
    """Two inspections, their tensors in pairs, and their bytes by use."""

    first: Inspection
    second: Inspection
    tensors: tuple[Pair, ...]
    totals: tuple[Total, ...]

    def to_json(self) -> dict[str, Any]:
        """Both inspections and the differences, as a JSON-ready document."""
        document = {
            "models": [self.first.to_json(), self.second.to_json()],
            "tensors": [{**asdict(pair), "channels_removed": pair.channels_removed} for pair in self.tensors],
            "totals": [asdict(total) for total in self.totals],
        }
        copied: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))
        return copied

    def to_text(self) -> str:
        """Tables for a terminal; ``a`` is the first file and ``b`` the second."""
        files = [
            f"{letter}  {printable(side.file, 4096)}: {side.version}, {side.totals.file_bytes:,} bytes"
            for letter, side in (("a", self.first), ("b", self.second))
        ]
        totals: list[tuple[str, ...]] = [
            (f"{each.first:,}", f"{each.second:,}", _signed(each.difference), each.name.replace("_", " "))
            for each in self.totals
        ]
        header = ("tensor", "dtype", "shape", "bytes a", "bytes b", "diff", "metadata", *_CHANNELS)
        sections = [
            "\n".join(files),
            table(("bytes a", "bytes b", "diff", "what"), totals),
            table(header, [_row(pair) for pair in self.tensors]),
        ]
        return "\n\n".join(sections) + "\n"


def compare(first: Inspection, second: Inspection) -> Comparison:
    """Two models side by side."""
    pairs = _pairs(first.tensors, second.tensors)
    left, right = asdict(first.totals), asdict(second.totals)
    totals = (Total(name.removesuffix("_bytes"), a, right[name], right[name] - a) for name, a in left.items())
    return Comparison(first, second, tuple(pairs), tuple(totals))


def _pairs(first: Sequence[TensorSummary], second: Sequence[TensorSummary]) -> list[Pair]:
    """Every tensor of both once, in the first file's order, then what only the second has."""
    partner: dict[int, int] = {}
    _match(first, second, partner, lambda tensor: tensor.name)
    _match(first, second, partner, lambda tensor: plain_name(tensor.name))
    if not any(first[i].share is not None and second[j].share is not None for i, j in partner.items()):
        partner.clear()
        for share in ("weights", "bias", "other"):
            sides = [[i for i, t in enumerate(side) if t.share == share] for side in (first, second)]
            partner.update(zip(*sides, strict=False))
        for kind in ("input", "output"):
            sides = [[i for i, t in enumerate(side) if t.kind == kind] for side in (first, second)]
            partner.update(zip(*sides, strict=False))
    taken = set(partner.values())
    both = [Pair.of(tensor, second[partner[i]] if i in partner else None) for i, tensor in enumerate(first)]
    return both + [Pair.of(None, tensor) for j, tensor in enumerate(second) if j not in taken]


def _match(
    first: Sequence[TensorSummary],
    second: Sequence[TensorSummary],
    partner: dict[int, int],
    key: Callable[[TensorSummary], Hashable],
) -> None:
    """Pair what is still alone and has the same key; of several, the first ones."""
    taken = set(partner.values())
    free: dict[Hashable, list[int]] = {}
    for j in reversed([j for j in range(len(second)) if j not in taken]):
        free.setdefault(key(second[j]), []).append(j)
    for i, tensor in enumerate(first):
        if i not in partner and (candidates := free.get(key(tensor))):
            partner[i] = candidates.pop()


# --- text -----------------------------------------------------------------------------------------

#: Output channels of the first file that the second lacks, and what each lost when it was built.
_CHANNELS = ("channels b lacks", "removed a", "removed b")


def _row(pair: Pair) -> tuple[str, ...]:
    first, second = pair.first, pair.second
    removed = pair.channels_removed
    return (
        pair.name,
        _both(*(side.dtype if side else None for side in (first, second))),
        _both(*(_shape(side) if side else None for side in (first, second))),
        f"{first.payload_bytes:,}" if first and first.payload_bytes else "",
        f"{second.payload_bytes:,}" if second and second.payload_bytes else "",
        _signed(pair.payload_difference) if pair.payload_difference else "",
        _signed(pair.metadata_difference) if pair.metadata_difference else "",
        _lacking(removed, first.channels) if removed and first else "",
        first.removed if first else "",
        second.removed if second else "",
    )


def _lacking(removed: int, channels: int | None) -> str:
    return f"{removed} of {channels}" if removed > 0 else f"has {-removed} more"


def _both(first: str | None, second: str | None) -> str:
    """One text where both are equal, else both; a dash for what is not there."""
    return first if first is not None and first == second else f"{first or '-'} | {second or '-'}"


def _shape(tensor: TensorSummary) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"


def _signed(number: int) -> str:
    return f"{number:+,}" if number else "0"
