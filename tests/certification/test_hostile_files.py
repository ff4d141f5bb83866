"""Damaged files, with hashes that fit: a small sample of what a benchmark does to a real build."""

from __future__ import annotations

import collections
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from build_folders import context, write_folder
from pipeline.conftest import TESTED

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # benchmarks/ is not part of the installed package

from benchmarks import hostile  # noqa: E402
from benchmarks.hostile import Found, rows  # noqa: E402
from benchmarks.mutants import MUTATORS, draws, means_the_same, mutant  # noqa: E402
from sgsc_edge.certification.verify import certify_folder, verify_folder  # noqa: E402
from sgsc_edge.errors import FileFormatError  # noqa: E402

COUNT = 60
ENGINES = ("onnxruntime", "litert", "litert-reference", "tflm", "numpy")


def originals(folder: Path) -> dict[str, bytes]:
    files = {name: (folder / name).read_bytes() for name in MUTATORS if name != "sgsc.toml"}
    return {**files, "sgsc.toml": TESTED.encode()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("hostile") / "tflite-int8")
    assert certify_folder(folder, context(ENGINES)).verdict == "PASSED"
    (folder.parent / "sgsc.toml").write_text(TESTED)
    (folder.parent / "data.py").write_text("")
    return folder


def test_damaged_files_are_refused_or_compute_the_same(folder: Path) -> None:
    """The benchmark itself, on a tiny build; what it finds here is a fault of the commands."""
    script = (
        "import sys; from pathlib import Path; from benchmarks import hostile, record\n"
        "record.RESULTS = Path(sys.argv.pop(1)); hostile.WORK = record.RESULTS\n"
        "if __name__ == '__main__': sys.exit(hostile.main())"
    )
    start = folder.parent / "start.py"
    start.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}")
    options = ["--count", COUNT, "--workers", 1, "--folder", folder, "--donor", folder]
    command = [sys.executable, start, folder.parent, *options, "--project", folder.parent / "sgsc.toml"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((folder.parent / "hostile.json").read_text())
    assert result["detail"]["faults"] == []
    for name in MUTATORS:
        assert any(f"{COUNT} x {name}" in row["measure"] for row in result["rows"]), name


@pytest.mark.parametrize("name", MUTATORS)
def test_mutations_are_seeded_differ_and_know_the_format(folder: Path, name: str) -> None:
    files = originals(folder)
    numbers = draws(name, files[name], files[name][::-1], 0, 40)
    made = [mutant(name, files[name], files[name][::-1], 0, number) for number in numbers]
    assert made == [mutant(name, files[name], files[name][::-1], 0, number) for number in numbers]
    assert len({data for data, _ in made} | {files[name]}) == 41
    assert all(data != files[name] for data, _ in made)
    assert len({data for data, _ in made}) > 30
    kinds = collections.Counter(":" in how for _, how in made)
    assert kinds[True] > 5
    assert kinds[False] > 5


def test_hashes_fit_after_resealing(folder: Path, tmp_path: Path) -> None:
    """A comment at the end of the ONNX file changes nothing but hashes: resealed it verifies."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    model = (copy / "model.qdq.onnx").read_bytes()
    (copy / "model.qdq.onnx").write_bytes(model + b"\x32\x01x")  # ModelProto.doc_string
    with pytest.raises(FileFormatError, match="changed since"):
        verify_folder(copy)
    hostile.reseal(copy)
    assert verify_folder(copy).verdict == "PASSED"


def test_faults_are_counted_as_such() -> None:
    one = Found("model.tflite", 0, "bit flips", False, "verify", "refused", "", 0.1, 1.0)
    for end, met in (("refused", True), ("other outputs", False), ("our bug", False)):
        table = rows([one, Found("model.tflite", 1, "bit flips", False, "verify", end, "", 0.1, 1.0)], 60.0)
        assert table[1].met is met
    lost = Found("model.tflite", 1, "", False, "", "hang", "", 120.0, 0.0)
    assert [row.met for row in rows([one, lost], 60.0)][1:3] == [False, False]


def test_files_that_say_the_same_in_other_bytes_are_known(folder: Path) -> None:
    files = originals(folder)
    spaced = files["certificate.json"] + b"\n"
    assert means_the_same("certificate.json", spaced, files["certificate.json"])
    assert means_the_same("sgsc.toml", files["sgsc.toml"] + b"# more\n", files["sgsc.toml"])
    for name, data in files.items():
        assert means_the_same(name, data, data)
        assert not means_the_same(name, data[: len(data) // 2], data)
