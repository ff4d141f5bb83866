"""Reads a build, and asks ONNX Runtime what each channel is needed for."""

from __future__ import annotations

import collections
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.certification.samples import SampleSet
from sgsc_edge.errors import FileFormatError, InputError
from sgsc_edge.explanation.answer import Channel, Explanation, LayerRow, Layers, Restored
from sgsc_edge.explanation.shipped_layer import (
    known_layers,
    layer_parts,
    numbers_of,
    shipped_weight,
    stored_layer,
    tokens_of,
    widths_of,
)
from sgsc_edge.explanation.without import decider, progress, without
from sgsc_edge.lowering.read_onnx import read_onnx
from sgsc_edge.report.build_folder import (
    CHANNEL_HISTORY,
    PACKED,
    Action,
    BuildFolder,
    ChannelRow,
    read_build,
)
from sgsc_edge.runtimes import MODEL_ONNX

WATCH = "watch"


def layers(folder: Path) -> Layers:
    """What :func:`explain` can be asked about; FileFormatError where the folder is no build's."""
    build = _compressed(folder)
    shipped = {one.name: len(one.bits) for one in build.layers}
    before = {one.name: one.channels for one in build.whole_layers}
    return Layers(tuple(LayerRow(name, shipped.get(name, 0), before[name]) for name in known_layers(build)))


def explain(folder: Path, layer: str) -> Explanation:
    """Explain a layer of the build in ``folder``; a run of ONNX Runtime for each channel that ships.

    Raises
    ------
    InputError: the build has no such layer.
    FileFormatError: no build folder, or files that are malformed or were edited.
    NotMeasuredError: ONNX Runtime did not run.
    """
    build = _compressed(folder)
    stored = stored_layer(build, layer)
    model = read_onnx(folder / MODEL_ONNX)
    parts = layer_parts(model, layer)
    numbers = [number for part in parts for number in numbers_of(model, part, stored)]
    tokens = tokens_of(model, layer, build, len(stored.weight))
    before = len(stored.weight)
    samples = build.sets[WATCH]
    packed = build.manifest.code.get("weights") == PACKED
    with tempfile.TemporaryDirectory(prefix="sgsc-edge-") as scratch:
        decide = decider(Path(scratch), samples)
        labels = samples.labels[samples.labelled]
        right = decide(model) == labels
        broken = [
            right & (decide(without(model, part, row)) != labels)
            for part in parts
            for row in progress(layer, part, len(shipped_weight(model, part)))
        ]
    bits = [width for part in parts for width in widths_of(model, part, packed=packed)]
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


def _compressed(folder: Path) -> BuildFolder:
    build = read_build(folder)
    if build.is_converted:
        raise InputError(
            "holds a model that was lowered as it was: no compression took channels from it",
            where=str(folder),
            remedy="explain a folder of `sgsc-edge build`",
        )
    return build


def _owners(samples: SampleSet, decisions: NDArray[np.bool_]) -> tuple[str, ...]:
    """Ids of the samples that have one of the chosen labelled decisions [m]."""
    owners = np.unique(np.nonzero(samples.labelled)[0][decisions])
    return tuple(samples.ids[owners].tolist())


def _classes(build: BuildFolder, labels: NDArray[np.int64]) -> dict[str, int]:
    counted = collections.Counter(build.stated.class_name(label) for label in labels.tolist())
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


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
