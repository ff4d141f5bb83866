"""``package`` as a process: from a build folder and from a file, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from c_code.hosted import STRICT, needs_gcc, run_c
from c_code.networks import NETWORKS
from certification.build_folders import BUILT, write_folder

from sgsc_edge.artifacts import read_npz, write_manifest
from sgsc_edge.errors import OutputError
from sgsc_edge.graph import ir, reference
from sgsc_edge.graph.ir import DType, Graph, Node, Quantization, Tensor
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.packaging import package_c_code, read_source


def package(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sgsc_edge.cli.main", "package", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=cwd)


@needs_gcc
def test_a_build_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "build")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = package(folder, "--format", "c-code", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    made = folder / "package" / "c-code"
    assert document["folder"] == str(made)
    described = json.loads((made / "package.json").read_text())
    assert {name: document[name] for name in described} == described
    files = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert files == {*described["files"], "package.json"}
    assert {name: (folder / name).read_bytes() for name in before} == before
    example = tmp_path / "example"
    sources = [*map(str, made.glob("*.c")), str(made / "example" / "main.c")]
    subprocess.run(["gcc", *STRICT, "-I", str(made), "-o", str(example), *sources], check=True)
    arrays = read_npz(folder / "preservation.npz")
    ran = subprocess.run(
        [str(example)], input=arrays["certify_inputs"].tobytes(), capture_output=True, check=True
    )
    outputs = np.frombuffer(ran.stdout, np.int8).reshape(arrays["certify_compressed_logits"].shape)
    np.testing.assert_array_equal(outputs, arrays["certify_compressed_logits"])
    assert b"passed" in ran.stderr


@pytest.mark.parametrize(
    ("code", "option", "weights"),
    [
        ({}, (), "stored"),
        ({"weights": "learned"}, (), "learned"),
        ({"weights": "learned"}, ("stored",), "stored"),
    ],
)
def test_weights_are_packed_where_the_target_or_an_option_says_so(
    tmp_path: Path, code: dict[str, str], option: tuple[str, ...], weights: str
) -> None:
    folder = write_folder(tmp_path / "build")
    write_manifest(folder, BUILT, tools={}, seeds={}, inputs={}, code=code)
    done = package(folder, "--format", "c-code", *(part for o in option for part in ("--weights", o)))
    assert done.returncode == 0, done.stderr
    made = folder / "package" / "c-code"
    assert json.loads((made / "package.json").read_text())["weights"] == weights
    assert ("sgsc_unpack(" in (made / "model.c").read_text()) == (weights == "learned")


def test_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "build")
    for out in ("a", "b"):
        assert package(folder, "--format", "c-code", "--out", tmp_path / out).returncode == 0
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 8
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


@pytest.mark.parametrize("stranger", ["CMakeLists.txt", "example/main.c", "package.json"])
def test_a_folder_with_other_files_is_refused_and_left_as_it_is(stranger: str, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(write_tflite(NETWORKS["residual"]))
    theirs = tmp_path / "project" / stranger
    theirs.parent.mkdir(parents=True)
    theirs.write_text('{"name": "theirs"}')
    done = package(tmp_path / "m.tflite", "--format", "c-code", "--out", tmp_path / "project")
    assert done.returncode == 2
    assert "project: holds files, and no package of sgsc-edge" in done.stderr
    assert "move them away, or package into a new folder" in done.stderr
    assert theirs.read_text() == '{"name": "theirs"}'
    assert [path for path in (tmp_path / "project").rglob("*") if path.is_file()] == [theirs]


def test_an_earlier_package_is_replaced_and_what_is_not_part_of_it_stays(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(write_tflite(NETWORKS["residual"]))
    source, out = read_source(tmp_path / "m.tflite"), tmp_path / "out"
    out.mkdir()
    (out / ".gitignore").touch()
    first = package_c_code(source, out).description
    outside = tmp_path / "precious"
    for path in (out / "old_kernels.c", out / "mine.c", outside):
        path.touch()
    files = [*first["files"], "old_kernels.c", "../precious"]
    (out / "package.json").write_text(json.dumps({**first, "files": files}))
    package_c_code(source, out, name="other")
    left = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    renamed = {name.replace("sgsc_m.h", "sgsc_other.h") for name in first["files"]}
    assert left == {*renamed, "package.json", ".gitignore", "mine.c"}
    assert json.loads((out / "package.json").read_text())["name"] == "other"
    assert outside.exists()


def test_a_folder_in_the_package_that_is_a_link_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(write_tflite(NETWORKS["residual"]))
    source, out, theirs = read_source(tmp_path / "m.tflite"), tmp_path / "out", tmp_path / "theirs"
    package_c_code(source, out)
    theirs.mkdir()
    (out / "old").symlink_to(theirs)
    for name, listed in (("main.c", "example/main.c"), ("precious", "old/precious")):
        described = json.loads((out / "package.json").read_text())
        described["files"] = [*described["files"], listed]
        (out / "package.json").write_text(json.dumps(described))
        (theirs / name).write_text("theirs")
    before = files_of(out)
    with pytest.raises(OutputError, match="old: is a symbolic link"):
        package_c_code(source, out, name="other")
    assert files_of(out) == before
    shutil.rmtree(out / "example")
    (out / "old").rename(out / "example")
    with pytest.raises(OutputError, match="example: is a symbolic link"):
        package_c_code(source, out, name="other")
    assert files_of(theirs) == {"main.c": b"theirs", "precious": b"theirs"}


@pytest.mark.parametrize("link", ["package", "package/c-code"])
def test_a_default_folder_that_is_a_link_is_refused(link: str, tmp_path: Path) -> None:
    folder, theirs = write_folder(tmp_path / "build"), tmp_path / "theirs"
    theirs.mkdir()
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to(theirs)
    done = package(folder, "--format", "c-code")
    assert done.returncode == 2
    assert f"{link}: is a symbolic link" in done.stderr
    assert not files_of(theirs)
    assert package(folder, "--format", "c-code", "--out", folder / link).returncode == 0  # as it is said
    assert (theirs / "package.json").is_file()


def files_of(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.mark.needs("cmake", "gcc")
def test_a_file_from_elsewhere_builds_with_cmake(tmp_path: Path) -> None:
    graph = NETWORKS["separable"]
    (tmp_path / "3 nets.tflite").write_bytes(write_tflite(graph))
    done = package("3 nets.tflite", "--format", "c-code", "--weights", "learned", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "3 nets-c-code"
    assert "sgsc_m_3_nets_invoke" in done.stdout
    assert json.loads((folder / "package.json").read_text())["weights"] == "learned"
    build = tmp_path / "cmake"
    for command in (["-S", str(folder), "-B", str(build)], ["--build", str(build)]):
        subprocess.run(["cmake", *command], check=True, capture_output=True)
    x = np.random.default_rng(5).integers(-128, 128, (4, 16, 16, 1)).astype(np.int8)
    ran = subprocess.run([str(build / "example")], input=x.tobytes(), capture_output=True, check=True)
    outputs = np.frombuffer(ran.stdout, np.int8).reshape(4, -1)
    np.testing.assert_array_equal(outputs, reference.run(graph, x))


def test_packaging_needs_no_torch(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "build")
    code = (
        "import sys; sys.modules['torch'] = None; from sgsc_edge import api; "
        f"api.package({str(folder)!r}, 'c-code', out={str(tmp_path / 'out')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_samples_of_a_build_cover_its_classes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "build")
    source = read_source(folder)
    (inputs,) = source.inputs.values()
    arrays = read_npz(folder / "preservation.npz")
    labels = [
        arrays["certify_labels"][np.flatnonzero((arrays["certify_inputs"] == x).all((1, 2, 3)))[0]]
        for x in inputs
    ]
    assert len(inputs) == 8
    assert set(labels) == set(arrays["certify_labels"])


def unsupported(folder: Path) -> Path:
    x, y = (Tensor(name, (1, 4), DType.FLOAT32) for name in "xy")
    graph = Graph("g", {"x": x, "y": y}, (Node(ir.Relu(), ("x",), ("y",), "act"),), ("x",), ("y",))
    path = folder / "float.tflite"
    path.write_bytes(write_tflite(graph))
    return path


def truncated(folder: Path) -> Path:
    path = folder / "cut.tflite"
    path.write_bytes(write_tflite(NETWORKS["mixed"])[:500])
    return path


def edited(folder: Path) -> Path:
    build = write_folder(folder / "build")
    with (build / "model.tflite").open("ab") as file:
        file.write(b"\0")
    return build


def no_model(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (unsupported, "float32"),
        (truncated, "cut.tflite"),
        (edited, "manifest.json"),
        (no_model, "neither a build folder nor a .tflite"),
        (lambda folder: folder / "absent.tflite", "absent.tflite"),
        (lambda folder: folder, "manifest.json"),
    ],
    ids=["float32", "truncated", "edited", "onnx", "absent", "empty"],
)
def test_bad_input_is_refused_and_nothing_is_written(make, says: str, tmp_path: Path) -> None:
    done = package(make(tmp_path), "--format", "c-code", "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(write_tflite(NETWORKS["residual"]))
    (tmp_path / "out").write_text("a file")
    done = package(tmp_path / "m.tflite", "--format", "c-code", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert str(tmp_path / "out") in done.stderr


def test_a_graph_of_many_names_is_read_back(tmp_path: Path) -> None:
    """The package of a file is that of the graph that the reader makes of it."""
    graph = replace(NETWORKS["mixed"], name="g")
    path = tmp_path / "g.tflite"
    path.write_bytes(write_tflite(graph))
    source = read_source(path)
    read = read_tflite(path.read_bytes())
    for name, values in reference.run_tensors(read, source.inputs).items():
        np.testing.assert_array_equal(source.outputs[name], values)


@needs_gcc
def test_indices_are_an_input_and_the_nearest_row_stands_for_those_outside(tmp_path: Path) -> None:
    grid = Quantization.per_tensor(0.1, 3)
    table = Tensor("table", (3, 2), DType.INT8, grid, np.arange(6, dtype=np.int8).reshape(3, 2))
    tensors = {
        "table": table,
        "x": Tensor("x", (1, 4), DType.INT32),
        "y": Tensor("y", (1, 4, 2), DType.INT8, grid),
    }
    graph = Graph("words", tensors, (Node(ir.Gather(), ("table", "x"), ("y",)),), ("x",), ("y",))
    path = tmp_path / "words.tflite"
    path.write_bytes(write_tflite(graph))
    samples = read_source(path).inputs["x"]  # for the self-test: rows of the table
    assert samples.dtype == np.int32
    assert set(samples.ravel()) == {0, 1, 2}
    made = run_c(graph, tmp_path / "c", {"x": np.array([[-5, 0, 2, 2**31 - 1]], np.int32)}, "-O0")
    np.testing.assert_array_equal(made["y"], [[[0, 1], [0, 1], [4, 5], [4, 5]]])


@pytest.mark.needs("cmake", "gcc")
def test_two_models_in_one_project(tmp_path: Path) -> None:
    for name in ("residual", "mixed"):
        (tmp_path / f"{name}.tflite").write_bytes(write_tflite(NETWORKS[name]))
        assert package(f"{name}.tflite", "--format", "c-code", "--out", name, cwd=tmp_path).returncode == 0
    (tmp_path / "main.c").write_text(
        '#include "sgsc_residual.h"\n#include "sgsc_mixed.h"\n'
        "static sgsc_residual_output first;\nstatic sgsc_mixed_output second;\n"
        "int main(void) { return sgsc_residual_selftest(&first) + sgsc_mixed_selftest(&second); }\n"
    )
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.10)\nproject(two C)\n"
        "add_subdirectory(residual)\nadd_subdirectory(mixed)\n"
        "add_executable(two main.c)\ntarget_link_libraries(two sgsc_residual sgsc_mixed)\n"
    )
    build = tmp_path / "cmake"
    for command in (["-S", str(tmp_path), "-B", str(build)], ["--build", str(build)]):
        subprocess.run(["cmake", *command], check=True, capture_output=True)
    assert subprocess.run([str(build / "two")], check=False).returncode == 0
