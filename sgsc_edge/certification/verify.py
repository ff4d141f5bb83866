"""Certifies a build folder from its files alone, without torch: what the build ends with and CI repeats."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sgsc_edge.artifacts import check_manifest, read_npz, restoring, write_json
from sgsc_edge.certification.belonging import (
    OWN_TOOLS,
    check_one_model,
    check_repeated,
)
from sgsc_edge.certification.certificate import (
    CERTIFICATE_NAME,
    Certificate,
    differences,
    read_certificate,
)
from sgsc_edge.certification.certify import COMPRESSED, RuntimeRun, certify
from sgsc_edge.certification.policy import RuntimePolicy, read_policy, requiring
from sgsc_edge.certification.records import CertificationContext, Verdict
from sgsc_edge.certification.samples import CERTIFY, GATED_PARTS, PARTS, SampleSet, read_samples
from sgsc_edge.certification.shipped import output_grid, shipped_model
from sgsc_edge.certification.stored import check_stored
from sgsc_edge.errors import ConfigError, FileFormatError
from sgsc_edge.hints import nearest
from sgsc_edge.runtimes import MODEL_ONNX, MODEL_TFLITE, RunResult, Status, run_runtime, specs

PRESERVATION_NAME = "preservation.npz"
REQUIRED_SUBJECTS = (MODEL_ONNX, PRESERVATION_NAME)
COMPRESSED_NAME = "compressed.safetensors"
OPTIONAL_SUBJECTS = (MODEL_TFLITE, COMPRESSED_NAME)
DEFAULT_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class RunSettings:
    """How runtimes are run: seconds for each one, worker processes, and the parts to measure.

    ``certify`` and ``must_keep`` run on every runtime whatever ``parts`` says; the informational parts
    run on the quick ones only.
    """

    timeout_s: float = DEFAULT_TIMEOUT_S
    workers: int = 2
    parts: Collection[str] = PARTS

    def __post_init__(self) -> None:
        unknown = sorted(set(self.parts) - set(PARTS))
        if unknown or self.workers < 1 or not self.timeout_s > 0:
            raise ConfigError(
                f"cannot run with parts {sorted(self.parts)}, {self.workers} workers and "
                f"{self.timeout_s} seconds",
                remedy=f"parts are of {', '.join(PARTS)}; workers and seconds are positive",
            )


def verify_folder(
    folder: Path,
    policy: Path | None = None,
    *,
    require: Collection[str] = (),
    timeout_s: float = DEFAULT_TIMEOUT_S,
    workers: int = 2,
    parts: Collection[str] = PARTS,
) -> Certificate:
    """Recompute the certificate of a build folder; nothing there is changed.

    Its own verdict and measurements are never trusted; its policy is used where the TOML file ``policy``
    does not say otherwise, and the runtimes ``require`` must have run, too. What was recorded otherwise is
    listed in ``Certificate.differences``.

    Raises FileFormatError naming a file that is missing, malformed, edited, or does not belong to the others
    (``belonging``, ``stored``), DataError for samples in two sets, ConfigError for a bad policy,
    NotMeasuredError where the comparison of the two models did not end in time. A gate that fails or is not
    measured raises nothing: see ``Certificate.exit_code``.
    """
    settings = RunSettings(timeout_s, workers, parts)
    recorded = read_certified(folder)
    context = recorded.context
    if policy is not None:
        context = context.model_copy(update={"policy": read_policy(policy, context.policy)})
    context = context.model_copy(update={"policy": requiring(context.policy, require)})
    sets = _samples(folder)
    fresh = _recompute(folder, context, sets, recorded.subjects, settings)
    if recorded.predicate.sets != fresh.predicate.sets:
        raise FileFormatError(
            f"is about other samples than those in {PRESERVATION_NAME}",
            where=str(folder / CERTIFICATE_NAME),
            remedy="restore the certificate that belongs to this folder, or build again",
        )
    not_repeated: tuple[str, ...] = ()
    if fresh.verdict is Verdict.PASSED:
        not_repeated = check_repeated(recorded.predicate, fresh.predicate, folder / CERTIFICATE_NAME)
        if MODEL_TFLITE in recorded.subjects:
            check_one_model(
                folder / MODEL_ONNX,
                folder / MODEL_TFLITE,
                sets[CERTIFY].inputs,
                made_by=recorded.predicate.tools.get(OWN_TOOLS[0], "of another version"),
                here=fresh.predicate.tools[OWN_TOOLS[0]],
                timeout_s=timeout_s,
            )
        if COMPRESSED_NAME in recorded.subjects:
            check_stored(folder / COMPRESSED_NAME, folder / MODEL_ONNX)
    return replace(fresh, differences=differences(recorded, fresh), not_repeated=not_repeated)


def read_certified(folder: Path) -> Certificate:
    """The certificate of a build folder, about the files that are there; what it measured is not looked at.

    Raises FileFormatError naming a file that is missing, malformed or edited, or is not the certified one.
    """
    path = folder / CERTIFICATE_NAME
    if not path.is_file():
        raise FileFormatError(
            f"is no finished build: it has no {CERTIFICATE_NAME}",
            where=str(folder),
            remedy=restoring(folder, "give build/<target> of a build that has ended"),
        )
    recorded = read_certificate(path)
    subjects = _subjects(folder)
    if recorded.subjects != subjects:
        changed = sorted(dict(recorded.subjects.items() ^ subjects.items()))
        raise FileFormatError(
            f"is about other files than those here: {', '.join(changed)}",
            where=str(path),
            remedy=restoring(folder, "restore the certificate that belongs to this folder, or build again"),
        )
    return recorded


def certify_folder(
    folder: Path, context: CertificationContext, *, timeout_s: float = DEFAULT_TIMEOUT_S, workers: int = 2
) -> Certificate:
    """Certify a finished build folder for the first time and write ``certificate.json``.

    The folder holds its model files, ``preservation.npz`` and a manifest that lists them.
    """
    settings = RunSettings(timeout_s, workers)
    subjects = _subjects(folder)
    certificate = _recompute(folder, context, _samples(folder), subjects, settings)
    write_json(folder / CERTIFICATE_NAME, certificate.to_json())
    return certificate


def check_runtime_names(policy: RuntimePolicy, model: str) -> None:
    """ConfigError listing the runtimes of ``policy`` that do not exist, each with the nearest name.

    Also where none that it requires runs ``model``, the file that ships: nothing would then be measured of
    it; and where one runs a ``.tflite``, and none ships.
    """
    known = [*specs(), COMPRESSED]
    unknown = [name for name in (*policy.required, *policy.optional) if name not in known]
    if unknown:
        raise ConfigError(
            "the policy names unknown runtimes",
            remedy=f"use names among: {', '.join(known)}",
            problems=tuple(f"'{name}'{nearest(name, known)}" for name in unknown),
        )
    named = [name for name in (*policy.required, *policy.optional) if name != COMPRESSED]
    able = [name for name, spec in specs().items() if spec.artifact == model]
    if not set(able) & set(policy.required):
        raise ConfigError(
            f"the policy requires no runtime that runs {model}: it could pass unmeasured",
            remedy=f"require at least one of: {', '.join(able)}",
        )
    if model == MODEL_ONNX and (others := [name for name in named if name not in able]):
        raise ConfigError(
            f"the policy names runtimes of {MODEL_TFLITE}, and the build ships none: {', '.join(others)}",
            remedy=f"name runtimes of {model}: {', '.join(able)}",
        )


def _subjects(folder: Path) -> dict[str, str]:
    """SHA-256 of the certified files, once each listed file has been compared with the manifest."""
    files = check_manifest(folder, required=REQUIRED_SUBJECTS).files
    return {name: files[name] for name in (*REQUIRED_SUBJECTS, *OPTIONAL_SUBJECTS) if name in files}


def _samples(folder: Path) -> dict[str, SampleSet]:
    path = folder / PRESERVATION_NAME
    return read_samples(read_npz(path), where=str(path))


def _recompute(
    folder: Path,
    context: CertificationContext,
    sets: Mapping[str, SampleSet],
    subjects: Mapping[str, str],
    settings: RunSettings,
) -> Certificate:
    policy, model = context.policy.runtimes, shipped_model(subjects)
    check_runtime_names(policy, model)
    grid = output_grid(folder / model, sets)
    names = [name for name in (*policy.required, *policy.optional) if name != COMPRESSED]
    return certify(
        context,
        sets,
        {name: _run(folder, name, sets, settings) for name in names},
        grid,
        subjects=subjects,
        tools=_tools(),
    )


def _run(folder: Path, name: str, sets: Mapping[str, SampleSet], settings: RunSettings) -> RuntimeRun:
    """Run one runtime once over all of its parts, so that its process starts once."""
    spec = specs()[name]
    wanted = [part for part in sets if part in GATED_PARTS or (not spec.slow and part in settings.parts)]
    inputs = np.concatenate([sets[part].inputs for part in wanted])
    result = run_runtime(
        name, folder / spec.artifact, inputs, timeout_s=settings.timeout_s, workers=settings.workers
    )
    return split_result(result, wanted, sets)


def split_result(result: RunResult, parts: Sequence[str], sets: Mapping[str, SampleSet]) -> RuntimeRun:
    """The outputs of a run over the concatenated ``parts``, by part."""
    outputs = {}
    if result.status is Status.OK and result.outputs is not None:
        bounds = np.cumsum([len(sets[part]) for part in parts])[:-1]
        outputs = dict(zip(parts, np.split(result.outputs, bounds), strict=True))
    return RuntimeRun(str(result.status), result.version, result.reason, result.stand_in, outputs)


def _tools() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in OWN_TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed as a package"
    return versions
