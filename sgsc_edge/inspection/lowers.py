"""Can a target run an ONNX model? Which of its nodes lower, which are refused, why, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sgsc_edge.errors import ConfigError, UnsupportedError
from sgsc_edge.inspection.text import printable, table
from sgsc_edge.lowering import Refusal, check, read_onnx
from sgsc_edge.lowering.fold import import_model
from sgsc_edge.targets import Target

_WIDTH = 2000


@dataclass(frozen=True)
class Lowers:
    """What becomes of a model on a target.

    Parameters
    ----------
    ops: the nodes that are left when constants are folded, by op; empty where the whole model is refused.
    """

    path: Path
    target: str
    ops: Mapping[str, int]
    refusals: tuple[Refusal, ...]

    @property
    def is_lowered(self) -> bool:
        """Whether nothing is refused."""
        return not self.refusals

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": str(self.path),
            "target": self.target,
            "lowers": self.is_lowered,
            "ops": dict(self.ops),
            "refusals": [asdict(refusal) for refusal in self.refusals],
        }

    def to_text(self) -> str:
        """A line an op, and two for each refusal."""
        refused = Counter(refusal.node for refusal in self.refusals)
        rows = [(op, str(count)) for op, count in sorted(self.ops.items())]
        lines = [table(("op", "nodes"), rows), ""] if rows else []
        for refusal in self.refusals:
            lines.append(
                f"refused: '{printable(refusal.node)}' ({printable(refusal.op)}): {_line(refusal.reason)}"
            )
            lines.append(f"  -> {_line(refusal.remedy)}")
        nodes = sum(self.ops.values())
        if self.is_lowered:
            lines.append(f"{self.path}: all {nodes} nodes can be lowered for {self.target}")
        else:
            lines += [
                "",
                f"{self.path}: cannot be lowered for {self.target}, {len(refused)} nodes are refused",
            ]
        return "\n".join(lines)


def _line(text: str) -> str:
    return printable(text, _WIDTH)


def lowers(path: Path, target: Target) -> Lowers:
    """Look at an ``.onnx`` as ``lower`` and ``build`` do before they start.

    Raises FileFormatError where it is none, ConfigError for a target that ships the ``.onnx`` itself.
    """
    if not target.is_lowered:
        raise ConfigError(
            f"target '{target.name}' ships an .onnx: nothing is lowered for it",
            where="--target",
            remedy="choose a target that ships a .tflite; see: sgsc-edge targets",
        )
    model = read_onnx(path)
    refusals = tuple(check(model, target))
    try:
        ops = Counter(layer.op for layer in import_model(model).layers)
    except UnsupportedError:  # the whole model is refused
        ops = Counter()
    return Lowers(path, target.name, ops, refusals)
