"""LiteRT (``ai-edge-litert``): what phones and Linux boards run.

``litert`` uses the default resolver (XNNPACK), ``litert-reference`` the plain C++ kernels, which are
slower and the ones that other implementations are compared with.
"""

from __future__ import annotations

import warnings
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.runtimes._spec import MODEL_TFLITE, RuntimeSpec
from sgsc_edge.runtimes._tflite import TfLiteInterpreter, run_interpreter


def _interpreter(artifact: bytes, resolver: str) -> TfLiteInterpreter:
    with warnings.catch_warnings():
        # The import announces the move to CompiledModel, which has no reference kernels.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        interpreter = Interpreter(
            model_content=artifact,
            num_threads=1,
            experimental_op_resolver_type=OpResolverType[resolver],
        )
    return cast("TfLiteInterpreter", interpreter)


def run_xnnpack(artifact: bytes, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """Outputs int8 [n, K] under the default resolver."""
    return run_interpreter(_interpreter(artifact, "AUTO"), inputs)


def run_reference(artifact: bytes, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """Outputs int8 [n, K] under the reference kernels."""
    return run_interpreter(_interpreter(artifact, "BUILTIN_REF"), inputs)


ROWS = (
    RuntimeSpec("litert", "LiteRT with XNNPACK", MODEL_TFLITE, ("ai-edge-litert",), run_xnnpack),
    RuntimeSpec(
        "litert-reference",
        "LiteRT's reference kernels",
        MODEL_TFLITE,
        ("ai-edge-litert",),
        run_reference,
        slow=True,
    ),
)
