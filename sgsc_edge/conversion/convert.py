"""The steps of a conversion: calibrate where the model is float, lower, record samples, certify, report.

The folder it writes is one that ``verify``, ``report``, ``package`` and ``flash`` take, like a build's. It
knows no training: its set ``guide`` is what the parameters were calibrated on, ``certify`` what was kept
apart, and ``watch`` is empty. "Compressed" is the quantized ``.onnx``, evaluated as it is written.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sgsc_edge.artifacts import (
    Earlier,
    FolderLock,
    output_errors,
    remove_leftovers,
    sha256_file,
    write_bytes,
    write_manifest,
    write_npz,
)
from sgsc_edge.calibration import METHODS, Method, observed, plan_of, with_parameters
from sgsc_edge.certification import (
    Certificate,
    CertificationContext,
    GatePolicy,
    Policy,
    RuntimePolicy,
    certify_folder,
    check_runtime_names,
)
from sgsc_edge.certification.certificate import CERTIFICATE_NAME
from sgsc_edge.certification.samples import CERTIFY, REQUIRED_PARTS
from sgsc_edge.certification.verify import PRESERVATION_NAME
from sgsc_edge.conversion.samples import Data, read_data
from sgsc_edge.errors import ConfigError, DataError, FileFormatError, UnsupportedError
from sgsc_edge.footprint import flash_bytes
from sgsc_edge.graph.ir import Graph
from sgsc_edge.graph.write_tflite import Form, write_tflite
from sgsc_edge.lowering import check_arena, check_flash, lower, read_onnx, require
from sgsc_edge.lowering.fold import import_model
from sgsc_edge.lowering.layout import to_device
from sgsc_edge.lowering.network import Network
from sgsc_edge.lowering.quantizers import has_quantizers
from sgsc_edge.lowering.write_onnx import write_onnx
from sgsc_edge.numerics import quantize
from sgsc_edge.report import REPORT, costs_only_the_report, write_report
from sgsc_edge.runtimes import MODEL_ONNX, MODEL_TFLITE
from sgsc_edge.runtimes.onnxruntime import float_outputs, model_edges, run_as_written
from sgsc_edge.targets import Target

log = logging.getLogger("sgsc_edge")

GUIDE = "guide"
_FILES = (MODEL_ONNX, MODEL_TFLITE, PRESERVATION_NAME, "manifest.json", CERTIFICATE_NAME, REPORT)
_TOOLS = ("sgsc-edge", "onnx", "numpy", "ai-edge-litert", "onnxruntime")
_LOWERING_FLIPS = 0.005
_FIELDS = ("inputs", "labels", "ids", "float_logits", "compressed_logits")
_COMPARED = 256
"""Calibration samples on which ways to choose ranges are compared."""


@dataclass(frozen=True)
class Conversion:
    """What came of a model.

    Parameters
    ----------
    folder: with all files.
    ranges: how the ranges of values were chosen; None of a model that had its own.
    calibrated, judged: numbers of samples.
    """

    folder: Path
    certificate: Certificate
    ranges: Method | None
    calibrated: int
    judged: int


def policy_of(target: Target, max_drop: float) -> Policy:
    """What a conversion is judged by where the user says no more; ConfigError for an impossible drop."""
    if not 0 <= max_drop <= 1:
        raise ConfigError(
            f"{max_drop:g} is no share of the decisions", where="--max-drop", remedy="0.01 is one point"
        )
    runtimes = target.runtimes
    return Policy(
        gate=GatePolicy(
            metric="accuracy", max_drop=max_drop, max_lowering_flips=_LOWERING_FLIPS, reference="float"
        ),
        runtimes=RuntimePolicy(
            required=runtimes.required, optional=runtimes.optional, max_steps=target.output_steps
        ),
    )


def convert(
    model: Path,
    target: Target,
    folder: Path,
    policy: Policy,
    *,
    calibration: Path | None,
    check: Path | None = None,
    ranges: Method | None = None,
    unseen: bool = False,
) -> Conversion:
    """Lower an ONNX model for a target into ``folder``, and certify it there.

    Parameters
    ----------
    model: float, or quantized (QDQ), which keeps its own parameters.
    policy: what it is judged by.
    calibration: an ``.npz`` of samples; a float model needs it. See :mod:`sgsc_edge.conversion.samples`.
    check: samples to judge by; None keeps a fifth of ``calibration`` apart. Of a quantized model, which is
        not calibrated, all of ``calibration``.
    ranges: which part of a range of values a grid covers; None tries each on calibration samples, and takes
        the one whose outputs are closest to float's.
    unseen: whether the float model was not trained on the samples that it is judged by; the certificate says.

    Raises
    ------
    InputError: a file is malformed or does not fit, an op cannot be lowered, or the folder cannot be written.

    A gate that fails, or is not measured, raises nothing: see ``Certificate.exit_code``.
    """
    if ranges is not None and ranges not in METHODS:
        raise ConfigError(f"'{ranges}' is no way to choose ranges", where="ranges", remedy=", ".join(METHODS))
    check_runtime_names(policy.runtimes, MODEL_TFLITE if target.is_lowered else MODEL_ONNX)
    source = read_onnx(model)
    if target.is_lowered:
        require(source, target)
    network = import_model(source, model.stem.encode("utf-8", "replace").decode())
    is_float = not has_quantizers(network)
    _check_edges(network, model)
    calibrated, judged = _data(network, calibration, check, needed=is_float)
    _check_classes(judged, network, calibration if check is None else check)
    reference = source.SerializeToString()
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder):
        remove_leftovers(folder)
        with Earlier(folder, _FILES) as earlier:
            if (folder / CERTIFICATE_NAME).exists():
                earlier.keep()
            chosen = None
            if not is_float and ranges is not None:
                log.warning("ranges '%s' are not used: the model has parameters of its own", ranges)
            if is_float:
                source, chosen = _calibrated(source, network, calibrated, ranges)
            write_bytes(folder / MODEL_ONNX, source.SerializeToString(deterministic=True))
            graph = _lower(folder, target)
            _record(
                folder, graph, reference, source.SerializeToString(), {GUIDE: calibrated, CERTIFY: judged}
            )
            _write_manifest(folder, target, model, calibration, check)
            context = CertificationContext(
                target=target.name,
                policy=policy,
                reference_saw_certify=not unseen,
                labels="float" if judged.labels is None else "given",
                inputs=_hashes(model, calibration, check),
            )
            log.info("certify ...")
            certificate = certify_folder(folder, context)
        with costs_only_the_report(folder):
            write_report(folder)
    return Conversion(folder, certificate, chosen, len(calibrated), len(judged))


# --- samples --------------------------------------------------------------------------------------


def _check_edges(network: Network, model: Path) -> None:
    """Refuse a model whose outputs are no class scores: they could not be judged."""
    shape = network[network.output].shape or ()
    if len(shape) != 2 or shape[1] < 2:
        raise UnsupportedError(
            node=network.output,
            op="output",
            reason=f"its shape is {list(shape)}, and models are judged by class scores [1, K]",
            remedy="give the part of the model that ends in class scores",
            wanted="certified",
        )
    if network[network.input].shape is None:
        raise FileFormatError("states no shape of its input", where=str(model), remedy="export it with one")


def _data(
    network: Network, calibration: Path | None, check: Path | None, *, needed: bool
) -> tuple[Data, Data]:
    """The samples to calibrate on (none of a quantized model), and those to judge by."""
    shape = (network[network.input].shape or ())[1:]
    judging = calibration if check is None else check
    if judging is None or (needed and calibration is None):
        raise ConfigError(
            "a float model is quantized by the ranges of its values, and no samples are given"
            if needed
            else "no samples are given to judge by",
            where="--calibration" if needed else "--check",
            remedy="give an .npz file: numpy.savez('samples.npz', inputs=..., labels=...), inputs float32 "
            f"[n, {', '.join(map(str, shape))}]",
        )
    judged = read_data(judging, network.input, shape)
    if not needed:
        if None not in (calibration, check):
            log.warning("%s is not used: the model has parameters of its own", calibration)
        return judged.none(), judged
    if calibration is None or check is None:
        if len(judged) < 2:
            raise DataError(
                "holds one sample: none can be kept apart to judge by",
                where=str(judging),
                remedy="give more, or others with --check",
            )
        return judged.split()
    given = read_data(calibration, network.input, shape)
    shared = int(np.isin(given.ids, judged.ids).sum())
    if shared:
        raise DataError(
            f"{shared} samples are in {calibration} too",
            where=str(check),
            remedy="leave them out of one of the files: a model does better on what it is calibrated on",
        )
    return given, judged


def _check_classes(judged: Data, network: Network, path: Path | None) -> None:
    classes = (network[network.output].shape or (1, 0))[1]
    if judged.labels is not None and int(judged.labels.max()) >= classes:
        raise DataError(
            f"label {int(judged.labels.max())} is not in 0..{classes - 1}",
            where=str(path),
            remedy="give the labels that the model was trained with",
        )


# --- quantize -------------------------------------------------------------------------------------


def _calibrated(
    source: onnx.ModelProto, network: Network, samples: Data, ranges: Method | None
) -> tuple[onnx.ModelProto, Method]:
    """The quantized model, and how its ranges were chosen."""
    log.info("calibrate on %d samples ...", len(samples))
    network = replace(
        network, metadata={**network.metadata, "sgsc.project": json.dumps(network.name).encode()}
    )
    plan = plan_of(network)
    seen = observed(plan, samples.inputs)
    if ranges is not None:
        return write_onnx(with_parameters(plan, seen, ranges)), ranges
    compared = samples.inputs[:_COMPARED]
    wanted = float_outputs(source.SerializeToString(), compared)
    tried: dict[Method, tuple[float, onnx.ModelProto]] = {}
    for method in METHODS:
        model = write_onnx(with_parameters(plan, seen, method))
        found = float_outputs(model.SerializeToString(), compared)
        tried[method] = float(np.square(found.astype(np.float64) - wanted).mean()), model
    best = min(tried, key=lambda method: tried[method][0])
    errors = ", ".join(f"{method} {error:.3g}" for method, (error, _) in tried.items())
    log.info("ranges: %s (squared error of the outputs on calibration samples: %s)", best, errors)
    return tried[best][1], best


def _lower(folder: Path, target: Target) -> Graph | None:
    """The device graph, written as a ``.tflite``; None where the target ships the ``.onnx``."""
    if not target.is_lowered:
        (folder / MODEL_TFLITE).unlink(missing_ok=True)
        return None
    log.info("lower ...")
    graph = lower(folder / MODEL_ONNX, target)
    check_arena(graph, target)
    data = write_tflite(graph, Form(), target.alignment)
    check_flash(flash_bytes(graph, data, target), target)
    write_bytes(folder / MODEL_TFLITE, data)
    return graph


# --- record ---------------------------------------------------------------------------------------


def _record(
    folder: Path, graph: Graph | None, reference: bytes, model: bytes, parts: dict[str, Data]
) -> None:
    """Write ``preservation.npz``: what every runtime is fed, and what the models say."""
    log.info("record %d samples ...", sum(map(len, parts.values())))
    try:
        edges = model_edges(model)
    except ValueError as error:
        raise FileFormatError(
            f"its edges are not int8: {error}",
            where=MODEL_ONNX,
            remedy="quantize the input first and the output last, or give the float model",
        ) from error
    assert edges.source is not None
    rank = len(edges.input_shape) + 1 if graph is None else len(graph[graph.inputs[0]].shape)
    arrays: dict[str, NDArray[Any]] = {"measured_ids": np.empty(0, "U16")}
    for part in (CERTIFY, *(part for part in REQUIRED_PARTS if part != CERTIFY)):
        samples = parts.get(part, parts[CERTIFY].none())
        if not len(samples):
            arrays |= {f"{part}_{field}": arrays[f"{CERTIFY}_{field}"][:0] for field in _FIELDS}
            continue
        inputs = to_device(quantize(samples.inputs, float(edges.source.scale), edges.source.zero_point), rank)
        logits = float_outputs(reference, samples.inputs)
        arrays |= {
            f"{part}_inputs": inputs,
            f"{part}_labels": logits.argmax(1).astype(np.int64) if samples.labels is None else samples.labels,
            f"{part}_ids": samples.ids,
            f"{part}_float_logits": logits,
            f"{part}_compressed_logits": run_as_written(model, inputs),
        }
    write_npz(folder / PRESERVATION_NAME, arrays)


def _write_manifest(folder: Path, target: Target, *sources: Path | None) -> None:
    write_manifest(
        folder,
        [name for name in (MODEL_ONNX, MODEL_TFLITE, PRESERVATION_NAME) if (folder / name).is_file()],
        tools={name: version(name) for name in _TOOLS},
        seeds={},
        inputs={path.name: sha256_file(path) for path in sources if path is not None},
        code=target.code.model_dump(mode="json"),
    )


def _hashes(model: Path, calibration: Path | None, check: Path | None) -> dict[str, str]:
    given = {"model": model, "calibration": calibration, "check": check}
    return {name: sha256_file(path) for name, path in given.items() if path is not None}
