"""Every op of the executor against the real kernels: integers equal, or as near as targets tolerate.

Ops with weights are in ``test_widths_exact.py``, by width and granularity.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interpreters import run_litert_default, run_litert_reference, run_tflm
from op_cases import CASES

from sgsc_edge.graph.reference import run
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.targets import load_target

RUNTIMES = {"tflm": run_tflm, "litert_reference": run_litert_reference}
WEIGHTED = ("conv_2d", "depthwise_conv_2d", "fully_connected")
PAIRS = [
    (name, runtime)
    for name, row in CASES.items()
    if not name.startswith(WEIGHTED)
    for runtime in row.runtimes
]


@pytest.mark.parametrize(("name", "runtime"), PAIRS)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_op_equals_runtime(name: str, runtime: str, data: st.DataObject) -> None:
    graph, inputs = data.draw(CASES[name].cases)
    expected = RUNTIMES[runtime](write_tflite(graph), inputs)
    computed = run(graph, inputs, profile=runtime)
    assert computed.dtype == expected.dtype
    np.testing.assert_array_equal(computed, expected)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(WEIGHTED)])
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_xnnpack_is_as_near_as_the_target_says(name: str, data: st.DataObject) -> None:
    graph, inputs = data.draw(CASES[name].cases)
    outputs = run_litert_default(write_tflite(graph), inputs)
    steps = np.abs(outputs.astype(np.float64) - run(graph, inputs))
    assert steps.max() <= load_target("tflite-int4").tolerance("litert", graph.nodes[0].kind)
