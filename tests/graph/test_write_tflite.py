from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from example_graphs import EXAMPLES, activation, graph_of, inputs_for, network, same_graph
from interpreters import run_litert_default, run_litert_reference, run_tflm

from sgsc_edge.errors import InternalError
from sgsc_edge.graph import ir
from sgsc_edge.graph.flatbuffer import decode
from sgsc_edge.graph.ir import DType, Graph, Tensor
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.graph.write_tflite import FULL, SMALLEST, write_tflite

SAMPLES = 3


@pytest.mark.parametrize("name", [*EXAMPLES, "network"])
def test_every_op_loads_and_runs_on_each_interpreter(name: str) -> None:
    graph = EXAMPLES.get(name) or network()
    model, inputs = write_tflite(graph), inputs_for(graph, SAMPLES)
    output = graph[graph.outputs[0]]
    reference = run_litert_reference(model, inputs)
    micro = run_tflm(model, inputs)
    default = run_litert_default(model, inputs)
    for outputs in (reference, micro, default):
        assert outputs.shape == (SAMPLES, *output.shape[1:])
        assert outputs.dtype == output.dtype.numpy
    assert len(np.unique(reference)) > 1
    if output.dtype is DType.FLOAT32:
        # The interpreters add the same few dozen products in different orders.
        np.testing.assert_allclose(micro, reference, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(default, reference, rtol=1e-5, atol=1e-5)
    elif isinstance(graph.nodes[0].op, ir.FullyConnected):
        # LiteRT's reference requantizes dense layers in float64, TFLM in Q31: ties may differ by a step.
        assert np.abs(micro.astype(int) - reference).max() <= 1
    else:
        np.testing.assert_array_equal(micro, reference)


def test_equal_graphs_give_equal_bytes_whatever_the_order_of_their_tensors() -> None:
    graph = network()
    shuffled = Graph(
        graph.name,
        {name: graph[name] for name in reversed(list(graph.tensors))},
        graph.nodes,
        graph.inputs,
        graph.outputs,
        graph.metadata,
    )
    assert write_tflite(graph) == write_tflite(graph) == write_tflite(shuffled)


def parsed(data: bytes):
    """The file through the schema module that ships with LiteRT: an independent reader."""
    from ai_edge_litert.schema_py_generated import ModelT

    return ModelT.InitFromPackedBuf(bytearray(data))


@pytest.mark.parametrize("name", [*EXAMPLES, "network"])
def test_litert_schema_reads_what_was_written(name: str) -> None:
    graph = EXAMPLES.get(name) or network()
    data = write_tflite(graph)
    assert data[4:8] == b"TFL3"
    model = parsed(data)
    assert model.version == 3
    (subgraph,) = model.subgraphs
    assert subgraph.name.decode() == graph.name
    names = [tensor.name.decode() for tensor in subgraph.tensors]
    assert sorted(names) == sorted(graph.tensors)
    assert [names[i] for i in subgraph.inputs] == list(graph.inputs)
    assert [names[i] for i in subgraph.outputs] == list(graph.outputs)
    for node, operator in zip(graph.nodes, subgraph.operators, strict=True):
        assert [names[i] for i in operator.inputs] == list(node.inputs)
        assert [names[i] for i in operator.outputs] == list(node.outputs)
    for stored in subgraph.tensors:
        tensor = graph[stored.name.decode()]
        assert tuple(stored.shape) == tensor.shape
        buffer = model.buffers[stored.buffer].data
        assert (buffer is None) == (tensor.data is None)
        if tensor.data is not None and tensor.dtype is not DType.INT4:
            assert bytes(buffer) == tensor.data.tobytes()
        if tensor.quantization is not None:
            assert stored.quantization.scale.tobytes() == tensor.quantization.scale.tobytes()
            assert list(stored.quantization.zeroPoint) == list(tensor.quantization.zero_point)
            assert stored.quantization.quantizedDimension == (tensor.quantization.axis or 0)


def test_options_are_stored_in_their_own_fields() -> None:
    op = ir.Conv2D((2, 1), (1, 3), ir.Padding.SAME, ir.Activation.RELU6)
    base = EXAMPLES["conv_int8"]
    graph = replace(base, nodes=(replace(base.nodes[0], op=op),))
    options = parsed(write_tflite(graph)).subgraphs[0].operators[0].builtinOptions
    assert (options.strideH, options.strideW) == (2, 1)
    assert (options.dilationHFactor, options.dilationWFactor) == (1, 3)
    assert (options.padding, options.fusedActivationFunction) == (0, 3)


@pytest.mark.parametrize(
    ("name", "builtin", "version"),
    [
        ("conv_int8", 3, 3),
        ("conv_int4", 3, 5),
        ("conv_float32", 3, 1),
        ("conv_grouped_int8", 3, 6),
        ("depthwise_int8", 4, 3),
        ("depthwise_int4", 4, 6),
        ("dense_int8", 9, 4),
        ("dense_int4", 9, 9),
        ("dense_keep_dims_int8", 9, 5),
        ("add_int8", 0, 2),
        ("relu_int8", 19, 2),
        ("quantize", 114, 1),
        ("dequantize", 6, 2),
    ],
)
def test_op_versions(name: str, builtin: int, version: int) -> None:
    (code,) = parsed(write_tflite(EXAMPLES[name])).operatorCodes
    assert (code.builtinCode, code.deprecatedBuiltinCode, code.version) == (builtin, builtin, version)


def test_mul_with_a_rescale_of_one_or_more_is_version_3() -> None:
    x = activation("x", (1, 4), 2.0, 0)
    graph = graph_of(ir.Mul(), [x, activation("z", (1, 4), 1.0, 0)], activation("y", (1, 4), 2.0, 0))
    (code,) = parsed(write_tflite(graph)).operatorCodes
    assert code.version == 3


def test_int4_is_packed_low_nibble_first() -> None:
    graph = EXAMPLES["dense_int4"]
    weights = graph["weights"]
    data = np.zeros(weights.shape, np.int8)
    data[0, :3] = [1, -2, 7]
    changed = Tensor("weights", weights.shape, DType.INT4, weights.quantization, data)
    graph = replace(graph, tensors={**graph.tensors, "weights": changed})
    buffers = [
        bytes(buffer.data) for buffer in parsed(write_tflite(graph)).buffers if buffer.data is not None
    ]
    (packed,) = [buffer for buffer in buffers if len(buffer) == 23]  # ceil(45 / 2)
    assert packed[:2] == bytes([0xE1, 0x07])


def test_buffers_are_shared_aligned_and_start_with_an_empty_one() -> None:
    shape = ir.Reshape()
    tensors = [activation(name, (1, 4)) for name in ("a", "b", "c")]
    constants = [Tensor(n, (2,), DType.INT32, None, np.array([1, 4], np.int32)) for n in ("s1", "s2")]
    nodes = (ir.Node(shape, ("a", "s1"), ("b",)), ir.Node(shape, ("b", "s2"), ("c",)))
    graph = Graph("g", {t.name: t for t in (*tensors, *constants)}, nodes, ("a",), ("c",))
    model = parsed(write_tflite(graph))
    by_name = {tensor.name.decode(): tensor.buffer for tensor in model.subgraphs[0].tensors}
    assert by_name["s1"] == by_name["s2"] != 0
    assert by_name["a"] == 0
    assert model.buffers[0].data is None
    assert len(model.operatorCodes) == 1

    data = write_tflite(network())
    for buffer in decode(data, where="test")["buffers"]:
        if buffer["data"] is not None:
            content = buffer["data"]
            start = content.__array_interface__["data"][0]
            assert (start - np.frombuffer(data, np.uint8).__array_interface__["data"][0]) % 16 == 0


@pytest.mark.parametrize("alignment", [32, 64])
def test_constant_data_is_aligned_as_asked_and_runs(alignment: int) -> None:
    graph = network()
    for form in (FULL, SMALLEST):
        plain, data = write_tflite(graph, form), write_tflite(graph, form, alignment)
        origin = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
        contents = [buffer["data"] for buffer in decode(data, where="test")["buffers"]]
        starts = [c.__array_interface__["data"][0] - origin for c in contents if c is not None]
        assert starts
        assert not any(start % alignment for start in starts)
        assert len(data) <= len(plain) + alignment * len(starts)
        assert same_graph(read_tflite(data), read_tflite(plain))
        inputs = np.random.default_rng(3).integers(-128, 128, (3, *graph["input"].shape[1:])).astype(np.int8)
        for run in (run_tflm, run_litert_reference, run_litert_default):
            np.testing.assert_array_equal(run(data, inputs), run(plain, inputs))


def test_metadata_holds_the_graphs_entries_and_the_runtime_version() -> None:
    model = parsed(write_tflite(network()))
    entries = {entry.name.decode(): bytes(model.buffers[entry.buffer].data) for entry in model.metadata}
    assert entries == {"sgsc": b"{}", "min_runtime_version": b"2.11.0".ljust(16, b"\0")}


def test_a_graph_that_is_not_legal_is_not_written() -> None:
    graph = replace(EXAMPLES["relu6_int8"], outputs=("nowhere",))
    with pytest.raises(InternalError, match=r"before writing[\s\S]*nowhere"):
        write_tflite(graph)


def test_reading_and_writing_import_nothing_heavy() -> None:
    code = (
        "import sys; from sgsc_edge.graph import write_tflite, read_tflite; "
        "heavy = {'torch', 'onnx', 'ai_edge_litert', 'tensorflow'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
