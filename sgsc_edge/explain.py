"""Why a layer is as it is: what became of its channels, and which watch samples break without each.

All from the files of a build. Without a channel means that its weights and its bias are 0, in the integers
that ship; ONNX Runtime then computes the watch samples, which compression looked at and never trained on.
"""

from __future__ import annotations

import collections
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.numpy
from numpy.typing import NDArray
from onnx import numpy_helper

from sgsc_edge.artifacts import read_bytes
from sgsc_edge.certification.metrics import decisions
from sgsc_edge.certification.samples import SampleSet
from sgsc_edge.certification.stored import check_stored, nonzero_kernels
from sgsc_edge.certification.verify import DEFAULT_TIMEOUT_S
from sgsc_edge.errors import FileFormatError, InputError, NotMeasuredError
from sgsc_edge.graph.read_tflite import MAX_FILE_BYTES
from sgsc_edge.hints import nearest
from sgsc_edge.inspection.channels import CHANNELS, stated_layers
from sgsc_edge.inspection.text import printable, table
from sgsc_edge.lowering.read_onnx import read_onnx
from sgsc_edge.numerics import filter_widths
from sgsc_edge.report.build_folder import (
    CHANNEL_HISTORY,
    COMPRESSED,
    PACKED,
    Action,
    BuildFolder,
    ChannelRow,
    PlannedLayer,
    common_name,
    read_build,
)
from sgsc_edge.runtimes import MODEL_ONNX, run_runtime
from sgsc_edge.size import NARROW_BITS, WIDE_BITS

log = logging.getLogger("sgsc_edge")

RUNTIME = "onnxruntime"
WATCH = "watch"
_SHOWN = 3
_FEW = 10
_TELL_EVERY_S = 5.0


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
    history: (epoch, depth of each channel, 0 where it is gone) for each epoch that changed the layer.
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

    def _left(self) -> dict[int | None, list[int]]:
        """The channels that are gone, by the epoch in which they left for the last time, if that is known."""
        left: dict[int | None, list[int]] = {}
        for number in self.gone:
            alive = [index for index, (_, depths) in enumerate(self.history) if depths[number]]
            last = alive[-1] + 1 if alive else 0
            epoch = self.history[last][0] if last < len(self.history) else None
            left.setdefault(epoch, []).append(number)
        return dict(sorted(left.items(), key=lambda item: (item[0] is None, item[0] or 0)))

    def _lines(self) -> Iterator[str]:
        yield f"layer {self.layer}: {len(self.channels)} of {self.before} channels ship"
        if self.plan is not None:
            least, mean, most = self.plan.depths
            reason = printable(self.plan.reason, 200)
            yield f"{self.plan.bytes:,} bytes ({self.plan.bytes_in_8_bits:,} in 8 bits): {reason}"
            yield f"learned depths: least {least:.2f}, mean {mean:.2f}, most {most:.2f} bits"
        for epoch, numbers in self._left().items():
            yield f"gone{'' if epoch is None else f' in epoch {epoch}'}: {_ranges(numbers)}"
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


def layers(folder: Path) -> Layers:
    """What :func:`explain` can be asked about; FileFormatError where the folder is no build's."""
    build = read_build(folder)
    shipped = {one.name: len(one.bits) for one in build.layers}
    before = {one.name: one.channels for one in build.whole_layers}
    return Layers(tuple(LayerRow(name, shipped.get(name, 0), before[name]) for name in _known(build)))


def explain(folder: Path, layer: str) -> Explanation:
    """Explain a layer of the build in ``folder``; a run of ONNX Runtime for each channel that ships.

    Raises
    ------
    InputError: the build has no such layer.
    FileFormatError: no build folder, or files that are malformed or were edited.
    NotMeasuredError: ONNX Runtime did not run.
    """
    build = read_build(folder)
    stored = _stored(build, layer)
    model = read_onnx(folder / MODEL_ONNX)
    parts = _parts(model, layer)
    numbers = [number for part in parts for number in _numbers(model, part, stored)]
    tokens = _tokens(model, layer, build, len(stored.weight))
    before = len(stored.weight)
    samples = build.sets[WATCH]
    packed = build.manifest.code.get("weights") == PACKED
    with tempfile.TemporaryDirectory(prefix="sgsc-edge-") as scratch:
        decide = _decider(Path(scratch), samples)
        labels = samples.labels[samples.labelled]
        right = decide(model) == labels
        broken = [
            right & (decide(_without(model, part, row)) != labels)
            for part in parts
            for row in _progress(layer, part, len(_weight(model, part)))
        ]
    bits = [width for part in parts for width in _bits(model, part, packed=packed)]
    channels = [
        Channel(number, width, _owners(samples, wrong), _classes(build, labels[wrong]), tokens.get(number))
        for number, width, wrong in zip(numbers, bits, broken, strict=True)
    ]
    return Explanation(
        layer=layer,
        before=before,
        channels=tuple(sorted(channels, key=lambda one: (-len(one.broken), one.number))),
        gone=tuple(number for number in range(before) if number not in set(numbers)),
        history=_history(build.channels, layer, before),
        plan=next((row for row in build.plan.layers if row.name == layer), None) if build.plan else None,
        restored=tuple(_restored(build.actions, layer)),
        watched=len(labels),
        right=int(right.sum()),
        unit=build.unit,
    )


def _owners(samples: SampleSet, decisions: NDArray[np.bool_]) -> tuple[str, ...]:
    """Ids of the samples that have one of the chosen labelled decisions [m]."""
    owners = np.unique(np.nonzero(samples.labelled)[0][decisions])
    return tuple(samples.ids[owners].tolist())


def _classes(build: BuildFolder, labels: NDArray[np.int64]) -> dict[str, int]:
    counted = collections.Counter(build.stated.class_name(label) for label in labels.tolist())
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


# --- the layer as it was trained, and as it ships -------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Stored:
    """``weight`` int8 [O, ...] and ``scale`` float32 [O] of every channel, also of those that left."""

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]


def _stored(build: BuildFolder, layer: str) -> _Stored:
    known = _known(build)
    if layer not in known:
        raise InputError(
            f"the build has no layer '{layer}'{_meant(layer, known)}",
            where=str(build.path),
            remedy=_list_of(known, build.path) if known else f"build again: there is no {COMPRESSED}",
        )
    check_stored(build.path / COMPRESSED, build.path / MODEL_ONNX)  # both have the parts of every layer
    tensors = safetensors.numpy.load(read_bytes(build.path / COMPRESSED, MAX_FILE_BYTES))
    return _Stored(tensors[f"{layer}.weight"], tensors[f"{layer}.scale"])


def _known(build: BuildFolder) -> list[str]:
    """The layers that have channels, in order of execution."""
    shipped = [one.name for one in build.layers]
    names = (one.name for one in build.whole_layers if one.kind != "norm")
    return sorted(names, key=lambda name: _place(name, shipped))


def _meant(layer: str, known: Sequence[str]) -> str:
    """A guess: the layers inside a module of that name, else the nearest name.

    >>> _meant("blocks.0", ["tokens", "blocks.0.query", "blocks.0.key", "blocks.1.key"])
    '; inside it are blocks.0.query, blocks.0.key'
    """
    inside = [name for name in known if name.startswith(f"{layer}.")]
    return f"; inside it are {', '.join(inside)}" if inside else nearest(layer, known)


def _list_of(known: Sequence[str], folder: Path) -> str:
    """How to find a layer: few are named."""
    if len(known) <= _FEW:
        return f"give one of {', '.join(known)}"
    return f"see the build's {len(known)} layers: sgsc-edge explain {folder}"


def _tokens(model: onnx.ModelProto, layer: str, build: BuildFolder, rows: int) -> dict[int, str]:
    """What the rows of the table of the tokens stand for; empty for other layers, and without names."""
    (taken, *_) = model.graph.input
    weights = {node.output[0] for node in model.graph.node if f"{layer}.weight_quantized" in node.input}
    reads = any(
        node.op_type == "Gather" and node.input[0] in weights and node.input[1] == taken.name
        for node in model.graph.node
    )
    named = build.stated.classes or ()
    return dict(enumerate(named)) if reads and len(named) == rows else {}


def _place(name: str, shipped: Sequence[str]) -> int:
    """Where a layer stands in order of execution; what the model file does not name comes last."""
    return shipped.index(name) if name in shipped else len(shipped)


def _parts(model: onnx.ModelProto, layer: str) -> list[str]:
    """The layers that ship of one: itself, one for each of its widths, or none."""
    entries = {entry.key: entry.value for entry in model.metadata_props}
    stated = stated_layers(entries.get(f"sgsc.{CHANNELS}", "").encode())
    parts = next((parts for parts, _ in stated if common_name(parts) == layer), [])
    # An embedding keeps its rows, and is stated nowhere.
    kept = any(tensor.name == f"{layer}.weight_quantized" for tensor in model.graph.initializer)
    return parts or ([layer] if kept else [])


def _numbers(model: onnx.ModelProto, part: str, stored: _Stored) -> list[int]:
    """Which channels of the stored layer those of a part are: they keep their order."""
    weights = _weight(model, part).astype(np.int8)
    scales = _constant(model, f"{part}.scale").reshape(-1)
    scales = np.broadcast_to(scales, (len(weights),))
    found: list[int] = []
    for weight, scale in zip(weights, scales, strict=True):
        first = found[-1] + 1 if found else 0
        number = next(
            (
                row
                for row in range(first, len(stored.weight))
                if stored.scale[row] == scale
                and nonzero_kernels(weight) <= nonzero_kernels(stored.weight[row])
            ),
            None,
        )
        if number is None:
            raise FileFormatError(
                f"channels of '{part}' are not found in {COMPRESSED}",
                where=MODEL_ONNX,
                remedy="build again",
            )
        found.append(number)
    return found


def _weight(model: onnx.ModelProto, part: str) -> NDArray[Any]:
    return _constant(model, f"{part}.weight_quantized")


def _constant(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    return numpy_helper.to_array(_tensor(model, name))


def _tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found: onnx.TensorProto
    for found in model.graph.initializer:
        if found.name == name:
            return found
    raise FileFormatError(f"has no '{name}', as a build writes it", where=MODEL_ONNX, remedy="build again")


def _bits(model: onnx.ModelProto, part: str, *, packed: bool) -> list[int]:
    weights = _weight(model, part)
    if packed:
        return [int(width) for width in filter_widths(weights.astype(np.int8))]
    narrow = _tensor(model, f"{part}.weight_quantized").data_type == onnx.TensorProto.INT4
    return [NARROW_BITS if narrow else WIDE_BITS] * len(weights)


def _history(
    rows: Sequence[ChannelRow], layer: str, channels: int
) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """The rows in which the layer is another than before."""
    found: list[tuple[int, tuple[float, ...]]] = []
    for row in rows:
        depths = row.layers.get(layer, ())
        if len(depths) != channels:
            raise FileFormatError(
                f"has {len(depths)} depths for the {channels} channels of '{layer}'",
                where=CHANNEL_HISTORY,
                remedy="build again",
            )
        if not found or found[-1][1] != depths:
            found.append((row.epoch, depths))
    return tuple(found)


def _restored(actions: Sequence[Action], layer: str) -> Iterator[Restored]:
    for action in actions:
        for row in action.restored:
            if row.layer == layer:
                yield Restored(action.step, row.channel, action.fall, row.before, row.after)


# --- without a channel ----------------------------------------------------------------------------


def _without(model: onnx.ModelProto, part: str, row: int) -> onnx.ModelProto:
    """A copy in which a channel's weights and bias are 0."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    for name in (f"{part}.weight_quantized", f"{part}.bias_quantized"):
        if name.endswith(".bias_quantized") and name not in stored:
            continue  # an embedding has none
        tensor = _tensor(changed, name)
        values = np.array(numpy_helper.to_array(tensor))
        if not values.ndim or len(values) <= row:
            raise FileFormatError(f"'{name}' has no channel {row}", where=MODEL_ONNX, remedy="build again")
        values[row] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    return changed


def _decider(scratch: Path, samples: SampleSet) -> Callable[[onnx.ModelProto], NDArray[np.int64]]:
    """Runs a model over the samples; gives labelled decisions, int64 [m]: of equal outputs the lower one."""

    def decide(model: onnx.ModelProto) -> NDArray[np.int64]:
        path = scratch / MODEL_ONNX
        path.write_bytes(model.SerializeToString())
        result = run_runtime(RUNTIME, path, samples.inputs, timeout_s=DEFAULT_TIMEOUT_S)
        if result.outputs is None:
            raise NotMeasuredError(f"{RUNTIME}: {result.reason}", where=MODEL_ONNX)
        return decisions(result.outputs[samples.labelled])

    return decide


def _progress(layer: str, part: str, rows: int) -> Iterator[int]:
    """The rows of a part; every few seconds a line says how far it is, and how long it will take."""
    began = told = time.monotonic()
    for row in range(rows):
        now = time.monotonic()
        if row and now - told > _TELL_EVERY_S:
            told = now
            of = "" if part == layer else f" of {part}"
            left = (now - began) / row * (rows - row)
            log.info("explain %s: %d of %d channels%s done, about %.0f s left", layer, row, rows, of, left)
        yield row
