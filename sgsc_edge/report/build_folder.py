"""What a report is made from: the files of one build folder, read strictly and typed.

``manifest.json`` and ``certificate.json`` must fit the files; a file that a build need not have (of another
kind of build, or made by hand) may be absent. Nothing is run, and nothing needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import safetensors.numpy
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sgsc_edge.artifacts import (
    MANIFEST_NAME,
    MAX_JSON_BYTES,
    Manifest,
    check_manifest,
    read_bytes,
    read_json,
    read_npz,
)
from sgsc_edge.certification import Certificate, SampleSet
from sgsc_edge.certification.boards import BoardStatement, read_board_certificate
from sgsc_edge.certification.certificate import CERTIFICATE_NAME
from sgsc_edge.certification.certify import COMPRESSED as COMPRESSED_MODEL
from sgsc_edge.certification.metrics import METRICS
from sgsc_edge.certification.records import Measurement
from sgsc_edge.certification.samples import CERTIFY, read_samples
from sgsc_edge.certification.shipped import output_grid, shipped_model
from sgsc_edge.certification.verify import PRESERVATION_NAME, REQUIRED_SUBJECTS, read_certified
from sgsc_edge.errors import FileFormatError
from sgsc_edge.graph.ir import Graph
from sgsc_edge.graph.read_tflite import MAX_FILE_BYTES, read_tflite
from sgsc_edge.inspection import Inspection, inspect_model
from sgsc_edge.inspection.channels import CHANNELS, stated_layers
from sgsc_edge.inspection.summary import TensorSummary
from sgsc_edge.inspection.text import plain_name
from sgsc_edge.lowering.read_onnx import read_onnx
from sgsc_edge.preservation.selection import Selection, read_selection
from sgsc_edge.project.schema import InputSection
from sgsc_edge.runtimes import MODEL_ONNX, MODEL_TFLITE

HISTORY, CONTROL_HISTORY, ACTIONS = "history.jsonl", "control.jsonl", "controller.jsonl"
CHANNEL_HISTORY = "channels.jsonl"
PLAN, COMPRESSED, SELECTION = "plan.json", "compressed.safetensors", "preservation.json"
PACKED = "learned"
"""What the manifest says of weights that C code packs, each channel at its own width."""

_PREFIX = "sgsc."
_HUGE = 1e30
_ACCURACY = "accuracy"
"""How the names of a history's columns of accuracies end."""
_MAX_REMOVED = 1 << 16
"""Channels that one layer may have lost; more are no figure of a build."""

Row = Mapping[str, float]
_T = TypeVar("_T")


class _File(BaseModel):
    """A part of a file: strict, finite numbers; what a report does not show may be there, too."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


_Bytes = Annotated[int, Field(ge=0, le=1 << 50)]
_Depth = Annotated[float, Field(ge=0, le=64)]


class PlannedLayer(_File):
    """What became of one layer: bytes, learned depths (least, mean, most), and the reason."""

    name: str
    depths: Annotated[tuple[_Depth, _Depth, _Depth], Field(strict=False)]
    bytes: _Bytes
    bytes_in_8_bits: _Bytes
    reason: str


class PlanFile(_File):
    """``plan.json``; ``float_bytes``: of the float model's parameters, where the build recorded them."""

    layers: Annotated[tuple[PlannedLayer, ...], Field(strict=False)]
    float_bytes: Annotated[_Bytes, Field(gt=0)] | None = None


class RestoredChannel(_File):
    """A channel that the controller gave bits back, and how many it had before and after."""

    layer: str
    channel: int
    before: float
    after: float


class Action(_File):
    """One action of the controller: when, what the watch set said, and who got bits back."""

    step: int
    metric: float
    fall: float
    restored: Annotated[tuple[RestoredChannel, ...], Field(strict=False)]


class ChannelRow(_File):
    """The depth of every channel by layer after an epoch that changed some; 0 for one that is gone.

    Epoch 0 is the model that training went on from, of a larger budget.
    """

    epoch: Annotated[int, Field(ge=0)]
    layers: dict[str, Annotated[tuple[_Depth, ...], Field(strict=False)]]


@dataclass(frozen=True)
class Layer:
    """One layer: the bits of each output channel that ships, falling, and how many channels it lost.

    One that left whole has no bits.
    """

    name: str
    bits: tuple[int, ...]
    removed: int


@dataclass(frozen=True)
class WholeLayer:
    """One layer as it was trained, with every channel: numbers of its weights and output channels.

    A ``table`` (embedding) has no bias; a ``norm`` has a gain and a bias for each channel, each with one
    scale.
    """

    name: str
    weights: int
    channels: int
    kind: Literal["layer", "table", "norm"]


@dataclass(frozen=True)
class Stated:
    """What the project says of itself; None where the model file does not hold it."""

    project: str | None
    version: str | None
    classes: tuple[str, ...] | None
    input: InputSection | None

    def class_name(self, number: int) -> str:
        """The name of a class, or its number."""
        return self.classes[number] if self.classes else str(number)


@dataclass(frozen=True)
class LeftOut:
    """A board's certificate that is not shown, and why."""

    file: str
    reason: str


@dataclass(frozen=True, eq=False)
class BuildFolder:
    """One certified build.

    Parameters
    ----------
    sets: the recorded samples by part.
    graph: of ``model.tflite``; None where the build ships its ``.onnx``.
    inspection: of the file that ships, ``model``.
    input_grid: scale and zero point of the samples' integers; None where they are tokens.
    layers, whole_layers: what ships, in order of execution, then what left whole; what training started with.
    history, control_history: a row an epoch; None where the folder does not hold the history.
    channels: a row for each epoch that changed a channel's depth; none where nothing was learned.
    boards: whose certificates are about this build; ``left_out`` those that are not, or are malformed.
    """

    path: Path
    manifest: Manifest
    certificate: Certificate
    sets: Mapping[str, SampleSet]
    stated: Stated
    model: str
    graph: Graph | None
    inspection: Inspection
    input_grid: tuple[float, int] | None
    layers: tuple[Layer, ...]
    whole_layers: tuple[WholeLayer, ...]
    plan: PlanFile | None
    history: tuple[Row, ...] | None
    control_history: tuple[Row, ...]
    actions: tuple[Action, ...]
    channels: tuple[ChannelRow, ...]
    selection: Selection | None
    boards: tuple[BoardStatement, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def classes(self) -> int:
        """How many classes the model tells apart."""
        return int(next(iter(self.sets.values())).float_logits.shape[-1])

    @property
    def is_converted(self) -> bool:
        """Whether no compression made the model: ``lower`` did, of one that was given."""
        return COMPRESSED not in self.manifest.files

    @property
    def is_text(self) -> bool:
        """Whether the samples are sequences of tokens."""
        return next(iter(self.sets.values())).is_text

    @property
    def unit(self) -> str:
        """What one decision is about."""
        return "next token" if self.is_text else "sample"


def read_build(folder: Path) -> BuildFolder:
    """Read a build folder; FileFormatError naming the file that is missing, malformed or edited."""
    check_is_build(folder)
    manifest = check_manifest(folder, required=REQUIRED_SUBJECTS)
    certificate = read_certified(folder)
    path = folder / PRESERVATION_NAME
    sets = read_samples(read_npz(path), where=str(path))
    model = folder / shipped_model(manifest.files)
    listed = manifest.files.keys()

    def rows(name: str, kind: type[_T]) -> tuple[_T, ...]:
        return _rows(folder / name, kind) if name in listed else ()

    plan = _plan(folder / PLAN) if PLAN in listed else None
    boards, left_out = _boards(folder, certificate)
    stored = read_onnx(folder / MODEL_ONNX).metadata_props
    entries = {entry.key.removeprefix(_PREFIX): entry.value for entry in stored}
    packed = manifest.code.get("weights") == PACKED
    whole = _whole(folder / COMPRESSED) if COMPRESSED in listed else ()
    channels = entries.get(CHANNELS, "")
    shipped = _layers(folder / MODEL_ONNX, channels, packed=packed)
    output_grid(model, sets)  # refuses a model that takes other samples than these
    _check_complete(certificate, sets, folder / CERTIFICATE_NAME)
    graph, inspection = None, inspect_model(model)
    if model.name == MODEL_TFLITE:
        graph = read_tflite(read_bytes(model, MAX_FILE_BYTES), where=str(model))
    return BuildFolder(
        path=folder,
        manifest=manifest,
        certificate=certificate,
        sets=sets,
        stated=_stated(entries, next(iter(sets.values())).float_logits.shape[-1]),
        model=model.name,
        graph=graph,
        inspection=inspection,
        input_grid=_input_grid(graph, inspection),
        layers=shipped + _gone(whole, channels, {layer.name for layer in shipped}),
        whole_layers=whole,
        plan=plan,
        history=rows(HISTORY, dict[str, float]) if HISTORY in listed else None,
        control_history=rows(CONTROL_HISTORY, dict[str, float]),
        actions=rows(ACTIONS, Action),
        channels=rows(CHANNEL_HISTORY, ChannelRow),
        selection=read_selection(folder / SELECTION) if SELECTION in listed else None,
        boards=boards,
        left_out=left_out,
    )


def _input_grid(graph: Graph | None, inspection: Inspection) -> tuple[float, int] | None:
    """What the integers of the samples stand for."""
    if graph is not None:
        stored = graph[graph.inputs[0]].quantization
        return None if stored is None else (float(stored.scale[0]), int(stored.zero_point[0]))
    stated = next(tensor for tensor in inspection.tensors if tensor.kind == "input").quantization
    return None if stated is None else (stated.scale_min, stated.zero_point_min)


def check_is_build(folder: Path) -> None:
    """FileFormatError where a folder cannot be a build's, before anything is put into it."""
    if not folder.is_dir():
        raise FileFormatError("is no folder", where=str(folder), remedy="give build/<target> of a build")
    if not (folder / MANIFEST_NAME).is_file():
        check_manifest(folder)  # says what is missing


def _check_complete(certificate: Certificate, sets: Mapping[str, SampleSet], path: Path) -> None:
    """Refuse a certificate that lacks what every build's has, or speaks of other sets than are recorded."""
    predicate = certificate.predicate
    models: list[Mapping[str, Measurement | None]] = [*predicate.references.values()]
    models += [row.sets for row in predicate.runtimes]
    measured = [(part, one) for model in models for part, one in model.items() if one is not None]
    complete = (
        {part: row.samples for part, row in predicate.sets.items()} == {p: len(s) for p, s in sets.items()}
        and any(row.name == COMPRESSED_MODEL and CERTIFY in row.sets for row in predicate.runtimes)
        and any(gate.name == "compression" for gate in predicate.gates)
        and all(part in sets and one.samples == len(sets[part]) for part, one in measured)
        and all(one.metrics.keys() == METRICS.keys() for _, one in measured)
        and all(row.metrics.keys() == METRICS.keys() for row in predicate.test.values())
    )
    if not complete:
        raise FileFormatError(
            "does not fit the recorded samples", where=str(path), remedy="verify the folder, or build again"
        )


def board_certificates(folder: Path) -> list[Path]:
    """The boards' certificates of a folder, by name."""
    return sorted(folder.glob("certificate.*.json"))


def _boards(folder: Path, certificate: Certificate) -> tuple[tuple[BoardStatement, ...], tuple[LeftOut, ...]]:
    """A board's certificate is no part of the build: one that says nothing about it harms no report."""
    found: list[BoardStatement] = []
    left_out: list[LeftOut] = []
    for path in board_certificates(folder):
        try:
            statement = read_board_certificate(path)
        except FileFormatError as error:
            left_out.append(LeftOut(path.name, error.message))
            continue
        if statement.build_certificate_digest == certificate.predicate.digest:
            found.append(statement)
        else:
            left_out.append(LeftOut(path.name, "is about an earlier build; flash again"))
    return tuple(found), tuple(left_out)


def _plan(path: Path) -> PlanFile:
    return _validated(TypeAdapter(PlanFile), read_json(path), path)


def _rows(path: Path, kind: type[_T]) -> tuple[_T, ...]:
    """JSON, a row a line."""
    lines = read_bytes(path, MAX_JSON_BYTES).splitlines()
    try:
        documents = [json.loads(line) for line in lines]
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"is not JSON line by line: {error}", where=str(path)) from error
    return tuple(_validated(_ROWS[kind], document, path) for document in documents)


def _shares(row: dict[str, float]) -> dict[str, float]:
    wrong = [name for name, value in row.items() if name.endswith(_ACCURACY) and not 0 <= value <= 1]
    if wrong:
        raise ValueError(f"{wrong[0]} is a share, from 0 to 1")
    return row


_ROWS: Mapping[Any, TypeAdapter[Any]] = {
    Action: TypeAdapter(Action),
    ChannelRow: TypeAdapter(ChannelRow),
    dict[str, float]: TypeAdapter(
        Annotated[dict[str, Annotated[float, Field(ge=-_HUGE, le=_HUGE)]], AfterValidator(_shares)],
        config=ConfigDict(strict=True),
    ),
}


def _validated(adapter: TypeAdapter[_T], document: object, path: Path) -> _T:
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise FileFormatError(f"{place}: {first['msg']}", where=str(path), remedy="build again") from None


def _whole(path: Path) -> tuple[WholeLayer, ...]:
    """What ``compressed.safetensors`` says of each layer's size."""
    try:
        tensors = safetensors.numpy.load(read_bytes(path, MAX_FILE_BYTES))
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise FileFormatError(f"is no safetensors file: {error}", where=str(path)) from error
    found = []
    for key, weight in tensors.items():
        name = key.removesuffix(".weight")
        if name != key:
            if not weight.ndim or not weight.size:
                raise FileFormatError(f"'{key}' is empty", where=str(path), remedy="build again")
            kind: Literal["layer", "table", "norm"] = "layer"
            if f"{name}.weight_scale" in tensors:
                kind = "norm"
            elif f"{name}.bits" in tensors and f"{name}.bias" not in tensors:
                kind = "table"
            found.append(WholeLayer(name, weight.size, len(weight), kind))
    return tuple(found)


def _layers(path: Path, entry: str, *, packed: bool) -> tuple[Layer, ...]:
    """The layers of the ONNX, which keeps their names; ``entry`` says which two were one, in two widths."""
    weights = {
        plain_name(tensor.name): tensor
        for tensor in inspect_model(path).tensors
        if tensor.channels is not None and tensor.bits
    }
    parts = {name.removesuffix(".weight"): [name] for name in weights}
    for own, _ in stated_layers(entry.encode()):
        names = [f"{part}.weight" for part in own]
        if all(name in weights for name in names):
            for part in own:
                parts.pop(part)
            parts[common_name(own)] = names
    return tuple(_layer(name, [weights[part] for part in own], packed) for name, own in parts.items())


def common_name(parts: list[str]) -> str:
    """A layer's own name: that of its parts, ``<name>_int4`` and ``<name>_int8``, without their widths."""
    return parts[0] if len(parts) == 1 else parts[0].rpartition("_")[0]


def _gone(whole: tuple[WholeLayer, ...], entry: str, there: set[str]) -> tuple[Layer, ...]:
    """The layers that left whole, by name: training started with them, and the ``.onnx`` has none of them.

    ``entry`` names the layers that lost channels, ``there`` those whose weights are in the file.
    """
    shipped = {common_name(own) for own, _ in stated_layers(entry.encode())}
    lost = [
        layer for layer in whole if shipped and layer.kind != "norm" and layer.name not in shipped | there
    ]
    return tuple(
        Layer(layer.name, (), _bounded(layer.channels, layer.name))
        for layer in sorted(lost, key=lambda layer: layer.name)
    )


def _layer(name: str, weights: list[TensorSummary], packed: bool) -> Layer:
    bits: list[int] = []
    for tensor in weights:
        narrow = tensor.channel_bits if packed else None
        bits += narrow or (tensor.bits,) * (tensor.channels or 0)
    return Layer(name, tuple(sorted(bits, reverse=True)), _bounded(weights[0].channels_removed or 0, name))


def _bounded(removed: int, name: str) -> int:
    if removed > _MAX_REMOVED:
        raise FileFormatError(f"says that layer '{name}' lost {removed:,} channels", where=MODEL_ONNX)
    return removed


def _stated(entries: Mapping[str, str], classes: int) -> Stated:
    """What a build states in the ONNX; an entry that cannot be understood counts as absent."""
    named = _json(entries.get("classes", ""))
    names = tuple(name for name in named if isinstance(name, str)) if isinstance(named, list) else ()
    try:
        sample = InputSection.model_validate(_json(entries.get("input", "")))
    except ValidationError:
        sample = None
    return Stated(
        project=_text(_json(entries.get("project", ""))),
        version=_text(_json(entries.get("version", ""))),
        classes=names if len(names) == classes else None,
        input=sample,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _json(text: str) -> object:
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document
