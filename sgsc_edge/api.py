"""What the commands do, as functions: the command line only parses, calls these and prints."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sgsc_edge.errors import ConfigError, FileFormatError

if TYPE_CHECKING:
    from sgsc_edge.boards.available import AvailableBoard
    from sgsc_edge.boards.description import Board
    from sgsc_edge.calibration import Method
    from sgsc_edge.certification.certificate import Certificate
    from sgsc_edge.certification.records import Verdict
    from sgsc_edge.conversion import Conversion
    from sgsc_edge.doctor import Diagnosis
    from sgsc_edge.explanation import Explanation, Layers
    from sgsc_edge.flash import BoardCertificate
    from sgsc_edge.footprint import Footprint
    from sgsc_edge.graph.ir import Graph
    from sgsc_edge.inspection import Comparison, Inspection
    from sgsc_edge.inspection.lowers import Lowers
    from sgsc_edge.packaging import Packaged
    from sgsc_edge.pipeline import OwnLoop
    from sgsc_edge.pipeline.frontier import Outcome
    from sgsc_edge.preservation.selection import Selection
    from sgsc_edge.preservation.summary import Summary
    from sgsc_edge.project import Option, Project
    from sgsc_edge.report.search import Search
    from sgsc_edge.runtimes import Available
    from sgsc_edge.scaffold import Scaffolded
    from sgsc_edge.targets import Target

DEFAULT_TARGET = "tflite-int8"
MAX_DROP = 0.01
"""Of the accuracy, where ``lower`` is not told another: one point."""
_PROJECT_FILES = ("sgsc.toml", "pyproject.toml")
_FRONTIER, _MANIFEST = "frontier.json", "manifest.json"
# Modules of the extra `build` and the packages they come in: checked first, so that their absence is a
# message and not a traceback.
_BUILD_PACKAGES = {
    "torch": "torch",
    "onnxscript": "onnxscript",
    "tqdm": "tqdm",
    "captum": "captum",
    "sklearn": "scikit-learn",
}


@dataclass(frozen=True)
class Preserved:
    """A preservation set: the samples, their summary, and the files that were written."""

    selection: Selection
    summary: Summary
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Reported:
    """A report: its file, its bytes, and the verdict that it shows."""

    path: Path
    nbytes: int
    verdict: Verdict


def init(
    folder: str | Path | None = None,
    *,
    example: str | None = None,
    source: str | None = None,
    data: str | None = None,
    shape: tuple[int, ...] | None = None,
    checkpoint: str | None = None,
    force: bool = False,
) -> Scaffolded:
    """Make a folder a project that builds; nothing is written where it would not.

    Parameters
    ----------
    folder: None for the one that holds the network of ``source``, else for the current one.
    example: one that ships, written as it is. Without it and without ``source``: the starter, trained.
    source: ``FILE.py:NAME`` of the user's own network; ``data`` (``FILE.py:TRAIN,TEST``), ``shape`` of a
        sample and ``checkpoint`` (a file, or ``none``) answer what cannot be found out about it.
    force: files that are there are overwritten.

    Raises ``InputError``; its ``where`` is the option that answers what is open.
    """
    from sgsc_edge import scaffold

    if folder == "":
        raise ConfigError("is empty", where="FOLDER", remedy="name a folder; . is the current one")
    place = Path("." if folder is None else folder)
    answers = {"--data": data, "--input": shape, "--checkpoint": checkpoint}
    if source is None and (given := [name for name, value in answers.items() if value is not None]):
        raise ConfigError("is about a network of your own", where=given[0], remedy="give --from FILE.py:NAME")
    if example is not None and source is not None:
        raise ConfigError("--example and --from exclude each other", where="init", remedy="leave one out")
    if example is not None:
        return scaffold.new_example(place, example, DEFAULT_TARGET, force=force)
    _require_build_packages("init")
    if source is None:
        return scaffold.new_starter(place, DEFAULT_TARGET, force=force)
    from sgsc_edge.project.guess import Answers

    asked = Answers(source, data, shape, checkpoint)
    return scaffold.new_config(asked, None if folder is None else place, DEFAULT_TARGET, force=force)


def build(
    project: str | Path = ".",
    *,
    targets: Sequence[str | Path],
    out: str | Path = "build",
    settings: Sequence[str] = (),
    budget: str | None = None,
    floor: float | None = None,
    board: str | Path | None = None,
) -> dict[str, Certificate]:
    """Compress, lower and certify a project for each target; results lie in ``out/<target>/``.

    Of several budgets they lie in ``out/<target>/<budget>/``, beside ``frontier.json``.

    Parameters
    ----------
    project: the folder with ``sgsc.toml``, or the file itself.
    targets: names of shipped targets, or paths of target files.
    out: the folder that holds one folder a target.
    settings: ``"section.key=value"`` overrides, as ``--set`` takes them.
    budget: ``compress.budget``, one or several between commas.
    floor: ``compress.floor``; :func:`search` says whether it was reached.
    board: a board's name, or the path of its ``.toml``: what does not fit it is refused.

    Returns the certificates by folder below ``out``; whether they passed is theirs to say (``exit_code``).
    Raises ``SgscError``, of a point of a frontier when the others are built.
    """
    fitting = None if board is None else load_board(board)
    certificates: dict[str, Certificate] = {}
    for loaded, target in prepare(project, targets, (*settings, *goal_settings(budget, floor))):
        if not has_frontier(loaded):
            certificates[target.name] = build_target(loaded, target, Path(out), fitting)
            continue
        points = build_frontier(loaded, target, Path(out), fitting).points
        for point in points:
            if point.error is not None:
                raise point.error
            if point.certificate is not None:
                certificates[f"{target.name}/{point.label}"] = point.certificate
    return certificates


def goal_settings(budget: str | None, floor: float | None, method: str | None = None) -> tuple[Option, ...]:
    """What a budget, a floor and a method are as settings; ``ConfigError`` where both goals are given."""
    from sgsc_edge.project import Option

    if budget is not None and floor is not None:
        raise ConfigError(
            "a budget and a floor exclude each other: one bounds the size, the other the watch metric",
            where="--budget, --floor",
            remedy="give one of them",
        )
    given = {"method": method, "budget": budget, "floor": None if floor is None else repr(floor)}
    return tuple(
        Option(f"--{name}", f"compress.{name}={value}") for name, value in given.items() if value is not None
    )


def prepare(
    project: str | Path, targets: Sequence[str | Path], settings: Sequence[str | Option] = ()
) -> Iterator[tuple[Project, Target]]:
    """The project with each target's overrides, and the target; everything is validated before the first."""
    from sgsc_edge.project import load_project
    from sgsc_edge.targets import load_target, target_names

    if not targets:
        raise ConfigError("no target is given", where="--target", remedy="name one; see: sgsc-edge targets")
    chosen = {target.name: target for target in map(load_target, targets)}
    loaded = load_project(project, settings, known_targets={*target_names(), *chosen})
    _require_build_packages("build")
    return ((loaded.for_target(name), target) for name, target in chosen.items())


def build_target(project: Project, target: Target, out: Path, board: Board | None = None) -> Certificate:
    """Build one target into ``out/<target>/``."""
    from sgsc_edge import pipeline

    return pipeline.build(project, target, out / target.name, board)


def own_loop(
    project: str | Path = ".", *, target: str | Path = DEFAULT_TARGET, settings: Sequence[str] = ()
) -> OwnLoop:
    """A project's model, data and compressor for a training loop of your own.

    What it has trained, ``Compressor.save`` writes; a build with ``compress.weights`` certifies it.

    Parameters
    ----------
    project, settings: see :func:`build`.
    target: a target's name, or the path of its ``.toml``.
    """
    from sgsc_edge import pipeline

    ((loaded, chosen),) = prepare(project, [target], settings)
    return pipeline.own_loop(loaded, chosen)


def lower(
    model: str | Path,
    *,
    targets: Sequence[str | Path] = (DEFAULT_TARGET,),
    calibration: str | Path | None = None,
    check: str | Path | None = None,
    out: str | Path | None = None,
    ranges: Method | None = None,
    max_drop: float = MAX_DROP,
    policy: str | Path | None = None,
    unseen: bool = False,
) -> dict[str, Conversion]:
    """Quantize an ONNX model by samples, lower it, and certify it; nothing is trained.

    Parameters
    ----------
    model: an ``.onnx`` file, float or quantized (QDQ); the latter keeps its parameters.
    targets: names of shipped targets, or paths of target files.
    calibration: an ``.npz`` of samples: ``inputs`` [n, ...] as the model takes them, ``labels`` [n] if any.
    check: one to judge by; None keeps a fifth of ``calibration`` apart.
    out: results lie in ``out/<target>/``; None for ``build/<model>``.
    ranges: ``minmax``, ``percentile``, ``mse`` or ``entropy``; None: what is best on calibration samples.
    max_drop: by how much the accuracy may be worse than the float model's; without labels, how many decisions
        may be others than the float model's, a share.
    policy: a TOML file of thresholds and runtimes, which comes before ``max_drop``.
    unseen: the float model was not trained on the samples that it is judged by.

    Returns what came of it by target; whether it passed is the certificate's to say. Raises ``SgscError``.
    """
    from sgsc_edge.targets import load_target

    if not targets:
        raise ConfigError("no target is given", where="--target", remedy="name one; see: sgsc-edge targets")
    chosen = {target.name: target for target in map(load_target, targets)}
    path = Path(model)
    place = Path("build") / path.stem if out is None else Path(out)
    return {
        name: lower_for(
            path,
            target,
            place,
            calibration=None if calibration is None else Path(calibration),
            check=None if check is None else Path(check),
            ranges=ranges,
            max_drop=max_drop,
            policy=None if policy is None else Path(policy),
            unseen=unseen,
        )
        for name, target in chosen.items()
    }


def lower_for(
    model: Path,
    target: Target,
    out: Path,
    *,
    calibration: Path | None,
    check: Path | None,
    ranges: Method | None,
    max_drop: float,
    policy: Path | None,
    unseen: bool,
) -> Conversion:
    """Lower for one target into ``out/<target>/``; see :func:`lower`."""
    from sgsc_edge.certification import read_policy
    from sgsc_edge.conversion import convert, policy_of

    judged = policy_of(target, max_drop)
    return convert(
        model,
        target,
        out / target.name,
        judged if policy is None else read_policy(policy, judged),
        calibration=calibration,
        check=check,
        ranges=ranges,
        unseen=unseen,
    )


def has_frontier(project: Project) -> bool:
    """Whether a project asks for several budgets."""
    from sgsc_edge.pipeline import frontier

    return frontier.has_frontier(project)


def build_frontier(project: Project, target: Target, out: Path, board: Board | None = None) -> Outcome:
    """Build every point of a project with several budgets into ``out/<target>/<budget>/``."""
    from sgsc_edge.pipeline import frontier

    return frontier.build_frontier(project, target, out / target.name, board)


def search(folder: str | Path) -> Search | None:
    """How a build looked for the smallest model above its floor; None where it was given none."""
    from sgsc_edge.artifacts import check_manifest
    from sgsc_edge.report.search import SEARCH, read_search

    listed = check_manifest(Path(folder)).files
    return read_search(Path(folder) / SEARCH) if SEARCH in listed else None


def load_board(name_or_path: str | Path) -> Board:
    """A board by its name, or by the path of its ``.toml``."""
    from sgsc_edge.boards import description

    return description.load_board(name_or_path)


def preserve(
    project: str | Path = ".", *, out: str | Path = "build", settings: Sequence[str] = ()
) -> Preserved:
    """Choose a project's preservation set, as a build does, and write it to ``out``.

    ``preservation.json`` holds every sample with its reasons and scores; ``preservation.png`` shows the first
    choices, where the samples are images or text. Raises ``SgscError``.
    """
    from sgsc_edge.project import load_project

    loaded = load_project(project, settings)
    _require_build_packages("preserve")
    from sgsc_edge.artifacts import write_bytes
    from sgsc_edge.pictures import has_pictures
    from sgsc_edge.preservation.contact_sheet import contact_sheet
    from sgsc_edge.preservation.selection import write_selection
    from sgsc_edge.preservation.sets import choose, divide, load_data
    from sgsc_edge.preservation.summary import summarize
    from sgsc_edge.preservation.text_sheet import text_sheet

    model = loaded.load_model()
    data = load_data(loaded, loaded.output_size(model), loaded.vocabulary(model))
    selection = choose(loaded, model, data)
    files = [Path(out) / "preservation.json"]
    write_selection(files[0], selection)
    sheet = contact_sheet if has_pictures(loaded.config.model.input.shape) else None
    sheet = text_sheet if selection.is_text else sheet
    if sheet is not None:
        files.append(Path(out) / "preservation.png")
        write_bytes(files[1], sheet(loaded.config, divide(data, selection), selection))
    return Preserved(selection, summarize(selection), tuple(files))


def verify(
    folder: str | Path,
    policy: str | Path | None = None,
    out: str | Path | None = None,
    *,
    require: Sequence[str] = (),
) -> Certificate:
    """Certify a build folder again from its files alone; nothing in it is changed.

    Parameters
    ----------
    policy: a TOML file of thresholds to judge by, and of runtimes; None for what the build recorded.
    out: a file to write the new certificate to.
    require: runtimes that must have run, beside those of the policy.
    """
    from sgsc_edge.artifacts import write_json
    from sgsc_edge.certification.verify import verify_folder

    certificate = verify_folder(_one_build(folder), None if policy is None else Path(policy), require=require)
    if out is not None:
        write_json(Path(out), certificate.to_json())
    return certificate


def report(folder: str | Path, out: str | Path | None = None) -> Reported:
    """Write one self-contained page about a build folder, from its files alone.

    ``out``: the page's file; None for ``report.html`` in the folder, which must then not be in use.
    """
    from sgsc_edge.artifacts import FolderLock
    from sgsc_edge.report import REPORT, check_is_build, read_build, render, write_page

    folder = _one_build(folder)
    path = folder / REPORT if out is None else Path(out)
    check_is_build(folder)
    with FolderLock(folder) if out is None else contextlib.nullcontext():
        build = read_build(folder)
        page = render(build)
        write_page(path, page)
    return Reported(path, len(page), build.certificate.verdict)


def explain(folder: str | Path, layer: str) -> Explanation:
    """What became of a layer's channels, and which watch samples break without each; from the files alone."""
    from sgsc_edge import explanation

    return explanation.explain(_one_build(folder), layer)


def explained_layers(folder: str | Path) -> Layers:
    """The layers of a build that :func:`explain` can be asked about, with their channels."""
    from sgsc_edge import explanation

    return explanation.layers(_one_build(folder))


def inspect(path: str | Path) -> Inspection:
    """Ops, widths, shapes, quantization and bytes of an ``.onnx`` or ``.tflite`` file."""
    from sgsc_edge.inspection import inspect_model

    return inspect_model(Path(path))


def lowers(path: str | Path, target: str | Path = DEFAULT_TARGET) -> Lowers:
    """Which nodes of an ``.onnx`` a target runs, and which are refused; nothing is trained or written."""
    from sgsc_edge.inspection.lowers import lowers
    from sgsc_edge.targets import load_target

    return lowers(Path(path), load_target(target))


def compare(first: str | Path, second: str | Path) -> Comparison:
    """Two model files side by side, also an ``.onnx`` with a ``.tflite``."""
    from sgsc_edge import inspection

    return inspection.compare(inspect(first), inspect(second))


def fit(
    source: str | Path,
    board: str | Path,
    *,
    target: str | Path | None = None,
    settings: Sequence[str] = (),
    toolchain: Literal["gcc", "zig"] | None = None,
) -> Footprint:
    """What a model takes of a board: flash, RAM, instructions, layer by layer.

    Parameters
    ----------
    source: a build folder, a ``.tflite`` file, or a project's folder: its network, calibrated, not trained.
    board: a board's name, or the path of its ``.toml``.
    target: of a project; None for ``tflite-int8``.
    settings: of a project, as :func:`build` takes them; others have none.
    toolchain: the compiler; None for the system's, else the pip-installed one, else sizes are estimated.
    """
    from sgsc_edge.footprint import compiler_for, footprint
    from sgsc_edge.packaging import read_model
    from sgsc_edge.targets import load_target

    path, loaded = _one_build(source), load_board(board)
    compiler = compiler_for(loaded.chip, toolchain)
    if path.suffix.lower() == ".onnx":
        raise ConfigError(
            "an .onnx is not what a board runs",
            where=str(path),
            remedy="give the project's folder, the build folder beside it, or a .tflite",
        )
    if path.suffix == ".toml" or any((path / name).is_file() for name in _PROJECT_FILES):
        wanted = DEFAULT_TARGET if target is None else target
        graph, learned = lowered(path, wanted, settings), load_target(wanted).packs
    elif target is not None:
        raise ConfigError(
            "a target is for projects; this model is lowered already",
            where=str(path),
            remedy="leave --target out, or give the project's folder",
        )
    elif path.is_dir() and not (path / _MANIFEST).is_file():
        raise ConfigError(
            "is neither a project (sgsc.toml) nor a build (manifest.json)",
            where=str(path),
            remedy="give a project's folder, build/<target>, or a .tflite",
        )
    else:
        model = read_model(path)
        graph, learned = model.graph, model.learned
    return footprint(
        graph,
        loaded.chip,
        model=str(path),
        board=loaded.name,
        compiler=compiler,
        uart=loaded.link,
        learned=learned,
    )


def lowered(project: str | Path, target: str | Path = DEFAULT_TARGET, settings: Sequence[str] = ()) -> Graph:
    """A project's network for a target, calibrated and not trained."""
    from sgsc_edge import pipeline

    return next(pipeline.untrained_graph(*each) for each in prepare(project, [target], settings))


def package(
    source: str | Path,
    kind: str = "c-code",
    *,
    out: str | Path | None = None,
    name: str | None = None,
    learned: bool | None = None,
    arena: int | None = None,
) -> Packaged:
    """Write a build folder's model, or a ``.tflite`` file, as a package for an embedded project.

    Parameters
    ----------
    kind: ``"c-code"``, or ``"c-array"`` for TensorFlow Lite Micro.
    out: the package's folder; None for ``package/<kind>`` in a build folder, ``./<name>-<kind>`` for a file.
    name: of the model in the code; None for its own.
    learned: c-code: weights at the smallest width that holds each filter, instead of the ``.tflite``'s; None
        for what the build's target says (a file: the ``.tflite``'s).
    arena: c-array: bytes of the interpreter's arena; None for as many as TFLite Micro takes, and a margin.
    """
    from sgsc_edge.artifacts import refuse_links
    from sgsc_edge.packaging import package_c_array, package_c_code, read_source

    if kind not in ("c-code", "c-array"):
        raise ConfigError(f"there is no format '{kind}'", where="--format", remedy="use c-code or c-array")
    foreign = "--weights" if kind == "c-array" and learned is not None else None
    foreign = "--arena" if kind == "c-code" and arena is not None else foreign
    if foreign is not None:
        raise ConfigError(f"{kind} has no such option", where=foreign, remedy="leave it out")
    read = read_source(_one_build(source))
    around, part = (
        (Path(), f"{read.name}-{kind}") if read.folder is None else (read.folder, f"package/{kind}")
    )
    if out is None:
        refuse_links(around, part)
    folder = around / part if out is None else Path(out)
    if kind == "c-array":
        return package_c_array(read, folder, name=name, arena=arena)
    return package_c_code(read, folder, name=name, learned=learned)


def flash(
    folder: str | Path,
    board: str | Path,
    *,
    toolchain: Literal["gcc", "zig"] | None = None,
    samples: int | None = None,
    timeout_s: float | None = None,
) -> BoardCertificate:
    """Put a certified build on a board and certify what the board computes.

    Parameters
    ----------
    board: a board's name, or the path of its ``.toml``.
    toolchain: the compiler; None for the system's, else the pip-installed one.
    samples: certify samples to run, evenly over the classes; None for all.
    timeout_s: seconds to wait for one answer of the board; None for as many as boards of its kind have.
    """
    from sgsc_edge import flash as flashing

    described = load_board(board)
    return flashing.flash(
        _one_build(folder), described, toolchain=toolchain, samples=samples, timeout_s=timeout_s
    )


def flash_steps(
    folder: str | Path,
    board: str | Path,
    *,
    toolchain: Literal["gcc", "zig"] | None = None,
    samples: int | None = None,
) -> tuple[str, ...]:
    """What :func:`flash` would do, a line a step."""
    from sgsc_edge import flash as flashing

    return flashing.steps(_one_build(folder), load_board(board), toolchain, samples).lines


def doctor(project: str | Path | None = None) -> Diagnosis:
    """What is installed, what is missing, what for, and how to mend it; nothing heavy is imported.

    ``project``: a folder or file that is examined, too, without its code being run; None for the current
    folder, where it is a project.
    """
    from sgsc_edge.doctor import diagnose

    return diagnose(None if project is None else Path(project))


def available_targets() -> list[Target]:
    """Every shipped target, by name."""
    from sgsc_edge import targets

    return targets.available_targets()


def available_runtimes() -> list[Available]:
    """Every runtime by name, with its installed version or what to install."""
    from sgsc_edge import runtimes

    return runtimes.available()


def available_boards() -> list[AvailableBoard]:
    """Every shipped board, with what is missing here to use it."""
    from sgsc_edge.boards import available

    return available.available_boards()


def _one_build(path: str | Path) -> Path:
    """The path; ``FileFormatError`` where it is the folder of several budgets, with a build for each."""
    path = Path(path)
    if (path / _FRONTIER).is_file() and not (path / _MANIFEST).is_file():
        points = sorted(str(found.parent) for found in path.glob(f"*/{_MANIFEST}"))
        raise FileFormatError(
            "holds a build for each of several budgets, and is none itself",
            where=str(path),
            remedy=f"give one of {', '.join(points)}" if points else "build again",
        )
    return path


def _require_build_packages(command: str) -> None:
    missing = [
        package for module, package in _BUILD_PACKAGES.items() if importlib.util.find_spec(module) is None
    ]
    if missing:
        raise ConfigError(
            f"{command} needs {', '.join(missing)}, not installed here",
            where=command,
            remedy="install them with: pip install 'sgsc-edge[build]'",
        )
