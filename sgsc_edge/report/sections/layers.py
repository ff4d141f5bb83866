"""What training made of each layer: channels that stay, and the bits of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sgsc_edge.report.build_folder import BuildFolder, Layer, PlannedLayer
from sgsc_edge.report.charts import Strip, strip
from sgsc_edge.report.text import percent
from sgsc_edge.size import WIDE_BITS


@dataclass(frozen=True)
class LayerRow:
    """One layer. ``depth``: least, mean and largest learned depth in words; empty where none was learned."""

    name: str
    kept: int
    before: int
    bits: str
    depth: str
    nbytes: int | None
    in_8_bits: int | None
    reason: str
    strip: Strip


@dataclass(frozen=True)
class WidthRow:
    """How many channels have one width; ``share`` of all of them."""

    name: str
    channels: int
    share: float
    percent: str


@dataclass(frozen=True)
class LayersView:
    """All layers. ``removed`` of ``channels`` are gone."""

    rows: tuple[LayerRow, ...]
    widths: tuple[WidthRow, ...]
    channels: int
    removed: int


def layers_view(build: BuildFolder) -> LayersView | None:
    """From the models and ``plan.json``; None where no layer has weights."""
    if not build.layers:
        return None
    planned = {layer.name: layer for layer in build.plan.layers} if build.plan else {}
    counts = Counter(bits for layer in build.layers for bits in _with_removed(layer))
    channels = sum(counts.values())
    return LayersView(
        rows=tuple(_row(layer, planned.get(layer.name)) for layer in build.layers),
        widths=tuple(
            WidthRow(
                f"{bits} bits" if bits else "removed",
                counts[bits],
                counts[bits] / channels,
                percent(counts[bits] / channels, 1),
            )
            for bits in sorted(counts, reverse=True)
        ),
        channels=channels,
        removed=counts[0],
    )


def _row(layer: Layer, planned: PlannedLayer | None) -> LayerRow:
    if not layer.bits:
        drawn = strip(_with_removed(layer))
        return LayerRow(layer.name, 0, layer.removed, "–", "", 0, 0, "left whole, with a dead branch", drawn)
    least, most = min(layer.bits), max(layer.bits)
    depth = ""
    if planned is not None and planned.depths[0] < WIDE_BITS:
        low, mean, high = planned.depths
        depth = f"{mean:.1f}" if low == high else f"{mean:.1f} ({low:.1f} to {high:.1f})"
    return LayerRow(
        name=layer.name,
        kept=len(layer.bits),
        before=len(layer.bits) + layer.removed,
        bits=str(most) if least == most else f"{least} to {most}",
        depth=depth,
        nbytes=planned.bytes if planned else None,
        in_8_bits=planned.bytes_in_8_bits if planned else None,
        reason=planned.reason if planned else "",
        strip=strip(_with_removed(layer)),
    )


def _with_removed(layer: Layer) -> tuple[int, ...]:
    """Bits of every channel, 0 of those that were removed."""
    return layer.bits + (0,) * layer.removed
