"""Generated C computes what the integer executor does, and TFLite Micro with it; strict compilers take it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from c_code.hosted import HASH, STRICT, needs_gcc, run_c, written
from c_code.networks import LAYOUTS, NETWORKS, Builder
from elftools.elf.elffile import ELFFile
from graph.interpreters import run_tflm
from graph.op_cases import CASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgsc_edge.c_code.calls.dispatch import CALLS
from sgsc_edge.c_code.interface import selftest_samples
from sgsc_edge.c_code.lookups import Lookup
from sgsc_edge.c_code.schedule import Schedule
from sgsc_edge.c_code.write import c_code
from sgsc_edge.c_names import identifier
from sgsc_edge.errors import ConfigError, UnsupportedError
from sgsc_edge.graph import ir, reference
from sgsc_edge.graph.ir import DType, Graph, Node, Quantization, Tensor
from sgsc_edge.graph.reference.executor import KERNELS
from sgsc_edge.graph.write_tflite import write_tflite

pytestmark = needs_gcc
TRAPS = ("-O0", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")
"""Undefined behaviour ends the process."""

ALL = {**NETWORKS, **LAYOUTS}
SELFTEST = """#include "sgsc_case.h"
int main(void) { static sgsc_case_output output; return sgsc_case_selftest(&output); }
"""
WEIGHTED = ("conv_2d", "depthwise", "fully_connected")


def random_inputs(graph: Graph, samples: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    own = graph["x"].shape
    shape = (samples, *(own[1:] if own[0] == 1 else own))
    values = random.integers(-128, 128, shape).astype(np.int8)
    values[0], values[1] = -128, 127
    return {"x": values}


@pytest.mark.parametrize("name", CASES)
def test_every_op_computes_the_executors_integers(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    @settings(
        max_examples=6,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        graph, inputs = data.draw(CASES[name].cases)
        learned = name.startswith(WEIGHTED) and data.draw(st.booleans())
        folder = tmp_path_factory.mktemp("c")
        made = run_c(graph, folder, {graph.inputs[0]: inputs}, *TRAPS, learned=learned)
        np.testing.assert_array_equal(made[graph.outputs[0]], reference.run(graph, inputs))

    check()


@pytest.mark.parametrize("learned", [False, True], ids=["stored", "learned"])
@pytest.mark.parametrize("name", ALL)
def test_networks_compute_the_executors_integers(name: str, learned: bool, tmp_path: Path) -> None:
    graph = ALL[name]
    feeds = random_inputs(graph)
    expected = reference.run_tensors(graph, feeds)
    made = run_c(graph, tmp_path, feeds, *TRAPS, learned=learned)
    assert made.keys() == expected.keys()
    for output, values in expected.items():
        np.testing.assert_array_equal(made[output], values)
        assert len(np.unique(values[2])) > 1, "a network whose output says nothing proves nothing"


@st.composite
def chains(draw: st.DrawFn) -> Graph:
    """Elementwise ops, layers and reshapes of what came before; some values are read again much later."""
    b = Builder(draw(st.sampled_from([1, 2])), 4, 6, 2)
    values = ["x"]
    for _ in range(draw(st.integers(4, 12))):
        x = draw(st.sampled_from(values[-3:]))
        shape = b.tensors[x].shape
        batch, rest = shape[0], b.tensors[x].elements // shape[0]
        kind = draw(st.sampled_from(["reshape", "reshape", "binary", "unary", "softmax", "concat", "image"]))
        if kind == "reshape":
            shapes = [
                (batch, rest),
                (batch, 2, rest // 2),
                (batch, 2, rest // 4, 2),
                (batch, rest // 2, 1, 2),
            ]
            values.append(b.reshape(x, *draw(st.sampled_from(shapes))))
        elif kind == "binary":
            like = [name for name in values if b.tensors[name].shape == shape]
            op = draw(st.sampled_from([ir.Add(), ir.Sub(), ir.Mul()]))
            values.append(b.elementwise(op, x, draw(st.sampled_from(like))))
        elif kind == "unary":
            op = draw(st.sampled_from([ir.Relu(), ir.Quantize(), ir.LeakyRelu(0.25), ir.HardSwish()]))
            values.append(b.elementwise(op, x))
        elif kind == "softmax":
            values.append(b.softmax(x))
        elif kind == "concat" and rest < 200:
            values.append(b.concat(x, x))
        elif kind == "image" and len(shape) == 4:
            make = draw(
                st.sampled_from([lambda y: b.conv(y, 4), b.depthwise, lambda y: b.pool(b.conv(y, 8))])
            )
            values.append(make(x))
    read = {name for node in b.nodes for name in node.inputs}
    return b.graph(b.elementwise(ir.Relu(), "x"), *(name for name in values[1:] if name not in read))


def test_chains_of_reshapes_compute_the_executors_integers(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(graph=chains(), learned=st.booleans())
    def check(graph: Graph, learned: bool) -> None:
        feeds = random_inputs(graph)
        made = run_c(graph, tmp_path_factory.mktemp("c"), feeds, *TRAPS, learned=learned)
        for output, values in reference.run_tensors(graph, feeds).items():
            np.testing.assert_array_equal(made[output], values)

    check()


@pytest.mark.parametrize("name", ["residual", "separable", "gated", *LAYOUTS])
def test_tflite_micro_agrees(name: str, tmp_path: Path) -> None:
    graph = ALL[name]
    feeds = random_inputs(graph)
    (made,) = run_c(graph, tmp_path, feeds, "-O2").values()
    np.testing.assert_array_equal(made, run_tflm(write_tflite(graph), feeds["x"]))


@pytest.mark.parametrize(
    ("name", "learned"), [*((name, False) for name in ALL), ("residual", True), ("separable", True)]
)
@pytest.mark.parametrize(
    "compiler", [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("gcc", "clang")]
)
def test_sanitizers_find_nothing(name: str, learned: bool, compiler: str, tmp_path: Path) -> None:
    """The self-test under AddressSanitizer and UndefinedBehaviorSanitizer, with all warnings as errors."""
    graph = ALL[name]
    feeds = random_inputs(graph)
    written(graph, tmp_path, samples=(feeds, reference.run_tensors(graph, feeds)), learned=learned)
    main = tmp_path / "main.c"
    main.write_text(SELFTEST)
    sources = sorted(map(str, tmp_path.glob("*.c")))
    sanitize = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    command = [compiler, *STRICT, *sanitize, "-o", str(tmp_path / "main"), *sources]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cannot find" in built.stderr and compiler == "clang":
        pytest.skip("clang has no sanitizer runtime here")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_self_test_names_the_sample_that_differs(tmp_path: Path) -> None:
    graph = NETWORKS["residual"]
    feeds = random_inputs(graph)
    outputs = {name: values.copy() for name, values in reference.run_tensors(graph, feeds).items()}
    next(iter(outputs.values()))[1, 0] += 1
    written(graph, tmp_path, samples=(feeds, outputs))
    main = tmp_path / "main.c"
    main.write_text(SELFTEST)
    sources = sorted(map(str, tmp_path.glob("*.c")))
    subprocess.run(["gcc", *STRICT, "-o", str(tmp_path / "main"), *sources], check=True)
    assert subprocess.run([str(tmp_path / "main")], check=False).returncode == 2


def test_a_pool_is_taken_with_the_convolution_before_it() -> None:
    steps = Schedule.of(NETWORKS["mixed"]).steps
    pools = [step.pool is not None for step in steps if isinstance(step.node.op, ir.Conv2D)]
    assert pools == [False, True], "windows that meet would compute a sum twice"
    u_shaped = Schedule.of(NETWORKS["u-shaped"]).steps
    assert not u_shaped[0].pool, "another op reads the whole output, too"


def test_equal_models_give_equal_code_that_holds_only_its_kernels() -> None:
    graph = NETWORKS["residual"]
    files = c_code(graph, name="a", model_hash=HASH).files
    assert files == c_code(graph, name="a", model_hash=HASH).files
    functions = set(re.findall(r"^static \w+ \*?(sgsc_\w+)\(", files["model.c"], re.M))
    assert {"sgsc_conv_int8", "sgsc_add", "sgsc_mean", "sgsc_softmax"} <= functions
    assert not [name for name in functions if "int4" in name or "depthwise" in name or "pool" in name]
    assert "malloc" not in files["model.c"]
    assert not re.search(r"\b(float|double)\b", files["model.c"]), "the integer path has no floating point"


def test_outputs_that_no_step_writes_are_copied(tmp_path: Path) -> None:
    grid = Quantization.per_tensor(0.1, 3)
    constant = np.arange(6, dtype=np.int8).reshape(1, 6)
    tensors = {
        "x": Tensor("x", (1, 2, 3), DType.INT8, grid),
        "shape": Tensor("shape", (2,), DType.INT32, None, np.array([1, 6], np.int32)),
        "flat": Tensor("flat", (1, 6), DType.INT8, grid),
        "same": Tensor("same", (1, 6), DType.INT8, grid),
        "y": Tensor("y", (1, 6), DType.INT8, grid),
        "k": Tensor("k", (1, 6), DType.INT8, grid, constant),
    }
    nodes = (
        Node(ir.Reshape(), ("x", "shape"), ("flat",)),
        Node(ir.Relu(), ("flat",), ("y",)),
        Node(ir.Reshape(), ("y", "shape"), ("same",)),
    )
    graph = Graph("g", tensors, nodes, ("x",), ("flat", "y", "same", "k"))
    x = np.arange(-3, 3, dtype=np.int8).reshape(1, 2, 3)
    made = run_c(graph, tmp_path, {"x": x}, *TRAPS)
    relu = np.maximum(x.reshape(1, 6), 3)
    assert {name: values.tolist() for name, values in made.items()} == {
        "flat": x.reshape(1, 6).tolist(),
        "y": relu.tolist(),
        "same": relu.tolist(),
        "k": constant.tolist(),
    }


def test_what_has_no_kernel_is_refused_by_name() -> None:
    x, y = (Tensor(name, (1, 4), DType.FLOAT32) for name in "xy")
    graph = Graph("g", {"x": x, "y": y}, (Node(ir.Relu(), ("x",), ("y",), "act"),), ("x",), ("y",))
    with pytest.raises(UnsupportedError, match="act") as caught:
        c_code(graph, name="a", model_hash=HASH)
    assert "float32" in str(caught.value)
    unsigned = replace(x, dtype=DType.UINT8, quantization=Quantization.per_tensor(0.1, 3))
    graph = Graph(
        "g", {"x": unsigned, "y": y}, (Node(ir.Dequantize(), ("x",), ("y",), "in"),), ("x",), ("y",)
    )
    with pytest.raises(UnsupportedError, match="uint8"):
        c_code(graph, name="a", model_hash=HASH)


def test_every_op_that_is_executed_becomes_a_call() -> None:
    # A reshaped value is the value; Cast is a part of a Lookup, which C code alone has.
    assert CALLS.keys() == KERNELS.keys() - {ir.Reshape, ir.Cast} | {Lookup}


def test_sums_that_may_leave_32_bits_are_refused() -> None:
    grid = Quantization.per_tensor(0.1, -128)
    weights = Quantization.per_tensor(0.1, 0)
    tensors = {
        "x": Tensor("x", (1, 2), DType.INT8, grid),
        "w": Tensor("w", (1, 2), DType.INT8, weights, np.full((1, 2), 127, np.int8)),
        "b": Tensor("b", (1,), DType.INT32, None, np.array([2**31 - 1], np.int32)),
        "y": Tensor("y", (1, 1), DType.INT8, grid),
    }
    graph = Graph("g", tensors, (Node(ir.FullyConnected(), ("x", "w", "b"), ("y",), "fc"),), ("x",), ("y",))
    with pytest.raises(UnsupportedError, match="32 bits"):
        c_code(graph, name="a", model_hash=HASH)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"sgsc.version": b'"1.2.0+b7"'}, "1.2.0+b7"),
        ({}, HASH[:12]),
        ({"sgsc.version": b'"*/ 1"'}, HASH[:12]),
        ({"sgsc.version": b"\xff"}, HASH[:12]),
        ({"sgsc.version": b'""'}, HASH[:12]),
    ],
)
def test_the_header_states_version_and_shapes(stated: dict[str, bytes], expected: str) -> None:
    graph = NETWORKS["residual"]
    header = c_code(replace(graph, metadata=stated), name="a", model_hash=HASH).files["sgsc_a.h"]
    assert f'#define SGSC_A_VERSION "{expected}"\n' in header
    assert f"#define SGSC_A_INPUT_X_SHAPE {{{', '.join(map(str, graph['x'].shape))}}}\n" in header
    assert f"#define SGSC_A_INPUT_X_SIZE {graph['x'].elements}\n" in header


@pytest.mark.parametrize(
    ("name", "expected"),
    [("MNIST-cnn 2", "mnist_cnn_2"), ("3d", "m_3d"), ("", "model"), ("é*/\n", "model"), ("int", "int")],
)
def test_names_that_c_takes(name: str, expected: str) -> None:
    assert identifier(name) == expected


def test_hostile_names_stay_inside_comments_and_identifiers(tmp_path: Path) -> None:
    graph = NETWORKS["mixed"]
    nasty = "*/ int broken( /* ??/ \\\n"
    nodes = tuple(replace(node, source=nasty) for node in graph.nodes)
    tensors = {**graph.tensors, nasty: replace(graph["x"], name=nasty)}
    nodes = tuple(replace(n, inputs=tuple(nasty if i == "x" else i for i in n.inputs)) for n in nodes)
    feeds = {nasty: random_inputs(graph)["x"]}
    hostile = Graph(nasty, tensors, nodes, (nasty,), graph.outputs)
    made = run_c(hostile, tmp_path, feeds, *TRAPS)
    for output, values in reference.run_tensors(hostile, feeds).items():
        np.testing.assert_array_equal(made[output], values)


@pytest.mark.parametrize("name", ["int", "class", "linux", "9", "a b", "a-b"])
def test_inputs_may_be_called_anything(name: str, tmp_path: Path) -> None:
    grid = Quantization.per_tensor(0.1, 3)
    tensors = {n: Tensor(n, (1, 3), DType.INT8, grid) for n in (name, "a_b", "y")}
    node = Node(ir.Add(), (name, "a_b"), ("y",))
    graph = Graph("g", tensors, (node,), (name, "a_b"), ("y",))
    feeds = {name: np.array([[-128, 5, 127]], np.int8), "a_b": np.array([[3, 9, 100]], np.int8)}
    made = run_c(graph, tmp_path, feeds, *TRAPS)
    np.testing.assert_array_equal(made["y"], reference.run_tensors(graph, feeds)["y"])
    (tmp_path / "use.cc").write_text(
        '#include "sgsc_case.h"\nint main() { return SGSC_CASE_ARENA_BYTES == 0; }\n'
    )
    command = [
        "gcc",
        "-x",
        "c++",
        "-fsyntax-only",
        "-Wall",
        "-Wextra",
        "-Werror",
        str(tmp_path / "use.cc"),
    ]
    subprocess.run(command, check=True)


WORDS = """
    alignas alignof and_eq asm bitand bitor char8_t char16_t class co_await co_return co_yield compl concept
    const_cast consteval constexpr constinit decltype delete dynamic_cast errno explicit goto int int8_t
    int32_t linux mutable noexcept not_eq nullptr operator reinterpret_cast requires restrict static_assert
    static_cast template this thread_local typeid typename typeof uint32_t unix virtual wchar_t xor_eq
"""


@pytest.mark.parametrize(
    ("compiler", "options"),
    [
        ("gcc", ("-xc", "-std=gnu17")),
        ("gcc", ("-xc", "-std=c99", "-pedantic")),
        pytest.param("g++", ("-xc++", "-std=c++98"), marks=pytest.mark.needs("g++")),
        pytest.param("g++", ("-xc++", "-std=gnu++20"), marks=pytest.mark.needs("g++")),
    ],
)
def test_words_of_c_and_cpp_are_names_of_inputs(
    compiler: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    grid = Quantization.per_tensor(0.1, 3)
    words = tuple(WORDS.split())
    tensors = {word: Tensor(word, (1, 3), DType.INT8, grid) for word in (*words, "y")}
    graph = Graph("g", tensors, (Node(ir.Relu(), (words[0],), ("y",)),), words, ("y",))
    written(graph, tmp_path)
    use = tmp_path / "use"
    use.write_text('#include <errno.h>\n#include "sgsc_case.h"\nint main(void) { return 0; }\n')
    subprocess.run([compiler, *options, "-Wall", "-Werror", "-fsyntax-only", str(use)], check=True)


@pytest.mark.parametrize(
    ("inputs", "outputs", "count"),
    [(784, 10, 8), (2000, 48, 8), (2000, 49, 7), (10, 16 << 10, 1), (60 << 10, 4 << 10, 1), (1, 64 << 10, 0)],
)
def test_self_tests_hold_what_flash_can_spare(inputs: int, outputs: int, count: int) -> None:
    tensors = {name: Tensor(name, (1, size), DType.INT8) for name, size in (("x", inputs), ("y", outputs))}
    graph = Graph("g", tensors, (Node(ir.Pad(), ("x",), ("y",)),), ("x",), ("y",))
    assert selftest_samples(graph) == count


def test_ops_without_a_kernel_cannot_be_written_as_c() -> None:
    x, y = (Tensor(name, (1, 4), DType.FLOAT32) for name in "xy")
    graph = Graph("g", {"x": x, "y": y}, (Node(ir.Relu(), ("x",), ("y",), "act"),), ("x",), ("y",))
    with pytest.raises(UnsupportedError, match="Relu cannot be written as C: "):
        c_code(graph, name="a", model_hash=HASH)


def test_names_of_models_end_at_64_characters() -> None:
    graph = NETWORKS["residual"]
    assert c_code(graph, name="a" * 64, model_hash=HASH).name == "a" * 64
    with pytest.raises(ConfigError, match="65 characters") as caught:
        c_code(graph, name="3" + "a" * 62, model_hash=HASH)
    assert "--name" in str(caught.value)


@pytest.mark.parametrize(
    "compiler",
    ["gcc", pytest.param("arm-none-eabi-gcc", marks=pytest.mark.needs("arm-none-eabi-gcc"))],
)
def test_an_arena_placed_as_documented_takes_no_flash(compiler: str, tmp_path: Path) -> None:
    code = written(NETWORKS["residual"], tmp_path)
    document = Path(__file__).parents[2] / "docs" / "c-code.md"
    found = re.search(r"-DSGSC_ARENA_ATTRIBUTES='([^']+)'", document.read_text(encoding="utf-8"))
    assert found is not None
    made = tmp_path / "model.o"
    define = f"-DSGSC_ARENA_ATTRIBUTES={found[1]}"
    subprocess.run([compiler, *STRICT, define, "-c", "-o", str(made), str(tmp_path / "model.c")], check=True)
    with made.open("rb") as file:
        placed = ELFFile(file).get_section_by_name(".bss.ccm")
        assert (placed["sh_type"], placed["sh_size"]) == ("SHT_NOBITS", code.arena.size)
