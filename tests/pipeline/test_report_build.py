"""Each build ends with its report, which follows from the folder alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from pipeline.conftest import sgsc_edge
from report.report_folders import write_board

from sgsc_edge import api
from sgsc_edge.c_code.write import c_code
from sgsc_edge.report import read_build
from sgsc_edge.report.sections.sizes import sizes_view

TARGET = "tflite-int8"


def build(folder: Path, *options: str) -> None:
    ran = sgsc_edge("build", folder, "--target", TARGET, "--out", folder / "build", *options)
    assert ran.code == 0, ran.err


def test_a_build_leaves_its_report_and_makes_it_anew_when_it_must(built: Path) -> None:
    folder = built / "build" / TARGET
    report = folder / "report.html"
    page, written = report.read_bytes(), report.stat().st_mtime_ns
    assert b"stripes" in page
    build(built)
    assert report.stat().st_mtime_ns == written
    report.unlink()
    build(built)
    assert report.read_bytes() == page
    written = report.stat().st_mtime_ns
    # A board's certificate is shown once there is one; then nothing is written again.
    write_board(folder, "the-board", api.verify(folder).predicate.digest)
    build(built)
    assert b"the-board" in report.read_bytes()
    assert report.stat().st_mtime_ns > written
    assert api.verify(folder).differences == ()
    assert "report.html" not in (folder / "manifest.json").read_text()


def test_the_command_says_where_the_page_is(built: Path, tmp_path: Path) -> None:
    folder = built / "build" / TARGET
    page = (folder / "report.html").read_bytes()
    ran = sgsc_edge("report", folder, "--out", tmp_path / "page.html", "--json")
    assert ran.code == 0, ran.err
    assert ran.document == {"report": str(tmp_path / "page.html"), "bytes": len(page), "verdict": "PASSED"}
    assert (tmp_path / "page.html").read_bytes() == page
    (folder / "plan.json").write_text("{}")
    ran = sgsc_edge("report", folder)
    assert ran.code == 2
    assert "plan.json: has changed since manifest.json was written" in ran.err


def test_a_report_that_cannot_be_made_costs_the_report_alone(built: Path) -> None:
    """The new build stands. What cannot be read of a board is said on the page."""
    folder = built / "build" / TARGET
    before = api.verify(folder).predicate.digest
    (folder / "certificate.old.json").mkdir()
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    command = ("build", built, "--target", TARGET, "--out", built / "build", "--set", "compress.seed=1")
    ran = sgsc_edge(*command, "--json")
    assert ran.code == 0, ran.err
    assert "report: not made, and nothing else is lost: " in ran.err
    assert "report.html: cannot write: Is a directory" in ran.err
    assert ran.document["builds"][0]["report"] is None
    assert api.verify(folder).predicate.digest != before
    assert not (folder / ".earlier").exists()
    (folder / "report.html").rmdir()
    ran = sgsc_edge(*command)
    assert ran.code == 0, ran.err
    assert "certificate.old.json cannot be read" in (folder / "report.html").read_text()


def test_it_is_made_without_torch(built: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from sgsc_edge import api; "
        f"print(api.report({str(built / 'build' / TARGET)!r}).verdict)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "PASSED\n", done.stderr


def test_plain_int8_is_what_a_plain_build_stores(built: Path) -> None:
    found = read_build(built / "build" / TARGET)
    view = sizes_view(found)
    float_row, plain, this = view.parameters
    # Conv2d 4x1x3x3 + 4, BatchNorm 4 + 4, Linear 3x36 + 3.
    assert float_row.nbytes == 4 * (36 + 4 + 8 + 108 + 3)
    assert found.plan is not None
    assert plain.nbytes == this.nbytes == sum(layer.bytes for layer in found.plan.layers)
    # In C code it is what the package of this very build holds.
    packed = sizes_view(replace(found, manifest=replace(found.manifest, code={"weights": "learned"})))
    in_c = c_code(found.graph, name="model", model_hash="0" * 64).constant_bytes
    assert packed.parameters[1].nbytes == in_c < plain.nbytes
    assert len(packed.parameters) == 3
    assert sum(row.nbytes for row in view.file) == (found.path / "model.tflite").stat().st_size
