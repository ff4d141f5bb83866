"""Forms of a file: the same outputs on every interpreter, the same graph, in fewer bytes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from example_graphs import EXAMPLES, activation, inputs_for, int32, network, same_graph
from hypothesis import given, settings
from interpreters import run_litert_default, run_litert_reference, run_tflm
from op_cases import CASES, Case

from sgsc_edge.errors import FileFormatError, UnsupportedError
from sgsc_edge.graph import ir
from sgsc_edge.graph.flatbuffer import decode, encode
from sgsc_edge.graph.ir import DType, Graph, Node, Quantization, Tensor
from sgsc_edge.graph.legality import findings
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.graph.write_tflite import FULL, SMALLEST, Form, write_tflite

FORMS = [
    Form(*chosen)
    for chosen in itertools.product(("full", "short", "none"), ("full", "shared", "needed"), ("full", "none"))
]
#: Each value of each setting by itself, and all of the smallest.
SOME_FORMS = [
    Form(names="short"),
    Form(names="none"),
    Form(quantization="shared"),
    Form(quantization="needed"),
    Form(metadata="none"),
    SMALLEST,
]


def convolutional(dtype: DType, widths: tuple[int, ...]) -> Graph:
    """3x3 convolutions with a pool behind every second one, mean, dense: 28x28 in, 10 classes out."""
    random = np.random.default_rng(sum(widths))
    tensors: dict[str, Tensor] = {}
    nodes: list[Node] = []

    def add(tensor: Tensor) -> Tensor:
        tensors[tensor.name] = tensor
        return tensor

    def weighted(op: ir.Op, x: Tensor, name: str, shape: tuple[int, ...], y: Tensor, scales: int) -> Tensor:
        limit = 7 if dtype is DType.INT4 else 127
        scale = random.uniform(0.001, 0.01, scales).astype(np.float32)
        assert x.quantization is not None
        parameters = [
            Quantization(values, np.zeros(scales, np.int64), 0 if scales > 1 else None)
            for values in (scale, x.quantization.scale[0] * scale)
        ]
        data = random.integers(-limit, limit + 1, shape).astype(np.int8)
        bias = random.integers(-900, 901, shape[0]).astype(np.int32)
        w = add(Tensor(f"features.{name}.weight_dequantized", shape, dtype, parameters[0], data))
        b = add(Tensor(f"features.{name}.bias_dequantized", bias.shape, DType.INT32, parameters[1], bias))
        nodes.append(Node(op, (x.name, w.name, b.name), (y.name,)))
        return add(y)

    x, size = add(activation("input", (1, 28, 28, 1), 1 / 255, -128)), 28
    for i, width in enumerate(widths):
        y = activation(f"relu_{i}", (1, size, size, width), 0.02 + 0.01 * i, -128)
        conv = ir.Conv2D((1, 1), (1, 1), ir.Padding.SAME, ir.Activation.RELU)
        x = weighted(conv, x, str(3 * i), (width, 3, 3, x.shape[3]), y, width)
        if i % 2:
            size //= 2
            pooled = replace(x, name=f"max_pool2d_{i}", shape=(1, size, size, width))
            nodes.append(Node(ir.MaxPool2D((2, 2), (2, 2)), (x.name,), (pooled.name,)))
            x = add(pooled)
    axes, mean = add(int32("mean/axes", [1, 2])), add(activation("mean", (1, widths[-1]), 0.02, -128))
    nodes.append(Node(ir.Mean(), (x.name, axes.name), (mean.name,)))
    weighted(
        ir.FullyConnected(), mean, "head", (10, widths[-1]), activation("output", (1, 10), 0.05, 5), scales=1
    )
    metadata = {"sgsc.classes": b'["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]'}
    return Graph("mnist-cnn", tensors, tuple(nodes), ("input",), ("output",), metadata)


#: Networks of about 3 kB of weights and biases.
SMALL = {
    "int8": convolutional(DType.INT8, (6, 8, 12, 12)),
    "int4": convolutional(DType.INT4, (8, 12, 16, 16)),
}
GRAPHS = {**EXAMPLES, "network": network(), **SMALL}
RUNTIMES = {"tflm": run_tflm, "litert_reference": run_litert_reference}


def assert_same_outputs(graph: Graph, inputs: np.ndarray, forms: list[Form]) -> None:
    plain = write_tflite(graph)
    wanted = [run(plain, inputs) for run in (run_tflm, run_litert_reference, run_litert_default)]
    for form in forms:
        small = write_tflite(graph, form)
        np.testing.assert_array_equal(run_tflm(small, inputs), wanted[0])
        np.testing.assert_array_equal(run_litert_reference(small, inputs), wanted[1])
        default = run_litert_default(small, inputs)
        if form.quantization != "needed":
            np.testing.assert_array_equal(default, wanted[2])
        else:
            # XNNPACK leaves per-channel layers to LiteRT's own kernels, and no others.
            nearer, without = (np.abs(each - wanted[1].astype(float)).sum() for each in (default, wanted[2]))
            assert nearer <= without or np.array_equal(default, wanted[2])


@pytest.mark.parametrize("name", GRAPHS)
def test_every_form_gives_the_same_outputs_on_every_interpreter(name: str) -> None:
    assert_same_outputs(GRAPHS[name], inputs_for(GRAPHS[name], 2), FORMS if name in SMALL else SOME_FORMS)


@pytest.mark.parametrize("kind", CASES)
def test_random_graphs_give_the_same_outputs_in_the_smallest_form(kind: str) -> None:
    @given(CASES[kind].cases)
    @settings(max_examples=12, deadline=None)
    def holds(case: Case) -> None:
        graph, inputs = case
        plain, small = write_tflite(graph), write_tflite(graph, SMALLEST)
        for runtime in CASES[kind].runtimes:
            run = RUNTIMES[runtime]
            np.testing.assert_array_equal(run(small, inputs), run(plain, inputs))

    holds()


def renamed(graph: Graph, like: Graph) -> Graph:
    """The graph with the names and the metadata of ``like``, whose tensors come in the same order."""
    names = dict(zip(graph.tensors, read_tflite(write_tflite(like)).tensors, strict=True))
    return Graph(
        like.name,
        {names[name]: replace(tensor, name=names[name]) for name, tensor in graph.tensors.items()},
        tuple(
            replace(
                node,
                inputs=tuple(names[name] for name in node.inputs),
                outputs=tuple(names[name] for name in node.outputs),
            )
            for node in graph.nodes
        ),
        tuple(names[name] for name in graph.inputs),
        tuple(names[name] for name in graph.outputs),
        like.metadata,
    )


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_is_read_into_the_same_graph(form: Form) -> None:
    for graph in GRAPHS.values():
        data = write_tflite(graph, form)
        again = read_tflite(data)
        assert same_graph(renamed(again, graph), graph)
        assert write_tflite(again, replace(form, names="none")) == write_tflite(
            graph, replace(form, names="none")
        )


@pytest.mark.parametrize("form", [FULL, *SOME_FORMS], ids=str)
@pytest.mark.parametrize("name", [*SMALL, "network", "depthwise_int4"])
def test_litert_schema_reads_every_form(name: str, form: Form) -> None:
    from ai_edge_litert.schema_py_generated import ModelT

    graph = GRAPHS[name]
    plain, small = (
        ModelT.InitFromPackedBuf(bytearray(write_tflite(graph, each))).subgraphs[0] for each in (FULL, form)
    )
    biases = {operator.inputs[2] for operator in plain.operators if len(operator.inputs) > 2}
    assert len(small.tensors) == len(plain.tensors)
    for index, (left, right) in enumerate(zip(plain.tensors, small.tensors, strict=True)):
        assert list(left.shape) == list(right.shape)
        assert (left.type, left.buffer) == (right.type, right.buffer)
        if left.quantization is None:
            assert right.quantization is None
        elif right.quantization is None:
            assert (form.quantization, index in biases) == ("needed", True)
            assert len(left.quantization.scale) > 1
        else:
            assert list(left.quantization.scale) == list(right.quantization.scale)
            assert list(left.quantization.zeroPoint) == list(right.quantization.zeroPoint)
            assert left.quantization.quantizedDimension == right.quantization.quantizedDimension
    for left, right in zip(plain.operators, small.operators, strict=True):
        assert (list(left.inputs), list(left.outputs)) == (list(right.inputs), list(right.outputs))
        assert left.opcodeIndex == right.opcodeIndex
        options = [operator.builtinOptions for operator in (left, right)]
        assert options[0] is options[1] is None or vars(options[0]) == vars(options[1])


def stored_names(graph: Graph, form: Form) -> list[str | None]:
    model = decode(write_tflite(graph, form), where="test")
    assert (model["description"], model["subgraphs"][0]["name"]) == (None, None)
    return [tensor["name"] for tensor in model["subgraphs"][0]["tensors"]]


def test_names_are_short_or_absent() -> None:
    graph = network()
    assert stored_names(graph, Form(names="none")) == [None] * len(graph.tensors)
    names = stored_names(graph, Form(names="short"))
    assert names == ["input", *map(str, range(len(names) - 2)), "probabilities"]


def test_short_names_leave_out_the_numbers_that_inputs_and_outputs_are_called() -> None:
    x, y = activation("1", (1, 8)), activation("y", (1, 8), 0.08, 7)
    names = {"y": "0", "z": "z"}
    nodes = (Node(ir.Relu(), ("1",), ("z",)), Node(ir.Relu(), ("z",), ("0",)))
    tensors = {name: replace(y, name=name) for name in names.values()}
    graph = Graph("g", {"1": x, **tensors}, nodes, ("1",), ("0",))
    assert stored_names(graph, Form(names="short")) == ["1", "2", "0"]


def test_without_metadata_there_is_none() -> None:
    graph = network()
    assert read_tflite(write_tflite(graph, Form(metadata="none"))).metadata == {}
    model = decode(write_tflite(graph, Form(metadata="none")), where="test")
    assert model["metadata"] is None
    assert len(model["buffers"]) == 1 + len({tensor.data.tobytes() for tensor in graph.constants()})


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("conv_int8", False),
        ("depthwise_int4", False),
        ("dense_per_channel_int8", False),
        ("dense_int8", True),
    ],
)
def test_scales_of_a_bias_are_left_out_per_channel_only(name: str, stored: bool) -> None:
    subgraph = decode(write_tflite(EXAMPLES[name], SMALLEST), where="test")["subgraphs"][0]
    bias = subgraph["tensors"][subgraph["operators"][0]["inputs"][2]]
    assert (bias["quantization"] is not None) == stored


def test_a_bias_without_scales_is_refused_where_kernels_read_them() -> None:
    model = decode(write_tflite(EXAMPLES["dense_int8"]), where="test")
    (bias,) = [tensor for tensor in model["subgraphs"][0]["tensors"] if tensor["name"] == "bias"]
    bias["quantization"] = None
    with pytest.raises((FileFormatError, UnsupportedError), match="bias"):
        read_tflite(encode(model))


def test_a_product_of_scales_that_is_no_float32_is_refused() -> None:
    model = decode(write_tflite(EXAMPLES["conv_int8"], Form(quantization="needed")), where="test")
    for tensor in model["subgraphs"][0]["tensors"][:2]:
        tensor["quantization"]["scale"] = np.full_like(tensor["quantization"]["scale"], 1e-30)
    with pytest.raises(FileFormatError, match="input scale x weight scale"):
        read_tflite(encode(model))


# --- bytes ----------------------------------------------------------------------------------------


def payload(graph: Graph) -> int:
    return sum(tensor.nbytes for tensor in graph.constants())


@pytest.mark.parametrize(("name", "full", "smallest"), [("int8", 2.4, 1.8), ("int4", 2.6, 1.9)])
def test_3_kb_of_payload_do_not_travel_in_12_kb(name: str, full: float, smallest: float) -> None:
    """What stays does not grow with the payload: tables, shapes and lists of tensors and operators.

    4 bytes of scale a channel, 8 of zero point a channel of each width that occurs, and as measured at most
    58 bytes a tensor (table 14, shape 14, quantization 14, buffer 7, place in the list 4, padding 5), 45 an
    operator, and 330 of vtables, op codes and what there is once.
    """
    graph = SMALL[name]
    assert 2700 < payload(graph) < 3000
    assert len(write_tflite(graph)) <= full * payload(graph)
    least = len(write_tflite(graph, SMALLEST))
    assert least <= smallest * payload(graph)
    assert least <= 1.6 * payload(graph) + 700
    weights = [graph[node.inputs[1]] for node in graph.nodes if len(node.inputs) == 3]
    scales = [tensor.quantization.scale.size for tensor in weights if tensor.quantization is not None]
    parameters = 4 * sum(scales) + 8 * sum(set(scales))
    structure = 58 * len(graph.tensors) + 45 * len(graph.nodes) + 330
    assert least <= payload(graph) + parameters + structure


def test_every_step_makes_the_file_smaller() -> None:
    steps = [FULL, Form("short"), Form("none"), Form("none", "shared"), Form("none", "needed"), SMALLEST]
    for graph in SMALL.values():
        sizes = [len(write_tflite(graph, form)) for form in steps]
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize("name", [*SMALL, "network"])
def test_constant_data_starts_at_multiples_of_16_in_every_form(name: str) -> None:
    for form in FORMS:
        data = write_tflite(GRAPHS[name], form)
        origin = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
        contents = [buffer["data"] for buffer in decode(data, where="test")["buffers"]]
        starts = [c.__array_interface__["data"][0] - origin for c in contents if c is not None]
        assert starts
        assert not any(start % 16 for start in starts)


def test_equal_scales_of_many_layers_are_stored_once_and_read_again() -> None:
    """Sharing must not look like the overlap by which damaged files take much memory."""
    channels = 256
    scale = np.linspace(0.001, 0.01, channels).astype(np.float32)
    x = activation("x0", (1, 1, 1, channels), 0.5, 0)
    tensors, nodes = {x.name: x}, []
    for i in range(40):
        weights = np.full((1, 1, 1, channels), i % 127, np.int8)
        layer = [
            Tensor(f"w{i}", weights.shape, DType.INT8, Quantization.per_channel(scale, 3), weights),
            Tensor(
                f"b{i}",
                (channels,),
                DType.INT32,
                Quantization.per_channel(np.float32(0.5) * scale, 0),
                np.full(channels, i, np.int32),
            ),
            replace(x, name=f"x{i + 1}"),
        ]
        tensors |= {tensor.name: tensor for tensor in layer}
        nodes.append(Node(ir.DepthwiseConv2D(), (f"x{i}", f"w{i}", f"b{i}"), (f"x{i + 1}",)))
    graph = Graph("deep", tensors, tuple(nodes), ("x0",), ("x40",))
    full, shared = write_tflite(graph), write_tflite(graph, Form(quantization="shared"))
    assert len(full) - len(shared) > 39 * 2 * 12 * channels
    assert same_graph(read_tflite(shared), graph)


@pytest.mark.parametrize(("count", "shared"), [(1, False), (6, True), (1000, False)])
def test_what_is_written_is_read_however_much_of_it_is_equal(count: int, shared: bool) -> None:
    """Shared without end, equal parts would look like the overlap of damaged files."""
    tensor = {"shape": np.ones(30, np.int32), "name": "n" * 100}
    record = {"version": 3, "subgraphs": [{"tensors": [tensor] * count}]}
    data, apart = encode(record), encode(record, separate=("Tensor",))
    assert (len(data) < len(apart)) == shared
    for tensor in decode(data, where="test")["subgraphs"][0]["tensors"]:
        assert (tensor["name"], tensor["shape"].tolist()) == ("n" * 100, [1] * 30)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["network", "conv_int4", "int8"])
def test_damaged_small_files_are_read_or_refused(name: str) -> None:
    random = np.random.default_rng(2027)
    original = write_tflite(GRAPHS[name], SMALLEST)
    outcomes = {True: 0, False: 0}
    structure = min(len(original), 1800)  # behind it lies constant data, of which every value is valid
    for _ in range(400):
        data = bytearray(original)
        for _ in range(random.integers(1, 6)):
            data[random.integers(structure)] = random.integers(256)
        try:
            graph = read_tflite(bytes(data))
        except (FileFormatError, UnsupportedError):
            outcomes[False] += 1
            continue
        outcomes[True] += 1
        assert findings(graph) == ()
        assert write_tflite(graph, SMALLEST)
    assert min(outcomes.values()) > 0, outcomes
    for size in range(0, len(original), 11):
        with pytest.raises((FileFormatError, UnsupportedError)):
            read_tflite(original[:size])
