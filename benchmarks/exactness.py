"""Do the real kernels give, integer for integer, what the NumPy executor computes?

Over every sample of the certify set of each build folder: TFLM against the executor under the ``tflm``
rounding profile, LiteRT's reference kernels against it under ``litert_reference``. A runtime for which the
target states tolerances (LiteRT with XNNPACK) is compared op by op, on the values that the executor has in
front of each op, over the first samples::

    python -m benchmarks.exactness [BUILD_FOLDER ...]

The folders default to those that `make demo` and `make mnist` write.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import ROOT, Row, equal_integers, finish
from sgsc_edge.artifacts import read_npz
from sgsc_edge.graph.ir import Graph, Node
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.graph.reference import run as execute
from sgsc_edge.graph.reference import run_tensors
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.runtimes import run_runtime
from sgsc_edge.targets import Target, load_target

DEFAULT = ("examples/digits/build/tflite-int8", "examples/mnist/build/tflite-int8")
PAIRS = {"tflm": "tflm", "litert-reference": "litert_reference"}
"""Runtime -> the rounding profile that describes it."""
TIMEOUT_S = 1800.0
ONE_BY_ONE = "litert"
OP_SAMPLES = 100


def main() -> int:
    """Compare every pair on every folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[ROOT / folder for folder in DEFAULT])
    compared = [compare(folder.resolve()) for folder in parser.parse_args().folders]
    return finish("exactness", [one for rows in compared for one in rows])


def compare(folder: Path) -> list[Row]:
    """One row a runtime, how many output integers of the certify set differ; and one an op of XNNPACK."""
    target = load_target(folder.name)
    model = folder / "model.tflite"
    inputs = read_npz(folder / "preservation.npz")["certify_inputs"]
    graph = read_tflite(model.read_bytes())
    rows = []
    for runtime, profile in PAIRS.items():
        if any(stated.runtime == runtime for stated in target.tolerances):
            raise SystemExit(f"{target.name} has tolerances for {runtime}, which is compared end to end")
        result = run_runtime(runtime, model, inputs, timeout_s=TIMEOUT_S, workers=2)
        if result.outputs is None:
            raise SystemExit(f"{runtime} did not run on {model}: {result.reason}")
        rows.append(row(folder, runtime, result.outputs, execute(graph, inputs, profile)))
    return [*rows, *op_rows(folder, target, graph, inputs[:OP_SAMPLES])]


def op_rows(folder: Path, target: Target, graph: Graph, inputs: NDArray[np.int8]) -> list[Row]:
    """One row a kind of op: the largest difference of XNNPACK on equal inputs, and the target's tolerance."""
    computed = [tensor.name for tensor in graph.tensors.values() if not tensor.is_constant]
    values = run_tensors(graph, {graph.inputs[0]: inputs}, wanted=computed)
    steps: dict[str, int] = {}
    for node in graph.nodes:
        one = alone(graph, node)
        outputs = _run_xnnpack(write_tflite(one), [values[name] for name in one.inputs])
        expected = values[node.outputs[0]].reshape(outputs.shape)
        largest = int(np.abs(outputs.astype(np.int64) - expected).max())
        steps[node.kind] = max(steps.get(node.kind, 0), largest)
    return [
        Row(
            f"{folder.parent.parent.name}: steps that {ONE_BY_ONE} differs by in one {kind}, on equal inputs",
            str(largest),
            f"≤ {target.tolerance(ONE_BY_ONE, kind)}",
            largest <= target.tolerance(ONE_BY_ONE, kind),
        )
        for kind, largest in sorted(steps.items())
    ]


def alone(graph: Graph, node: Node) -> Graph:
    """A graph of one node; what others compute is its input."""
    fed = tuple(dict.fromkeys(name for name in node.inputs if not graph[name].is_constant))
    tensors = {name: graph[name] for name in (*node.inputs, *node.outputs)}
    return Graph(node.source, tensors, (node,), fed, node.outputs)


def _run_xnnpack(model: bytes, feeds: Sequence[NDArray[np.generic]]) -> NDArray[np.int8]:
    """Outputs [n, *shape] of LiteRT's default kernels; each feed is [n, *shape]."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    sources, sink = interpreter.get_input_details(), interpreter.get_output_details()[0]
    outputs = []
    for samples in zip(*feeds, strict=True):
        for source, sample in zip(sources, samples, strict=True):
            interpreter.set_tensor(source["index"], sample.reshape(source["shape"]))
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(sink["index"]).copy())
    return np.stack(outputs)


def row(folder: Path, runtime: str, outputs: NDArray[np.int8], expected: NDArray[np.int8]) -> Row:
    """How many integers of a runtime differ."""
    project = folder.parent.parent.name
    return equal_integers(
        f"{project}: integers that differ, {runtime} against the executor", outputs, expected
    )


if __name__ == "__main__":
    raise SystemExit(main())
