"""``package --format c-array``: compiled, read back, and compared with TFLite Micro and with ourselves."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from c_code.networks import NETWORKS
from certification.build_folders import write_folder

from sgsc_edge import api
from sgsc_edge.artifacts import read_npz
from sgsc_edge.c_names import header_name
from sgsc_edge.errors import InternalError, ModelError, NotMeasuredError
from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import DType, Graph, Node, Quantization, Tensor
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.numerics import dequantize, quantize
from sgsc_edge.packaging import on_tflm, package_c_array, read_source
from sgsc_edge.packaging.c_array import _METHODS
from sgsc_edge.runtimes import RunResult, Status, _execute

STRICT = ("-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow", "-pedantic")
INTERFACE = Path(__file__).parent / "tflm_interface"
TFLM_SOURCE = "SGSC_EDGE_TFLM_SOURCE"


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "sgsc_edge.cli.main", "package", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def compile_with(*arguments: str | Path) -> None:
    done = subprocess.run([*map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def write_model(folder: Path, graph: Graph, name: str = "net") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.tflite"
    path.write_bytes(write_tflite(graph))
    return path


def two_sided(scale: float = 0.037, zero_point: int = -5) -> Graph:
    """int8 and float32 in, int8 and float32 out; class names that C has to escape."""
    grid = Quantization.per_tensor(scale, zero_point)
    tensors = {
        "int": Tensor("int", (1, 4), DType.INT8, grid),
        "x": Tensor("x", (1, 4), DType.FLOAT32),
        "q": Tensor("q", (1, 4), DType.INT8, grid),
        "sum": Tensor("sum", (1, 4), DType.INT8, grid),
        "real": Tensor("real", (1, 4), DType.FLOAT32),
    }
    nodes = (
        Node(ir.Quantize(), ("x",), ("q",)),
        Node(ir.Add(), ("int", "q"), ("sum",)),
        Node(ir.Dequantize(), ("sum",), ("real",)),
    )
    metadata = {
        "sgsc.version": b'"2.1"',
        "sgsc.classes": json.dumps(['a "b"', "é?", "\\n", "d"]).encode(),
    }
    return Graph("two sided", tensors, nodes, ("int", "x"), ("sum", "real"), metadata)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """4-bit layers with two outputs; several types of inputs; a build folder."""
    folder = tmp_path_factory.mktemp("c-array")
    sources = {
        "mixed": write_model(folder, NETWORKS["mixed"], "mixed"),
        "two": write_model(folder, two_sided(), "two"),
        "build": write_folder(folder / "build"),
    }
    return {
        name: api.package(path, "c-array", out=folder / f"{name}-package").folder
        for name, path in sources.items()
    }


@pytest.mark.needs("gcc", "g++", "clang", "clang++")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("language", ["c99", "c11", "c++11", "c++17"])
def test_data_compile_as_c_and_as_cpp(
    packages: dict[str, Path], compiler: str, language: str, tmp_path: Path
) -> None:
    mode = ["-x", "c++"] if "++" in language else []
    for folder in packages.values():
        use = tmp_path / "use.c"
        include = f'#include "{header_name(described(folder)["name"])}"\n'
        use.write_text(f"{include}{include}int used(void);\nint used(void) {{ return 0; }}\n")
        sources = [folder / "model.c", folder / "samples.c", use]
        compile_with(compiler, *mode, f"-std={language}", *STRICT, "-fsyntax-only", "-I", folder, *sources)


@pytest.mark.needs("g++", "clang++")
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("language", ["c++11", "c++17"])
def test_the_example_compiles_against_the_interface(
    packages: dict[str, Path], compiler: str, language: str
) -> None:
    for folder in packages.values():
        example = folder / "example" / "main.cc"
        compile_with(
            compiler, f"-std={language}", *STRICT, "-fsyntax-only", "-I", folder, "-I", INTERFACE, example
        )


def described(folder: Path) -> dict:
    return json.loads((folder / "package.json").read_text())


def library(folder: Path, out: Path) -> ctypes.CDLL:
    """The data, and the header's inline functions under names that can be called."""
    name, lines = described(folder)["name"], []
    for kind, made, taken in (("input", "int8_t", "float"), ("output", "float", "int8_t")):
        for member in described(folder)[f"{kind}s"]:
            if member["scale"] is not None:
                function = f"{'quantize' if kind == 'input' else 'dequantize'}_{member['member']}"
                lines.append(
                    f"void {function}_all(const {taken} *x, {made} *y, int n);\n"
                    f"void {function}_all(const {taken} *x, {made} *y, int n) {{\n"
                    f"    for (int i = 0; i < n; i++) y[i] = sgsc_{name}_{function}(x[i]);\n}}\n"
                )
    if described(folder)["classes"]:
        lines.append(f"const char *const classes[] = SGSC_{name.upper()}_CLASSES;\n")
    out.mkdir(exist_ok=True)
    (out / "wrap.c").write_text(f'#include "{header_name(name)}"\n' + "".join(lines))
    made = out / "package.so"
    sources = [folder / "model.c", folder / "samples.c", out / "wrap.c"]
    compile_with("gcc", "-std=c99", *STRICT, "-fPIC", "-shared", "-I", folder, "-o", made, *sources)
    return ctypes.CDLL(str(made))


def bytes_of(loaded: ctypes.CDLL, symbol: str, size: int) -> bytes:
    return bytes((ctypes.c_uint8 * size).in_dll(loaded, symbol))


@pytest.mark.needs("gcc")
def test_the_array_is_the_file_and_aligned(packages: dict[str, Path], tmp_path: Path) -> None:
    for number, (name, path) in enumerate(
        {"mixed": "mixed.tflite", "two": "two.tflite", "build": "build/model.tflite"}.items()
    ):
        data = (packages["mixed"].parent / path).read_bytes()
        description = described(packages[name])
        loaded = library(packages[name], tmp_path / str(number))
        symbol = f"sgsc_{description['name']}_model"
        assert bytes_of(loaded, symbol, description["model_bytes"]) == data
        assert ctypes.addressof(ctypes.c_uint8.in_dll(loaded, symbol)) % 16 == 0


@pytest.mark.needs("gcc")
def test_samples_are_certify_samples_with_tflite_micros_outputs(
    packages: dict[str, Path], tmp_path: Path
) -> None:
    folder = packages["build"]
    description = described(folder)
    assert (description["expected_from"], description["selftest_samples"]) == ("tflm", 8)
    loaded = library(folder, tmp_path / "lib")
    count, name = description["selftest_samples"], description["name"]
    inputs, outputs = (
        np.frombuffer(bytes_of(loaded, f"sgsc_{name}_{kind}s", count * size), np.int8).reshape(count, -1)
        for kind, size in (("input", 32), ("output", 3))
    )
    arrays = read_npz(folder.parent / "build" / "preservation.npz")
    certify = arrays["certify_inputs"].reshape(len(arrays["certify_inputs"]), -1)
    for x, y in zip(inputs, outputs, strict=True):
        (row, *_) = np.flatnonzero((certify == x).all(1))
        np.testing.assert_array_equal(y, arrays["certify_compressed_logits"][row])


@pytest.mark.needs("gcc")
@pytest.mark.parametrize(("scale", "zero_point"), [(0.037, -5), (0.5, 127), (3e-5, -128), (2.0**100, 0)])
def test_conversions_are_those_of_the_host(scale: float, zero_point: int, tmp_path: Path) -> None:
    path = write_model(tmp_path, two_sided(scale, zero_point))
    loaded = library(api.package(path, "c-array", out=tmp_path / "p").folder, tmp_path / "lib")
    step = np.float32(scale)
    halves = (np.arange(-700, 701) / 2).astype(np.float32) * step  # with every tie that float32 keeps
    near = np.concatenate([np.nextafter(halves, np.float32(way)) for way in (-np.inf, np.inf)])
    chance = np.random.default_rng(0)
    wide = chance.standard_normal(5000).astype(np.float32) * step * np.float32(100)
    limits = np.array([3.4e38, -3.4e38, 1e-45, -1e-45, 0.0, -0.0], np.float32)
    x = np.concatenate([halves, near, wide, limits])
    np.testing.assert_array_equal(called(loaded.quantize_int__all, x, np.int8), quantize(x, step, zero_point))
    infinite = np.array([np.inf, -np.inf, np.nan], np.float32)
    assert called(loaded.quantize_int__all, infinite, np.int8).tolist() == [127, -128, 127]
    integers = np.arange(-128, 128).astype(np.int8)
    real = called(loaded.dequantize_sum_all, integers, np.float32)
    np.testing.assert_array_equal(real, dequantize(integers, step, zero_point))


def called(function, x: np.ndarray, dtype: type) -> np.ndarray:
    """``function(x, result, n)``."""
    made = np.empty(x.shape, dtype)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (x, made)]
    function(*pointers, x.size)
    return made


@pytest.mark.needs("gcc")
def test_names_and_versions_are_the_models(packages: dict[str, Path], tmp_path: Path) -> None:
    folder = packages["two"]
    description = described(folder)
    assert description["classes"] == ['a "b"', "é?", "\\n", "d"]
    assert description["version"] == "2.1"
    assert '_VERSION "2.1"' in (folder / header_name("two")).read_text()
    assert f'_HASH "{description["hash"]}"' in (folder / header_name("two")).read_text()
    names = (ctypes.c_char_p * 4).in_dll(library(folder, tmp_path / "lib"), "classes")
    assert [name.decode() for name in names] == description["classes"]


def test_the_resolver_has_the_ops_of_the_file_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPLIT and UNPACK are several slices to us, and one op to TFLite Micro; a fused ReLU is no op."""
    made = api.package(write_model(tmp_path, NETWORKS["residual"]), "c-array", out=tmp_path / "p")
    assert made.description["ops"] == ["Conv2D", "Add", "Mean", "Reshape", "FullyConnected", "Softmax"]
    text = (made.folder / "sgsc_net_ops.h").read_text()
    assert "MicroMutableOpResolver<6>" in text
    assert text.count("ops.Add") == 6
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "graph")
    from test_read_divided import divided

    for name, drops, ops in (("s", False, ["Split", "Concatenation"]), ("u", True, ["Unpack", "Pack"])):
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(divided(2, 2, False) if not drops else divided(4, 1, True))
        assert api.package(path, "c-array", out=tmp_path / name).description["ops"] == ops


def test_methods_of_the_resolver_are_methods_that_it_has() -> None:
    listed = (INTERFACE / "tensorflow/lite/micro/resolver_methods.inc").read_text()
    known = set(re.findall(r"^ADDS\((\w+)\)$", listed, re.MULTILINE))
    assert len(known) == 118
    assert set(_METHODS.values()) <= known


@pytest.mark.parametrize("stated", [b"[" * 100_000, b'["a"]', b'{"a": 1}', b"[1, 2, 3, 4]", b"\xff"])
def test_names_of_classes_that_are_none_are_left_out(tmp_path: Path, stated: bytes) -> None:
    graph = replace(two_sided(), metadata={"sgsc.classes": stated})
    made = api.package(write_model(tmp_path, graph), "c-array", out=tmp_path / "p")
    assert made.description["classes"] == []
    assert "CLASSES" not in (made.folder / header_name("net")).read_text()


def works_with(data: Path, arena: int) -> bool:
    script = (
        "import sys; from tflite_micro import runtime\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "runtime.Interpreter.from_bytes(data, arena_size=int(sys.argv[2])).invoke()\n"
    )
    line = [sys.executable, "-c", script, str(data), str(arena)]
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", ["mixed", "two", "build"])
def test_the_arena_is_the_smallest_that_works_and_a_margin(packages: dict[str, Path], name: str) -> None:
    path = packages["mixed"].parent / ("build/model.tflite" if name == "build" else f"{name}.tflite")
    description = described(packages[name])
    measured = description["arena_measured"]
    assert works_with(path, measured)
    assert not works_with(path, measured - 16)
    assert description["arena_bytes"] == -(-(measured + max(1024, measured // 8)) // 16) * 16
    assert description["arena_from"] == "measured"


def test_twice_gives_the_same_bytes_and_replaces_the_other_format(tmp_path: Path) -> None:
    path = write_model(tmp_path, NETWORKS["mixed"])
    first, out = tmp_path / "a", tmp_path / "b"
    api.package(path, "c-code", out=out)
    for folder in (first, out):
        api.package(path, "c-array", out=folder)
    files = {file.relative_to(first) for file in first.rglob("*") if file.is_file()}
    assert {file.relative_to(out) for file in out.rglob("*") if file.is_file()} == files
    assert {str(file) for file in files} == {*described(out)["files"], "package.json"}
    for file in files:
        assert (first / file).read_bytes() == (out / file).read_bytes()


def test_the_command_says_what_was_measured(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "build")
    done = command(folder, "--format", "c-array", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    made = folder / "package" / "c-array"
    assert document == {"folder": str(made)} | described(made)
    shown = command(folder, "--format", "c-array", "--arena", "9000").stdout
    assert "arena 9,000 bytes (given; TFLite Micro" in shown
    assert "8 samples with the outputs of TFLite Micro" in shown
    assert described(made)["arena_bytes"] == 9000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--format", "c-array", "--weights", "learned"), "--weights"),
        (("--format", "c-code", "--arena", "4096"), "--arena"),
        (("--format", "c-array", "--arena", "0"), "--arena"),
        (("--format", "c-arrays"), "c-array"),
    ],
)
def test_options_of_the_other_format_are_refused(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    done = command(write_model(tmp_path, NETWORKS["mixed"]), *arguments, "--out", tmp_path / "p")
    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / "p").exists()


@pytest.mark.needs("g++")
def test_a_sample_that_would_fill_the_flash_is_left_out(tmp_path: Path) -> None:
    grid = Quantization.per_tensor(0.1, 0)
    x, y = (Tensor(name, (1, 40_000), DType.INT8, grid) for name in "xy")
    graph = Graph("g", {"x": x, "y": y}, (Node(ir.Relu(), ("x",), ("y",)),), ("x",), ("y",))
    made = api.package(write_model(tmp_path, graph), "c-array", out=tmp_path / "p")
    assert made.description["selftest_samples"] == 0
    assert "samples.c" not in made.description["files"]
    assert "no samples" in made.to_text()
    example = made.folder / "example" / "main.cc"
    compile_with("g++", "-std=c++11", *STRICT, "-fsyntax-only", "-I", made.folder, "-I", INTERFACE, example)


# --- without TFLite Micro, and where it does not take the model -----------------------------------


@pytest.fixture
def _no_tflm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine for which tflite-micro has no package."""
    version = _execute.installed_version
    monkeypatch.setattr(_execute, "installed_version", lambda s: None if s.name == "tflm" else version(s))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")


@pytest.mark.usefixtures("_no_tflm")
def test_an_arena_that_cannot_be_measured_is_asked_for(tmp_path: Path) -> None:
    path = write_model(tmp_path, NETWORKS["mixed"])
    with pytest.raises(NotMeasuredError, match="has no package for linux on aarch64") as raised:
        api.package(path, "c-array", out=tmp_path / "p")
    assert raised.value.exit_code == 3
    assert "--arena" in str(raised.value)
    assert not (tmp_path / "p").exists()
    made = api.package(path, "c-array", out=tmp_path / "p", arena=30_000)
    description = made.description
    assert (description["arena_bytes"], description["arena_from"]) == (30_000, "given")
    assert (description["arena_measured"], description["expected_from"]) == (None, "numpy")
    assert "given, not measured" in made.to_text()
    assert "the integer executor, which stands in for TFLite Micro" in made.to_text()
    assert "given, not measured" in (made.folder / "README.md").read_text()


def test_a_tflite_micro_that_cannot_be_imported_says_nothing_about_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed, with a library that does not load."""
    broken = tmp_path / "site" / "tflite_micro"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libX.so.1: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent), prepend=os.pathsep)
    path = write_model(tmp_path, NETWORKS["mixed"])
    done = command(path, "--format", "c-array", "--out", tmp_path / "p")
    assert done.returncode == 3, done.stderr
    assert "cannot be imported: ImportError: libX.so.1" in done.stderr
    assert "--arena" in done.stderr
    assert not (tmp_path / "p").exists()
    done = command(path, "--format", "c-array", "--arena", "30000", "--out", tmp_path / "p")
    assert done.returncode == 0, done.stderr
    assert described(tmp_path / "p")["expected_from"] == "numpy"


def test_an_arena_below_the_measured_one_is_warned_of(packages: dict[str, Path], tmp_path: Path) -> None:
    path = packages["mixed"].parent / "mixed.tflite"
    measured = described(packages["mixed"])["arena_measured"]
    assert described(packages["mixed"])["arena_warning"] is None
    made = api.package(path, "c-array", arena=measured, out=tmp_path / "enough")
    assert made.description["arena_warning"] is None
    assert "warning" not in made.to_text()
    made = api.package(path, "c-array", arena=measured - 1, out=tmp_path / "less")
    says = f"an arena of {measured - 1:,} bytes is less than the {measured:,} that TFLite Micro takes here"
    assert made.description["arena_warning"].startswith(says)
    assert f"warning: {says}" in made.to_text()
    assert "too small there" in (made.folder / "README.md").read_text()
    assert "too small there" in (made.folder / "sgsc_mixed.h").read_text()


def test_a_model_that_tflite_micro_does_not_take(tmp_path: Path) -> None:
    """Its FULLY_CONNECTED takes one scale where weights have 4 bits."""
    grid = Quantization.per_tensor(0.1, 0)
    scales = Quantization(np.array([0.1, 0.2], np.float32), np.zeros(2, np.int64), 0)
    bias = Quantization(scales.scale * grid.scale[0], scales.zero_point, 0)
    tensors = {
        "x": Tensor("x", (1, 4), DType.INT8, grid),
        "w": Tensor("w", (2, 4), DType.INT4, scales, np.arange(-4, 4, dtype=np.int8).reshape(2, 4)),
        "b": Tensor("b", (2,), DType.INT32, bias, np.array([3, -4], np.int32)),
        "y": Tensor("y", (1, 2), DType.INT8, grid),
    }
    graph = Graph("g", tensors, (Node(ir.FullyConnected(), ("x", "w", "b"), ("y",)),), ("x",), ("y",))
    with pytest.raises(ModelError, match=r"TFLite Micro .* does not run it") as raised:
        api.package(write_model(tmp_path, graph), "c-array", out=tmp_path / "p")
    assert raised.value.exit_code == 2
    assert not (tmp_path / "p").exists()


def test_other_outputs_than_ours_are_our_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = read_source(write_model(tmp_path, NETWORKS["mixed"]))
    outputs = {name: values.copy() for name, values in source.outputs.items()}
    outputs[source.graph.outputs[0]][3, 1] ^= 1
    with pytest.raises(InternalError, match="differ"):
        package_c_array(replace(source, outputs=outputs), tmp_path / "p")
    assert not (tmp_path / "p").exists()
    crashed = RunResult(Status.CRASHED, version="1", reason="killed by SIGSEGV")
    imported = RunResult(Status.OK, np.zeros((1, 1), np.int8), version="1")
    results = iter([crashed, imported])
    monkeypatch.setattr(on_tflm, "execute", lambda *_, **__: next(results))
    with pytest.raises(ModelError, match="does not run it: killed by SIGSEGV"):
        package_c_array(source, tmp_path / "p")


# --- the real thing ----------------------------------------------------------------------------------


@pytest.mark.needs("make", "g++")
@pytest.mark.skipif(TFLM_SOURCE not in os.environ, reason=f"{TFLM_SOURCE} names no checkout of tflite-micro")
@pytest.mark.timeout(1800)
def test_the_example_runs_on_tflite_micro(packages: dict[str, Path], tmp_path: Path) -> None:
    """Built by its own makefile; that needs its downloads, or these folders in their place."""
    root = Path(os.environ[TFLM_SOURCE])
    make = ["make", "-f", "tensorflow/lite/micro/tools/make/Makefile", "microlite"]
    made = subprocess.run(make, cwd=root, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    (archive,) = root.glob("gen/*/lib/libtensorflow-microlite.a")
    downloads = root / "tensorflow/lite/micro/tools/make/downloads"
    theirs = [root, *(downloads / part for part in ("flatbuffers/include", "gemmlowp", "ruy", "kissfft"))]
    options = [part for folder in theirs for part in ("-isystem", str(folder))]
    folders = dict(packages)
    for name in sorted(NETWORKS):
        path = write_model(tmp_path / "models", NETWORKS[name], name.replace("-", "_"))
        folders[name] = api.package(path, "c-array", out=tmp_path / "packages" / name).folder
    for name, folder in folders.items():
        program, parts = tmp_path / f"{name}.elf", []
        for file in ("model.c", "samples.c"):
            parts.append(tmp_path / f"{name}.{file}.o")
            compile_with("gcc", "-std=c99", *STRICT, "-c", "-I", folder, "-o", parts[-1], folder / file)
        compile_with(
            "g++", "-std=c++17", "-DTF_LITE_STATIC_MEMORY", *STRICT, "-I", folder, *options,
            "-o", program, folder / "example" / "main.cc", *parts, archive,
        )  # fmt: skip
        done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert f"{described(folder)['selftest_samples']} samples equal" in said
        used = int(said.split(" bytes of the arena used")[0].split(" of ")[0].split()[-1])
        assert used <= described(folder)["arena_measured"]
