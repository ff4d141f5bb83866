"""What there is to say of a layer, and how it is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sgsc_edge.inspection.text import printable, table
from sgsc_edge.report.build_folder import PlannedLayer

_SHOWN = 3


@dataclass(frozen=True)
class Channel:
    """A channel that ships.

    Parameters
    ----------
    number: in the float network, from 0.
    token: which one it stands for, where the layer is the table of the tokens and the project names them.
    bits: of its weights, as the target stores them.
    broken: ids of watch samples that are decided rightly with it and wrongly without; of text, those with
        such a next token.
    classes: how many of these decisions are of each class that there are some of, most first, by its name.
    """

    number: int
    bits: int
    broken: tuple[str, ...]
    classes: dict[str, int]
    token: str | None = None


@dataclass(frozen=True)
class Restored:
    """What the controller gave one channel back, at a step, and how far the watch metric had fallen."""

    step: int
    channel: int
    fall: float
    before: float
    after: float


@dataclass(frozen=True)
class Explanation:
    """One layer of a build.

    Parameters
    ----------
    before: output channels that training started with.
    channels: those that ship, the most needed first; ``gone`` the numbers of the others.
    history: (epoch, depth of each channel, 0 where it is gone) for each epoch that changed the layer; epoch 0
        is the model of a larger budget that training went on from.
    plan: bytes, learned depths (least, mean, most) and why the layer is stored as it is; None where the build
        recorded none.
    watched, right: decisions on watch samples, and how many of them the shipped integers have right.
    unit: what one decision is about.
    """

    layer: str
    before: int
    channels: tuple[Channel, ...]
    gone: tuple[int, ...]
    history: tuple[tuple[int, tuple[float, ...]], ...]
    plan: PlannedLayer | None
    restored: tuple[Restored, ...]
    watched: int
    right: int
    unit: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plan = None if self.plan is None else self.plan.model_dump(mode="json")
        restored = [asdict(one) for one in self.restored]
        channels = [asdict(channel) for channel in self.channels]
        watch = {"decisions": self.watched, "right": self.right}
        return {
            "layer": self.layer,
            "channels_before": self.before,
            "channels": channels,
            "gone": list(self.gone),
            "history": [{"epoch": epoch, "depths": list(depths)} for epoch, depths in self.history],
            "plan": plan,
            "restored": restored,
            "watch": watch,
        }

    def to_text(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _left(self) -> dict[int | None, list[tuple[int, float]]]:
        """The channels that are gone, and their depths before, by the epoch in which they left for good.

        0 where the model that training went on from had lost them, None where no epoch is known; a depth of 0
        where none was recorded.
        """
        left: dict[int | None, list[tuple[int, float]]] = {}
        for number in self.gone:
            alive = [index for index, (_, depths) in enumerate(self.history) if depths[number]]
            last = alive[-1] + 1 if alive else 0
            epoch = self.history[last][0] if last < len(self.history) else None
            depth = self.history[alive[-1]][1][number] if alive else 0.0
            left.setdefault(epoch, []).append((number, depth))
        return dict(sorted(left.items(), key=lambda item: (item[0] is None, item[0] or 0)))

    def _lines(self) -> Iterator[str]:
        yield f"layer {self.layer}: {len(self.channels)} of {self.before} channels ship"
        if self.plan is not None:
            least, mean, most = self.plan.depths
            reason = printable(self.plan.reason, 200)
            yield f"{self.plan.bytes:,} bytes ({self.plan.bytes_in_8_bits:,} in 8 bits): {reason}"
            yield f"learned depths: least {least:.2f}, mean {mean:.2f}, most {most:.2f} bits"
        for epoch, left in self._left().items():
            numbers = _ranges([number for number, _ in left])
            yield f"gone{_when(epoch)}: {numbers}{_had(left)}"
        for one in self.restored:
            change = f"channel {one.channel} restored, {one.before:.2f} -> {one.after:.2f} bits"
            yield f"step {one.step}, watch {one.fall:.4g} below float: {change}"
        if not self.channels:
            yield "the layer left whole: what it computed is a constant in the layers behind it"
            return
        yield f"watch: {self.watched} {self.unit}s, {self.right} decided rightly"
        yield ""
        yield table(
            ("channel", "bits", "break without it", "classes", "samples"),
            [_row(one) for one in self.channels],
            text=("classes", "samples"),
        )
        if any(one.broken for one in self.channels):
            cut = any(len(part) > _SHOWN for one in self.channels for part in (one.broken, one.classes))
            more = "; --json lists all of them and all classes" if cut else ""
            yield ""
            yield f"samples are called by the hash of their content, as in preservation.json{more}"
            yield "report.html shows those that the compressed model decides otherwise than float"
        free = sum(not one.broken for one in self.channels)
        if free:
            yield ""
            noun = "channel breaks" if free == 1 else "channels break"
            yield f"{free} {noun} no watch sample alone; without several at once samples may break"


def _when(epoch: int | None) -> str:
    """Behind "gone".

    >>> _when(3), _when(0), _when(None)
    (' in epoch 3', ' before, in the model of a larger budget that training went on from', '')
    """
    if epoch is None:
        return ""
    return (
        f" in epoch {epoch}"
        if epoch
        else " before, in the model of a larger budget that training went on from"
    )


def _had(left: Sequence[tuple[int, float]]) -> str:
    """The depths that channels had when they left, where they were recorded.

    >>> _had([(0, 2.31), (4, 1.5)]), _had([(1, 8.0)]), _had([(1, 0.0)])
    (' (had 1.5 to 2.3 bits)', ' (had 8.0 bits)', '')
    """
    depths = [depth for _, depth in left if depth]
    if not depths:
        return ""
    least, most = f"{min(depths):.1f}", f"{max(depths):.1f}"
    return f" (had {least} bits)" if least == most else f" (had {least} to {most} bits)"


def _row(channel: Channel) -> tuple[str, ...]:
    classes = [f"{name}: {count}" for name, count in channel.classes.items()]
    return (
        str(channel.number) if channel.token is None else f"{channel.number} ({channel.token})",
        str(channel.bits),
        str(len(channel.broken)),
        _first(classes, ", "),
        _first(channel.broken, " "),
    )


def _first(parts: Sequence[str], separator: str) -> str:
    return separator.join(parts[:_SHOWN]) + (f"{separator}..." if len(parts) > _SHOWN else "")


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, neighbours together.

    >>> _ranges([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7-8'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


@dataclass(frozen=True)
class LayerRow:
    """A layer that can be explained; output channels that ship, and that training started with."""

    layer: str
    channels: int
    before: int


@dataclass(frozen=True)
class Layers:
    """The layers of a build, in order of execution."""

    rows: tuple[LayerRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = [{"layer": r.layer, "channels": r.channels, "channels_before": r.before} for r in self.rows]
        return {"layers": rows}

    def to_text(self) -> str:
        """For people."""
        rows = [(row.layer, f"{row.channels:,}", f"{row.before:,}") for row in self.rows]
        named = table(("layer", "channels", "of"), rows, text=("layer",))
        return f"{named}\n\nwhat became of one: sgsc-edge explain FOLDER LAYER"
