"""Onto the board: a build's model as firmware, and the certificate repeated on the device itself.

The firmware holds the generated C code. The board computes samples of the build and answers with integers;
each must be what TensorFlow Lite Micro gives for the certified ``.tflite``. The result is a statement of
its own, ``certificate.<board>.json``, about the model, the build's certificate and the firmware image.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.artifacts import (
    FolderLock,
    output_errors,
    read_npz,
    refuse_links,
    remove_leftovers,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
)
from sgsc_edge.boards.available import require
from sgsc_edge.boards.description import Board
from sgsc_edge.boards.run import BoardRun, run_image
from sgsc_edge.certification.boards import BOARD_PREDICATE_TYPE, board_digest
from sgsc_edge.certification.certificate import CERTIFICATE_NAME, Certificate, read_certificate
from sgsc_edge.certification.records import STATEMENT_TYPE, Verdict
from sgsc_edge.certification.samples import CERTIFY, MUST_KEEP, SampleSet, read_samples
from sgsc_edge.certification.verify import DEFAULT_TIMEOUT_S
from sgsc_edge.errors import BoardError, FileFormatError, FolderInUseError, InternalError, OutputError
from sgsc_edge.firmware.package import read_package
from sgsc_edge.firmware.toolchain import Kind, find_toolchain
from sgsc_edge.graph import reference
from sgsc_edge.graph.ir import Graph
from sgsc_edge.packaging import package_c_code, read_source
from sgsc_edge.packaging.source import MODEL, SAMPLES, check_lowered
from sgsc_edge.report import REPORT, costs_only_the_report, write_report
from sgsc_edge.runtimes import run_runtime

log = logging.getLogger(__name__)

# Code for boards. What `package` writes is the user's, who chooses its weights and its name.
PACKAGE, CODE = "package", "firmware"
_EXIT_CODES = {Verdict.PASSED: 0, Verdict.FAILED: 1, Verdict.NOT_MEASURED: 3}
_SHOWN = 5
ORACLE = "tflm"
_EXPECTED_FROM = {"tflm": "TFLite Micro", "numpy": "the integer executor (TFLite Micro did not run)"}
_ROOM = "make room there and make it writable, or copy the build folder to where it can be written"


@dataclass(frozen=True)
class BoardCertificate:
    """What a board computed, as an in-toto statement; ``path`` is where it was written."""

    path: Path
    document: dict[str, Any]

    @property
    def predicate(self) -> dict[str, Any]:
        """What the statement says."""
        found: dict[str, Any] = self.document["predicate"]
        return found

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 3 where the build itself was not measured."""
        return _EXIT_CODES[Verdict(self.predicate["verdict"])]

    def to_text(self) -> str:
        """For people, the verdict first."""
        p = self.predicate
        sizes, limits, stack = p["sizes"], p["limits"], p["stack"]
        instructions = p["instructions_per_inference"]
        differing = p["differing"]
        equal = (
            f"{p['samples'] - len(differing)} of {p['samples']} samples equal, integer for integer, "
            f"to {_EXPECTED_FROM[p['expected_from']]}"
        )
        shown = f" (differs: {', '.join(differing[:_SHOWN])}{', ..' if len(differing) > _SHOWN else ''})"
        counted = "not counted" if instructions is None else f"{instructions:,} per inference"
        failed = p["selftest"]
        passed = "self-test passed" if p["selftest_samples"] else "no self-test"
        tested = f"self-test differs at sample {failed}" if failed else passed
        certified = p["build_verdict"]
        build = "" if certified == Verdict.PASSED else f"; the build's own certificate says {certified}"
        return "\n".join(
            (
                f"{p['verdict']}  {p['board']}: {equal}{shown if differing else ''}; {tested}{build}",
                f"instructions  {counted}",
                f"flash         {sizes['flash']:,} of {limits['flash']:,} bytes: code {sizes['code']:,}, "
                f"weights {sizes['weights']:,} ({p['weights']}), other constants {sizes['constants']:,}, "
                f"board {sizes['board']:,}; {p['verified_bytes']:,} read back and equal",
                f"RAM           {sizes['ram'] + sizes['stack']:,} of {limits['ram']:,} bytes: arena "
                f"{sizes['arena']:,}, stack {sizes['stack']:,} ({stack['total']:,} used, "
                f"{stack['inference']:,} of it by the inference)",
                f"compiler      {p['toolchain']}",
                f"certificate   {self.path}",
            )
        )


@dataclass(frozen=True)
class Steps:
    """What ``flash`` would do, in order."""

    lines: tuple[str, ...]


def steps(folder: Path, board: Board, toolchain: Kind | None, samples: int | None) -> Steps:
    """The steps of :func:`flash`, without taking any.

    Raises
    ------
    FileFormatError: the folder is no certified build.
    BoardError: there is no compiler, or what the board is reached by is not installed.
    """
    _check_folder(folder)
    build = _Build.read(folder)
    require(board)
    compiler = find_toolchain(board.chip, toolchain)
    chosen = build.choose(samples)
    return Steps(
        (
            f"write {build.code}: {MODEL} as C99",
            f"compile and link it for {board.chip.cpu}: {compiler.version} ({' '.join(compiler.command)})",
            f"write {build.image(board)}",
            _loading(board),
            "have the board read its flash back, and compare it with that file",
            f"run the self-test, then {len(chosen.ids)} of {build.total} samples of {SAMPLES}, and compare",
            f"write {build.certificate(board)}",
            *([f"renew {build.folder / REPORT}"] if (build.folder / REPORT).exists() else []),
        )
    )


def flash(
    folder: Path,
    board: Board,
    *,
    toolchain: Kind | None = None,
    samples: int | None = None,
    timeout_s: float | None = None,
) -> BoardCertificate:
    """Build the firmware of a certified build, run it on a board and certify what the board computes.

    Parameters
    ----------
    toolchain: the compiler; None for the system's, else the pip-installed one.
    samples: certify samples to run, evenly over the classes; None for all. Samples of must_keep, and those
        whose decision compression or a runtime changed, are always among them.
    timeout_s: seconds to wait for one answer; None for as many as boards of its kind have.

    Raises
    ------
    FileFormatError: the folder is no certified build, or its files do not belong together.
    UnsupportedError: an op has no kernel in C.
    OutputError: the folder cannot be written, another process works in it, or a folder that is written in
        it is a symbolic link.
    BoardError: the compiler, the board, its memory or the link.
    """
    with _alone_in(folder):
        return _flash(folder, board, toolchain, samples, timeout_s)


def _flash(
    folder: Path, board: Board, toolchain: Kind | None, samples: int | None, timeout_s: float | None
) -> BoardCertificate:
    build = _Build.read(folder)
    require(board)
    compiler = find_toolchain(board.chip, toolchain)
    from sgsc_edge.firmware.image import build_image

    source = read_source(folder)
    written = package_c_code(source, build.code).description
    package = read_package(build.code)
    image = build_image(package, board.chip, compiler, board.link)
    with output_errors(build.certificate(board)):  # of another image: it says nothing about this one
        build.certificate(board).unlink(missing_ok=True)
    write_bytes(build.image(board), image.elf)
    log.info("firmware: %s", build.image(board))
    _check_connected(board, build.image(board))
    chosen = build.choose(samples)
    fed = chosen.inputs.reshape(len(chosen.inputs), -1)
    run = run_image(image, package, board, fed, toolchain=compiler.version, timeout_s=timeout_s)
    expected = _expected(folder / MODEL, source.graph, chosen.inputs)
    document = _statement(build, board, run, chosen, expected, written)
    write_json(build.certificate(board), document)
    if (folder / REPORT).exists():
        with costs_only_the_report(folder):
            write_report(folder)  # it shows the boards
    return BoardCertificate(build.certificate(board), document)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise FileFormatError("is no folder", where=str(folder), remedy="give build/<target> of a build")
    refuse_links(folder, f"{PACKAGE}/{CODE}")


def _check_connected(board: Board, image: Path) -> None:
    """``BoardError`` where its port is not there; one may appear only with the firmware."""
    if board.reach.port is None:
        return
    from sgsc_edge.boards.serial_port import find_port

    try:
        find_port(board.reach.port, board.name)
    except BoardError as error:
        raise BoardError(
            error.message,
            where=error.where,
            remedy=f"{error.remedy}; where it comes with the firmware, write {image} "
            "to the board with its own tool first",
        ) from error


@dataclass(frozen=True, eq=False)
class _Expected:
    """What the board must answer, int8 [n, K], and the runtime that computed it."""

    outputs: NDArray[np.int8]
    source: Literal["tflm", "numpy"]


def _expected(model: Path, graph: Graph, inputs: NDArray[np.int8]) -> _Expected:
    """Of TFLite Micro; where that cannot run, of the integer executor. They must not differ."""
    computed = reference.run(graph, inputs).reshape(len(inputs), -1)
    result = run_runtime(ORACLE, model, inputs, timeout_s=DEFAULT_TIMEOUT_S)
    if result.outputs is None or result.stand_in is not None:
        reason = result.reason or "it has no package for this machine"
        log.warning("compared with the integer executor; TFLite Micro did not run: %s", reason)
        return _Expected(computed, "numpy")
    if not np.array_equal(result.outputs, computed):
        raise InternalError(
            f"TFLite Micro {result.version} and the integer executor differ in "
            f"{np.any(result.outputs != computed, axis=1).sum()} of {len(inputs)} samples",
            where=str(model),
        )
    return _Expected(result.outputs, "tflm")


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """The folder's lock, without what killed writers left; errors of writing say what helps here."""
    _check_folder(folder)
    try:
        with FolderLock(folder):
            for part in (folder, folder / PACKAGE, folder / PACKAGE / CODE):
                if part.is_dir():
                    remove_leftovers(part)
            yield
    except FolderInUseError as error:
        raise FolderInUseError(error.message, where=error.where, remedy="wait for it to end") from error
    except OutputError as error:
        if not isinstance(error.__cause__, OSError):  # refused by us
            raise
        if error.where is None or not Path(error.where).is_relative_to(folder):  # temporary files
            raise
        raise OutputError(error.message, where=error.where, remedy=_ROOM) from error


def _loading(board: Board) -> str:
    if board.reach.port is not None:
        return f"expect it on {board.name} at {board.reach.port}: the board's own tool writes it there"
    return f"load it on {board.name} ({board.reach.via})"


@dataclass(frozen=True, eq=False)
class _Samples:
    """Samples to run: ids and inputs int8 [n, ...]."""

    ids: tuple[str, ...]
    inputs: NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class _Build:
    """A certified build folder."""

    folder: Path
    certified: Certificate
    sets: dict[str, SampleSet]

    @staticmethod
    def read(folder: Path) -> _Build:
        """Read what ``build`` wrote; FileFormatError where files do not belong together."""
        files = check_lowered(folder).files
        certified = read_certificate(folder / CERTIFICATE_NAME)
        for name in (MODEL, SAMPLES):
            if certified.subjects.get(name) != files[name]:
                raise FileFormatError(
                    f"is about another {name} than the one here",
                    where=str(folder / CERTIFICATE_NAME),
                    remedy="restore the certificate that belongs to this folder, or build again",
                )
        path = folder / SAMPLES
        return _Build(folder, certified, read_samples(read_npz(path), where=str(path)))

    @property
    def code(self) -> Path:
        """Where the C code goes."""
        return self.folder / PACKAGE / CODE

    def image(self, board: Board) -> Path:
        """Where the firmware goes."""
        return self.folder / PACKAGE / f"firmware.{board.name}.elf"

    def certificate(self, board: Board) -> Path:
        """Where the board's certificate goes."""
        return self.folder / f"certificate.{board.name}.json"

    @property
    def total(self) -> int:
        """Samples of the sets that gate."""
        return sum(len(self.sets[name]) for name in (CERTIFY, MUST_KEEP) if name in self.sets)

    def choose(self, samples: int | None) -> _Samples:
        """Of certify evenly over the classes, with every changed decision; and all of must_keep."""
        certify = self.sets[CERTIFY]
        by_class = np.argsort(certify.labels, kind="stable")
        wanted = len(by_class) if samples is None else min(samples, len(by_class))
        even = by_class[np.linspace(0, len(by_class) - 1, wanted).astype(int)] if wanted else by_class[:0]
        changed = np.flatnonzero(np.isin(certify.ids, sorted(self._changed())))
        rows = sorted({*even.tolist(), *changed.tolist()})
        ids, inputs = list(certify.ids[rows]), certify.inputs[rows]
        if MUST_KEEP in self.sets:
            kept = self.sets[MUST_KEEP]
            new = [row for row, name in enumerate(kept.ids) if name not in set(ids)]
            ids, inputs = [*ids, *kept.ids[new]], np.concatenate([inputs, kept.inputs[new]])
        return _Samples(tuple(map(str, ids)), inputs)

    def _changed(self) -> set[str]:
        """Certify samples whose decision compression or a runtime changed."""
        found: set[str] = set()
        for row in self.certified.predicate.runtimes:
            measured = row.sets.get(CERTIFY)
            if measured is not None:
                groups: tuple[Sequence[str] | None, ...] = (
                    measured.negative_flips,
                    measured.positive_flips,
                    measured.differs_from_compressed,
                )
                found.update(name for group in groups for name in group or ())
        return found


def _statement(
    build: _Build,
    board: Board,
    run: BoardRun,
    chosen: _Samples,
    expected: _Expected,
    written: Mapping[str, Any],
) -> dict[str, Any]:
    differing = [
        name
        for name, got, wanted in zip(chosen.ids, run.outputs, expected.outputs, strict=True)
        if not np.array_equal(got, wanted)
    ]
    certified = build.certified.verdict
    predicate: dict[str, Any] = {
        "verdict": Verdict.FAILED if differing or run.selftest else certified,
        "build_verdict": certified,
        "board": board.name,
        "chip": board.chip.model_dump(mode="json"),
        "reached": board.reach.model_dump(mode="json", exclude_none=True),
        "weights": written["weights"],
        "toolchain": run.toolchain,
        "target": build.certified.predicate.target,
        "build_certificate_digest": build.certified.predicate.digest,
        "samples": len(chosen.ids),
        "samples_sha256": sha256_bytes(np.ascontiguousarray(chosen.inputs).tobytes()),
        "expected_from": expected.source,
        "differing": differing,
        "selftest": run.selftest,
        "selftest_samples": written["selftest_samples"],
        "instructions_per_inference": run.instructions,
        "stack": asdict(run.stack),
        "sizes": asdict(run.sizes),
        "verified_bytes": run.verified,
        "limits": {"flash": board.chip.flash.size, "ram": board.chip.ram.size},
    }
    subjects = {
        MODEL: sha256_file(build.folder / MODEL),
        CERTIFICATE_NAME: sha256_file(build.folder / CERTIFICATE_NAME),
        f"{PACKAGE}/{build.image(board).name}": run.image_sha256,
    }
    document: dict[str, Any] = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects.items()],
        "predicateType": BOARD_PREDICATE_TYPE,
        "predicate": predicate,
    }
    predicate["digest"] = board_digest(document)
    return document
