"""The stages: what each writes, what it depends on, and how it runs.

A stage turns files and typed values into files of ``build/<target>/``. It is skipped where its key (a
hash of everything that it depends on) and the hashes of its outputs are those of its last run, so an
unchanged build does nothing and a killed one goes on where it stopped.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import onnx
import safetensors.torch
import torch
from numpy.typing import NDArray

from sgsc_edge.artifacts import (
    content_key,
    package_hash,
    read_bytes,
    sha256_file,
    write_bytes,
    write_manifest,
    write_npz,
)
from sgsc_edge.c_code.interface import VERSION
from sgsc_edge.certification import (
    CertificationContext,
    GatePolicy,
    Policy,
    RuntimePolicy,
    SampleSet,
    certify_folder,
    measure_test,
)
from sgsc_edge.compression.calibration import CALIBRATION_SAMPLES
from sgsc_edge.compression.compress import CHANNEL_HISTORY, CONTROLLER_LOG, HISTORY, LEARNED, PLAN
from sgsc_edge.compression.folding.fold import CompressedModel
from sgsc_edge.compression.shrink import shrink
from sgsc_edge.compression.snapshot import SNAPSHOT, read_snapshot
from sgsc_edge.errors import ConfigError
from sgsc_edge.export import export_onnx
from sgsc_edge.footprint import (
    compiler_for,
    flash_bytes,
    follows_from,
    footprint,
    require_fit,
    verdict,
    write_code,
)
from sgsc_edge.graph.ir import Graph
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.graph.write_tflite import Form, write_tflite
from sgsc_edge.inspection.channels import CHANNELS
from sgsc_edge.lowering import check_arena, check_flash, lower
from sgsc_edge.pipeline.context import (
    CERTIFICATE,
    COMPRESSED,
    CONTROL,
    CONTROL_HISTORY,
    MANIFEST,
    MAX_BYTES,
    ONNX,
    PRESERVATION,
    SELECTION,
    TFLITE,
    Build,
)
from sgsc_edge.pipeline.floor import check_floor, find_smallest
from sgsc_edge.pipeline.own_weights import check_own_weights
from sgsc_edge.pipeline.recording import recorded
from sgsc_edge.preservation.selection import SCHEMA as SELECTION_SCHEMA
from sgsc_edge.preservation.selection import write_selection
from sgsc_edge.preservation.sets import check_model, choose, preservation_sizes
from sgsc_edge.preservation.split import Sizes
from sgsc_edge.project import Project
from sgsc_edge.report import REPORT, report_key, write_report
from sgsc_edge.report.search import SEARCH
from sgsc_edge.runtimes import available
from sgsc_edge.targets import Limits, Target, available_targets

log = logging.getLogger("sgsc_edge")

_SCORING_TOOLS = ("torch", "captum", "scikit-learn")
_EXPORT_TOOLS = ("torch", "onnx", "onnxscript")
_TOOLS = ("sgsc-edge", "captum", "scikit-learn", *_EXPORT_TOOLS, "numpy", "ai-edge-litert", "onnxruntime")


@dataclass(frozen=True)
class Stage:
    """One row of the road.

    Parameters
    ----------
    name: in logs and stamps.
    outputs: the files it writes.
    key: of everything that they follow from; the code and the stage's name are added to it.
    run: writes them; takes the whole key, for checkpoints.
    shared: other targets' outputs of the same key are copied rather than made again.
    needed: whether the project asks for it.
    view: it only shows the certified build, which stands if this fails.
    """

    name: str
    outputs: tuple[str, ...]
    key: Callable[[Build], str]
    run: Callable[[Build, str], None]
    shared: bool = False
    needed: Callable[[Build], bool] = lambda build: True
    view: bool = False


# --- what the target ships ------------------------------------------------------------------------


def check_format(build: Build) -> None:
    """ConfigError where the target ships another format than the model or the board needs."""
    if build.board is not None:
        _require_lowering(build.target, "--board", "no board runs that")
    if build.target.is_lowered and build.project.config.model.is_text:
        able = [target.name for target in available_targets() if not target.is_lowered]
        raise ConfigError(
            f"a language model cannot be lowered to a .tflite yet, which target '{build.target.name}' ships",
            where=build.project.where("model", "task"),
            remedy=f"build it for a target that ships an .onnx: --target {' or '.join(able)}",
        )


def _require_lowering(target: Target, where: str, why: str) -> None:
    if not target.is_lowered:
        raise ConfigError(
            f"target '{target.name}' ships an .onnx, and {why}",
            where=where,
            remedy="choose a target that ships a .tflite; see: sgsc-edge targets",
        )


# --- rehearse -------------------------------------------------------------------------------------


def _rehearse_key(build: Build) -> str:
    return content_key(
        build.project.source_hash(),
        [build.project.config_hash("model"), build.project.config.data.augment],
        list(build.data.rest.hashes),
        build.untrained.recipe.batch_size,  # of calibration
        [build.untrained.method, build.untrained.goal.budget],
        build.target.model_dump(mode="json"),
        build.project.config_hash("export") if build.target.limits.flash else None,
        _board_key(build),
        _versions(_EXPORT_TOOLS),
        torch.get_num_threads(),
    )


def _is_unrehearsed(build: Build) -> bool:
    return not build.rehearsed


def _rehearse(build: Build, key: str) -> None:
    """What cannot ship is refused before anything takes long: nothing is scored or trained yet."""

    def ships(compressed: CompressedModel) -> None:
        model = _onnx(build, compressed, {})
        if not build.target.is_lowered:
            return
        graph = lower(model, build.target)
        if build.board is not None:
            write_code(graph, "model")  # what has no kernel in C is refused
        _rehearse_limits(build, compressed)

    check_model(build.project, build.model, build.data, CALIBRATION_SAMPLES)
    if build.untrained.augment is not None:
        first = build.data.rest.dataset[0][0]
        build.untrained.augment(torch.stack([first, first]), build.untrained.recipe.seed)
    if build.untrained.weights is not None:
        check_own_weights(build)
    try:
        build.untrained.rehearse(ships)
    except ConfigError as error:
        if error.where != "compress.budget":
            raise
        raise ConfigError(error.message, where=_where_of_budget(build), remedy=error.remedy) from error


def _where_of_budget(build: Build) -> str:
    """Where the budget was given; of several which one it is."""
    where = build.project.where("compress", "budget")
    return where if build.frontier is None else f"{where}: {build.folder.name}"


def _rehearse_limits(build: Build, compressed: CompressedModel) -> None:
    """RAM and flash, where training makes nothing smaller: every living channel stays, in the fewest bits.

    The file is measured without its metadata. With learned widths it is open which filters are unpacked.
    """
    method = build.untrained.method
    if method in ("sgsc", "own") or (build.target.limits == Limits() and build.board is None):
        return
    graph = _living(build, compressed)
    check_arena(graph, build.target, unpacked=method not in LEARNED)
    check_flash(flash_bytes(graph, _tflite(build, graph), build.target), build.target)
    _check_board(build, graph)


def _living(build: Build, compressed: CompressedModel) -> Graph:
    """The device graph without the channels that are dead."""
    living = shrink(compressed, build.untrained.sample).model
    return lower(_onnx(build, living, {}), build.target)


def untrained_graph(project: Project, target: Target) -> Graph:
    """What a build would ship without training: every living channel, in the fewest bits that are sure.

    Nothing is written. Raises ``InputError`` as a build does before it trains.
    """
    return _untrained_graph(_to_lower(project, target))


def untrained_project(project: Project, target: Target) -> tuple[Graph, Sizes]:
    """:func:`untrained_graph`, and how many samples each part of the preservation set would have."""
    build = _to_lower(project, target)
    return _untrained_graph(build), preservation_sizes(project, build.data)


def _to_lower(project: Project, target: Target) -> Build:
    _require_lowering(target, "--target", "has no device graph")
    build = Build(project, target, folder=project.root)  # of which nothing is read
    check_format(build)
    return build


def _untrained_graph(build: Build) -> Graph:
    graphs: list[Graph] = []
    build.untrained.rehearse(lambda compressed: graphs.append(_living(build, compressed)))
    return graphs[0]


# --- choose the preservation set ------------------------------------------------------------------


def _preserve_key(build: Build) -> str:
    data = build.data
    sets = (data.rest, data.pool, *([data.must_keep] if data.must_keep else []))
    return content_key(
        SELECTION_SCHEMA,
        build.project.source_hash(),
        build.project.config_hash("model", "preservation"),
        build.project.config.compress.seed,
        [samples.key() for samples in sets],
        _versions(_SCORING_TOOLS),
        torch.get_num_threads(),
    )


def _preserve(build: Build, key: str) -> None:
    write_selection(build.folder / SELECTION, choose(build.project, build.model, build.data))


# --- compress -------------------------------------------------------------------------------------


def _training_key(build: Build) -> str:
    return content_key(
        build.project.source_hash(),
        build.project.config_hash("model"),
        asdict(build.untrained.recipe),
        build.project.config.data.augment,
        build.samples_key,
        {"torch": torch.__version__, "threads": torch.get_num_threads()},
    )


def _control(build: Build, key: str) -> None:
    control = build.compression().run_control(build.folder, key)
    parameters = {name: tensor.contiguous() for name, tensor in control.module.state_dict().items()}
    write_bytes(build.folder / CONTROL, safetensors.torch.save(parameters))


def _compress_key(build: Build, without: Collection[str] = ()) -> str:
    """``without``: settings of ``[compress]`` that are left out."""
    learns, device = build.untrained.method in LEARNED, build.untrained.device
    # Without narrow weights to choose, arena and joins decide nothing.
    used = device if learns and build.target.narrow else device.in_8_bits
    guard = asdict(build.guard) if learns else None
    start = [] if build.start is None else [sha256_file(build.start / SNAPSHOT)]
    settings = build.project.config.compress.model_dump(mode="json", by_alias=True)
    kept = {name: value for name, value in settings.items() if name not in without}
    return content_key(_training_key(build), kept, build.untrained.method, used.to_json(), guard, start)


def _compress(build: Build, key: str) -> None:
    if build.project.config.compress.floor is not None:
        log.warning("compress: method '%s' searches no floor", build.untrained.method)
    compression = build.compression()
    if build.start is not None:
        compression = compression.going_on(read_snapshot(build.start / SNAPSHOT))
    compressed = compression.run(build.folder, key)
    write_bytes(build.folder / COMPRESSED, safetensors.torch.save(compressed.tensors()))


def _floor_key(build: Build) -> str:
    return content_key(
        build.samples_key,
        build.project.source_hash(),
        build.project.config_hash("model", "gate"),
        build.floor,
    )


def _check_floor(build: Build, key: str) -> None:
    check_floor(build)


def _search_key(build: Build) -> str:
    return content_key(_compress_key(build), build.project.config.gate.metric)


def _search(build: Build, key: str) -> None:
    # Tries do not follow from the floor: another one is looked for among those that were made.
    tries = content_key(version("sgsc-edge"), package_hash(), _compress_key(build, without=("floor",)))
    find_smallest(build, tries, _COMPRESSED)


def _has_floor(build: Build) -> bool:
    return build.floor is not None


def _has_no_floor(build: Build) -> bool:
    return build.floor is None


_COMPRESSED = (COMPRESSED, HISTORY, CONTROLLER_LOG, CHANNEL_HISTORY, PLAN, SNAPSHOT)


# --- export and lower -----------------------------------------------------------------------------


def _onnx(build: Build, compressed: CompressedModel, metadata: Mapping[str, Any]) -> onnx.ModelProto:
    name = build.project.config.project.name
    return export_onnx(compressed, build.untrained.sample, name=name, metadata=metadata)


def _export_key(build: Build) -> str:
    settings = [build.project.config_hash("project", "model"), list(build.project.config.data.classes or ())]
    tools = _versions(_EXPORT_TOOLS)
    return content_key(build.digest(COMPRESSED), build.project.source_hash(), settings, tools)


def _export(build: Build, key: str) -> None:
    config = build.project.config
    metadata: dict[str, Any] = {
        "project": config.project.name,
        "input": config.model.input.model_dump(mode="json", exclude_none=True),
        CHANNELS: [
            [list(build.split.parts.get(layer.name, (layer.name,))), layer.outputs[0]]
            for layer in build.shrunk.report.layers
            if not layer.is_gone
        ],
    }
    if config.project.version is not None:
        metadata[VERSION] = config.project.version
    if config.data.classes:
        metadata["classes"] = list(config.data.classes)
    model = _onnx(build, build.compressed, metadata)
    write_bytes(build.folder / ONNX, model.SerializeToString(deterministic=True))


def _lower_key(build: Build) -> str:
    form = build.project.config_hash("export")
    return content_key(build.digest(ONNX), build.target.model_dump(mode="json"), form, version("onnx"))


def _lower(build: Build, key: str) -> None:
    graph = lower(build.folder / ONNX, build.target)
    check_arena(graph, build.target)
    data = _tflite(build, graph)
    check_flash(flash_bytes(graph, data, build.target), build.target)
    write_bytes(build.folder / TFLITE, data)


def _tflite(build: Build, graph: Graph) -> bytes:
    return write_tflite(graph, Form(**build.project.config.export.model_dump()), build.target.alignment)


# --- fit the board --------------------------------------------------------------------------------


def _board_key(build: Build) -> list[object] | None:
    return None if build.board is None else follows_from(build.board.chip, build.board.link)


def _fit_key(build: Build) -> str:
    return content_key(build.digest(TFLITE), _board_key(build))


def _fit(build: Build, key: str) -> None:
    _check_board(build, read_tflite(read_bytes(build.folder / TFLITE, MAX_BYTES)))


def _check_board(build: Build, graph: Graph) -> None:
    """Refuse what the board's flash and RAM cannot hold; without a board nothing is checked."""
    if build.board is None:
        return
    chip = build.board.chip
    found = footprint(
        graph,
        chip,
        model=TFLITE,
        board=build.board.name,
        compiler=compiler_for(chip),
        uart=build.board.link,
        learned=build.target.packs,
    )
    require_fit(found)
    log.info("%s", verdict(found))


def _has_board(build: Build) -> bool:
    return build.board is not None


# --- record the samples ---------------------------------------------------------------------------


def _record_key(build: Build) -> str:
    test = build.samples.test.hashes if build.samples.test else ()
    # The manifest states all of these, also where a change of one leaves the models' bytes as they were.
    files = [build.digest(name) for name in sorted(_made_before(build, "record"))]
    code = build.target.code.model_dump(mode="json")
    stated = [build.project.source_files(), build.project.config.compress.seed, _versions(_TOOLS), code]
    return content_key(build.samples_key, list(test), files, stated)


def _record(build: Build, key: str) -> None:
    arrays: dict[str, NDArray[Any]] = {}
    for name, part in build.samples.parts.items():
        for field, values in recorded(build, part).items():
            arrays[f"{name}_{field}"] = values
    test = build.samples.test.ids if build.samples.test else ()
    arrays["measured_ids"] = np.array(test, dtype="U16")
    write_npz(build.folder / PRESERVATION, arrays)
    made = {PRESERVATION, *_made_before(build, "record")}
    write_manifest(
        build.folder,
        {name for name in made if not name.startswith(".")},
        tools=_versions(_TOOLS),
        seeds={"compress": build.project.config.compress.seed},
        inputs=build.project.source_files(),
        code=build.target.code.model_dump(mode="json"),
    )


def _made_before(build: Build, name: str) -> set[str]:
    """The files of the stages before the stage ``name``."""
    before = itertools.takewhile(lambda stage: stage.name != name, STAGES)
    return {output for stage in before if stage.needed(build) for output in stage.outputs}


def _versions(tools: tuple[str, ...]) -> dict[str, str]:
    return {name: version(name) for name in tools}


# --- certify --------------------------------------------------------------------------------------


def stated_policy(build: Build) -> Policy:
    """The policy that the project and its target ask for."""
    gate, runtimes = build.project.config.gate, build.target.runtimes
    return Policy(
        gate=GatePolicy(
            metric=gate.metric,
            max_drop=gate.max_drop,
            max_lowering_flips=gate.max_lowering_flips,
            min_agreement=gate.min_agreement,
            reference=build.project.gate_reference,
        ),
        runtimes=RuntimePolicy(
            required=runtimes.required, optional=runtimes.optional, max_steps=build.target.output_steps
        ),
    )


def _certify_key(build: Build) -> str:
    test = build.samples.test.key() if build.samples.test else ""
    installed = {row.name: row.version for row in available()}
    inputs = dict(_input_hashes(build))
    return content_key(
        build.digest(MANIFEST), stated_policy(build).sha256, build.project.saw_pool, test, installed, inputs
    )


def _certify(build: Build, key: str) -> None:
    policy = stated_policy(build)
    test = {}
    if build.samples.test is not None:
        samples = SampleSet(**recorded(build, build.samples.test))
        test = measure_test(build.folder / build.shipped, samples, policy.runtimes)
    context = CertificationContext(
        target=build.target.name,
        policy=policy,
        reference_saw_certify=build.project.saw_pool,
        inputs=_input_hashes(build),
        test=test,
    )
    certify_folder(build.folder, context)


def _input_hashes(build: Build) -> Mapping[str, str]:
    return {
        "settings": build.project.config_hash(),
        "sources": build.project.source_hash(),
        "samples": build.samples_key,
    }


# --- report ---------------------------------------------------------------------------------------


def _report_key(build: Build) -> str:
    return report_key(build.folder)


def _report(build: Build, key: str) -> None:
    write_report(build.folder)


def _is_lowered(build: Build) -> bool:
    return build.target.is_lowered


def _has_control(build: Build) -> bool:
    return build.has_control


STAGES = (
    Stage("rehearse", (), _rehearse_key, _rehearse, needed=_is_unrehearsed),
    Stage("preserve", (SELECTION,), _preserve_key, _preserve, shared=True),
    Stage("floor", (), _floor_key, _check_floor, needed=_has_floor),
    Stage("control", (CONTROL, CONTROL_HISTORY), _training_key, _control, shared=True, needed=_has_control),
    Stage("compress", _COMPRESSED, _compress_key, _compress, shared=True, needed=_has_no_floor),
    Stage("search", (*_COMPRESSED, SEARCH), _search_key, _search, shared=True, needed=_has_floor),
    Stage("export", (ONNX,), _export_key, _export),
    Stage("lower", (TFLITE,), _lower_key, _lower, needed=_is_lowered),
    Stage("fit", (), _fit_key, _fit, needed=_has_board),
    Stage("record", (PRESERVATION, MANIFEST), _record_key, _record),
    Stage("certify", (CERTIFICATE,), _certify_key, _certify),
    Stage("report", (REPORT,), _report_key, _report, view=True),
)
