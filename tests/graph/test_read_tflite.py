from __future__ import annotations

import os
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from example_graphs import EXAMPLES, activation, graph_of, network, same_graph
from hypothesis import given, settings
from op_cases import CASES, Case

from sgsc_edge.errors import FileFormatError, SgscError, UnsupportedError
from sgsc_edge.graph import flatbuffer, ir
from sgsc_edge.graph.flatbuffer import Record, decode, encode
from sgsc_edge.graph.ir import DType
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.graph.write_tflite import write_tflite

GRAPHS = {**EXAMPLES, "network": network()}


@pytest.mark.parametrize("name", GRAPHS)
def test_round_trip(name: str) -> None:
    graph = GRAPHS[name]
    data = write_tflite(graph)
    again = read_tflite(data)
    assert same_graph(graph, again)
    assert write_tflite(again) == data


@pytest.mark.parametrize("kind", CASES)
def test_round_trip_of_random_graphs(kind: str) -> None:
    @given(CASES[kind].cases)
    @settings(max_examples=15, deadline=None)
    def holds(case: Case) -> None:
        graph, _ = case
        data = write_tflite(graph)
        again = read_tflite(data)
        assert same_graph(graph, again)
        assert write_tflite(again) == data

    holds()


def test_same_graph_tells_graphs_apart() -> None:
    names = list(GRAPHS)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            assert not same_graph(GRAPHS[first], GRAPHS[second]), (first, second)


@pytest.mark.parametrize("name", GRAPHS)
def test_decoding_and_encoding_change_nothing(name: str) -> None:
    data = write_tflite(GRAPHS[name])
    assert encode(decode(data, where="test"), separate=("Quantization",)) == data


def test_reads_the_model_of_a_standard_converter() -> None:
    folder = os.environ.get("SGSC_EDGE_DATA")
    path = Path(folder or ".") / "mnist-cnn" / "plain_int8.tflite"
    if folder is None or not path.is_file():
        pytest.skip("$SGSC_EDGE_DATA/mnist-cnn/plain_int8.tflite is absent")
    graph = read_tflite(path.read_bytes(), where=str(path))
    kinds = [node.kind for node in graph.nodes]
    assert kinds[:3] == ["Conv2D", "Conv2D", "MaxPool2D"]
    assert kinds[-1] == "FullyConnected"
    assert graph[graph.inputs[0]].shape == (1, 28, 28, 1)
    assert graph[graph.outputs[0]].shape == (1, 10)
    assert same_graph(graph, read_tflite(write_tflite(graph)))


# --- files that are well-formed but unusual -------------------------------------------------------


def edited(name: str, edit: Callable[[Record], object]) -> bytes:
    """The file of an example after ``edit`` has changed its decoded model in place."""
    model = decode(write_tflite(GRAPHS[name]), where="test")
    edit(model)
    return encode(model)


def subgraph(model: Record) -> Record:
    return model["subgraphs"][0]


def tensor(model: Record, name: str) -> Record:
    return next(record for record in subgraph(model)["tensors"] if record["name"] == name)


def operator(model: Record) -> Record:
    return subgraph(model)["operators"][0]


@pytest.mark.parametrize("inputs", [[0, 1], [0, 1, -1]])
@pytest.mark.parametrize("name", ["conv_int8", "depthwise_int8", "dense_int8", "dense_int4", "dense_float32"])
def test_a_missing_bias_becomes_zeros(name: str, inputs: list[int]) -> None:
    graph = read_tflite(edited(name, lambda m: operator(m).update(inputs=inputs)))
    x, weights, bias = graph.inputs_of(graph.nodes[0])
    assert bias.data is not None
    assert not bias.data.any()
    assert bias.shape == GRAPHS[name]["bias"].shape
    if weights.quantization is not None and x.quantization is not None and bias.quantization is not None:
        np.testing.assert_array_equal(
            bias.quantization.scale, x.quantization.scale[0] * weights.quantization.scale
        )
    assert same_graph(graph, read_tflite(write_tflite(graph)))


def test_names_become_unique_and_are_never_empty() -> None:
    def edit(model: Record) -> None:
        for record in subgraph(model)["tensors"]:
            record["name"] = "same"
        subgraph(model)["tensors"][0]["name"] = None

    graph = read_tflite(edited("conv_int8", edit))
    assert list(graph.tensors) == ["tensor_0", "same", "same:1", "same:2"]


def test_tensors_that_nothing_uses_are_dropped_even_of_unknown_type() -> None:
    def edit(model: Record) -> None:
        subgraph(model)["tensors"].append({"shape": [1], "type": 5, "buffer": 0, "name": "text"})

    assert same_graph(read_tflite(edited("conv_int8", edit)), GRAPHS["conv_int8"])


def test_a_vectors_parameters_lie_along_its_only_axis() -> None:
    edit = lambda m: tensor(m, "bias")["quantization"].update(quantized_dimension=3)  # noqa: E731
    assert same_graph(read_tflite(edited("conv_int8", edit)), GRAPHS["conv_int8"])


def test_one_zero_point_stands_for_all_channels() -> None:
    edit = lambda m: tensor(m, "weights")["quantization"].update(zero_point=np.zeros(1, np.int64))  # noqa: E731
    assert same_graph(read_tflite(edited("conv_int8", edit)), GRAPHS["conv_int8"])


def test_old_files_name_their_operator_in_eight_bits() -> None:
    edit = lambda m: m["operator_codes"][0].update(builtin_code=0)  # noqa: E731
    assert same_graph(read_tflite(edited("conv_int8", edit)), GRAPHS["conv_int8"])


def test_data_off_its_alignment_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = tuple(
        flatbuffer.Field(f.name, f.type, f.vector, 0, f.default) for f in flatbuffer.TABLES["Buffer"]
    )
    model = decode(write_tflite(GRAPHS["conv_int8"]), where="test")
    with monkeypatch.context() as patch:
        patch.setattr(flatbuffer, "TABLES", {**flatbuffer.TABLES, "Buffer": fields})
        data = encode(model)
    graph = read_tflite(data)
    assert same_graph(graph, GRAPHS["conv_int8"])
    assert all(t.data.flags.aligned for t in graph.constants() if t.data is not None)


def test_constants_cannot_be_written_to() -> None:
    for name in ("conv_int8", "conv_int4"):
        for constant in read_tflite(write_tflite(GRAPHS[name])).constants():
            assert constant.data is not None
            with pytest.raises(ValueError, match="read-only"):
                constant.data[...] = 0


# --- files that are refused -----------------------------------------------------------------------

UNSUPPORTED: dict[str, tuple[Callable[[Record], object], str]] = {
    "unknown op": (
        lambda m: m["operator_codes"][0].update(builtin_code=27, deprecated_builtin_code=27),
        r"operator 0': SVDF",
    ),
    "op from the future": (lambda m: m["operator_codes"][0].update(builtin_code=999), "BUILTIN 999"),
    "custom op": (
        lambda m: m["operator_codes"][0].update(
            builtin_code=32, deprecated_builtin_code=32, custom_code="Mine"
        ),
        "CUSTOM Mine",
    ),
    "int16": (lambda m: tensor(m, "x").update(type=7), "Conv2D.*int16"),
    "float16": (lambda m: tensor(m, "x").update(type=1), "float16 tensor"),
    "two subgraphs": (lambda m: m["subgraphs"].append(m["subgraphs"][0]), "2 subgraphs"),
    "no subgraph": (lambda m: m["subgraphs"].clear(), "0 subgraphs"),
    "variable": (lambda m: tensor(m, "x").update(is_variable=True), "variable"),
    "external data": (lambda m: m["buffers"][1].update(offset=64, size=8, data=None), "external buffer"),
    "tanh": (lambda m: operator(m)["options"].update(activation=4), "activation number 4"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_the_device_graph_lacks_is_named(name: str) -> None:
    edit, message = UNSUPPORTED[name]
    with pytest.raises(UnsupportedError, match=message):
        read_tflite(edited("conv_int8", edit))


def test_shuffled_dense_weights_are_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="weights_format is 1"):
        read_tflite(edited("dense_int8", lambda m: operator(m)["options"].update(weights_format=1)))


def _scale(name: str, value: float) -> Callable[[Record], object]:
    return lambda m: tensor(m, name)["quantization"].update(scale=np.array([value], np.float32))


MALFORMED: dict[str, tuple[Callable[[Record], object], str]] = {
    "version": (lambda m: m.update(version=2), "schema version 2"),
    "operator code": (lambda m: operator(m).update(opcode_index=7), "operator code 7 of 1"),
    "tensor index": (lambda m: operator(m).update(inputs=[0, 1, 99]), "tensor 99 of 4"),
    "negative index": (lambda m: operator(m).update(inputs=[-1, 1, 2]), "tensor -1 of 4"),
    "graph input": (lambda m: subgraph(m).update(inputs=[44]), "tensor 44 of 4"),
    "buffer index": (lambda m: tensor(m, "x").update(buffer=1000), "buffer 1000 of"),
    "metadata buffer": (lambda m: m["metadata"][0].update(buffer=1000), "buffer 1000 of"),
    "metadata twice": (lambda m: m["metadata"].append(m["metadata"][1]), "second entry named 'note'"),
    "no options": (lambda m: operator(m).update(options=None, options_type=0), "CONV_2D without its options"),
    "shape against buffer": (
        lambda m: tensor(m, "weights").update(shape=[3, 3, 3, 5]),
        "takes 135 bytes, its buffer has 108",
    ),
    "huge shape": (lambda m: tensor(m, "weights").update(shape=[2**31 - 1] * 8), "its buffer has 108"),
    "negative shape": (lambda m: tensor(m, "x").update(shape=[-1, 7, 6, 4]), r"shape \[-1, 7"),
    "nine dimensions": (lambda m: tensor(m, "x").update(shape=[1] * 9), "shape"),
    "element type": (lambda m: tensor(m, "x").update(type=99), "element type 99"),
    "scale 0": (_scale("x", 0.0), "not finite and positive"),
    "scale NaN": (_scale("x", float("nan")), "not finite and positive"),
    "zero points": (
        lambda m: tensor(m, "weights")["quantization"].update(zero_point=np.zeros(2, np.int64)),
        "2 zero points for 3 scales",
    ),
    "blockwise": (lambda m: tensor(m, "x")["quantization"].update(details_type=2), "blockwise"),
    "cycle": (lambda m: operator(m).update(outputs=[0]), "already defined"),
    "not legal": (
        lambda m: tensor(m, "bias")["quantization"].update(scale=np.ones(3, np.float32)),
        r"node 0 'y' \(Conv2D\): bias 'bias' has scale",
    ),
    "buffer of an unused tensor": (
        lambda m: subgraph(m)["tensors"].append({"shape": [1], "buffer": 9999}),
        "tensor 4 '': buffer 9999 of",
    ),
    "no outputs": (lambda m: subgraph(m).update(outputs=None), "at least one"),
    "no operators": (lambda m: subgraph(m).update(operators=None), "at least one"),
    "weights of rank 0": (
        lambda m: (operator(m).update(inputs=[0, 1]), tensor(m, "weights").update(buffer=0, shape=None)),
        r"weights of shape \[\]",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_models_say_what_and_where(name: str) -> None:
    edit, message = MALFORMED[name]
    with pytest.raises(FileFormatError, match=message) as error:
        read_tflite(edited("conv_int8", edit), where="some.tflite")
    assert "some.tflite" in str(error.value)


DATA = write_tflite(network())


def _put(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"TFL3", "4 bytes"),
        (b"PK\3\4" + bytes(60), "identifier"),
        (DATA[:4] + b"TFL2" + DATA[8:], "identifier"),
        (_put(DATA, 0, 0), "Model: offset 0"),
        (_put(DATA, 0, 2**32 - 4), "lie outside the file"),
        (_put(DATA, 0, 5), "not a multiple of 4"),
    ],
)
def test_damaged_headers(data: bytes, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        read_tflite(data)


def test_files_beyond_the_limit_are_refused() -> None:
    with pytest.raises(FileFormatError, match="more than the 100 allowed"):
        read_tflite(DATA, max_bytes=100)


def test_a_file_whose_parts_overlap_is_refused_in_linear_time_and_memory() -> None:
    """Many tensors that all point at one long name: 4 bytes each in the file, a megabyte each in memory."""
    count, length = 20_000, 1 << 20
    # Model at 8 .. : vtables first, then tables; offsets are relative to where they are stored.
    model = bytearray()
    model += struct.pack("<I4s", 24, b"TFL3")
    model += struct.pack("<HHHHHH", 10, 12, 4, 0, 8, 0)  # 8: Model: version at 4, subgraphs at 8
    model += struct.pack("<HH", 0, 0)  # 20: padding
    model += struct.pack("<iII", 24 - 8, 3, 4)  # 24: Model, subgraphs vector 4 bytes on
    model += struct.pack("<II", 1, 4 + 8)  # 36: one subgraph, 12 bytes on from 40
    model += struct.pack("<HHHH", 6, 8, 4, 0)  # 44: vtable of SubGraph: tensors at 4
    model += struct.pack("<iI", 52 - 44, 4)  # 52: SubGraph, tensors vector at 60
    start = len(model)
    assert start == 60
    table = start + 4 + 4 * count + 16
    model += struct.pack("<I", count)
    model += b"".join(struct.pack("<I", table - (start + 4 + 4 * i)) for i in range(count))
    model += bytes(table - 16 - len(model))
    model += struct.pack("<HHHHHHHH", 12, 8, 0, 0, 0, 4, 0, 0)  # vtable of Tensor: name at 4
    model += struct.pack("<iI", 16, 4)
    model += struct.pack("<I", length) + b"n" * length + b"\0"
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(FileFormatError, match="exceed eight times the file's size"):
        read_tflite(bytes(model))
    assert time.process_time() - begin < 4
    assert tracemalloc.get_traced_memory()[1] < 20 * length
    tracemalloc.stop()


def test_many_equal_names_take_linear_time() -> None:
    count = 10_000

    def edit(model: Record) -> None:
        record = {**subgraph(model)["tensors"][0], "name": "x"}
        subgraph(model)["tensors"] = [dict(record) for _ in range(count)]
        operator(model).update(inputs=list(range(count - 1)), outputs=[count - 1])

    data = edited("concat_int8", edit)
    begin = time.process_time()
    with pytest.raises(FileFormatError, match=r"x:20.* is not computed"):
        read_tflite(data)
    assert time.process_time() - begin < 4


def test_long_lists_of_findings_are_cut() -> None:
    def edit(model: Record) -> None:
        bad = {**subgraph(model)["tensors"][0], "shape": [0]}
        start = len(subgraph(model)["tensors"])
        subgraph(model)["tensors"] += [{**bad, "name": f"bad{i}"} for i in range(100)]
        operator(model).update(inputs=list(range(start, start + 100)))

    with pytest.raises(FileFormatError, match=r"bad10[\s\S]*and \d+ more") as error:
        read_tflite(edited("concat_int8", edit))
    assert len(str(error.value).splitlines()) < 30


def test_more_tables_than_any_model_needs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatbuffer, "MAX_TABLES", 10)
    with pytest.raises(FileFormatError, match="more than 10 tables"):
        read_tflite(DATA)


def test_all_refusals_are_input_errors() -> None:
    assert issubclass(FileFormatError, SgscError)
    assert (
        FileFormatError("x").exit_code
        == UnsupportedError(node="", op="", reason="", remedy="").exit_code
        == 2
    )


def test_float_and_integer_tensors_keep_their_native_types() -> None:
    graph = read_tflite(write_tflite(GRAPHS["mean_int8"]))
    axes = graph[graph.nodes[0].inputs[1]]
    assert axes.data is not None
    assert (axes.dtype, axes.data.dtype) == (DType.INT32, np.dtype("int32"))


def test_scalars_have_no_dimensions() -> None:
    x = activation("x", ())
    graph = graph_of(ir.Relu(), [x], activation("y", ()))
    assert read_tflite(write_tflite(graph))["x"].shape == ()
