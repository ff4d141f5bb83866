"""Which ONNX operator each call of a traced model is; what no table names is refused."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from sgsc_edge.compression.tracing.operators import OPERATORS, MaskedSoftmax, MatMul, Table
from sgsc_edge.errors import UnsupportedError

MODULE_KINDS: Mapping[type[nn.Module], str] = MappingProxyType(
    {
        Table: "Gather",
        MatMul: "MatMul",
        MaskedSoftmax: "Softmax",
        nn.LayerNorm: "LayerNormalization",
        nn.GELU: "Gelu",
        nn.Conv1d: "Conv",
        nn.Conv2d: "Conv",
        nn.Linear: "Gemm",
        nn.BatchNorm1d: "BatchNormalization",
        nn.BatchNorm2d: "BatchNormalization",
        nn.ReLU: "Relu",
        nn.ReLU6: "Clip",
        nn.Hardtanh: "Clip",
        nn.MaxPool1d: "MaxPool",
        nn.MaxPool2d: "MaxPool",
        nn.AvgPool1d: "AveragePool",
        nn.AvgPool2d: "AveragePool",
        nn.AdaptiveAvgPool1d: "GlobalAveragePool",
        nn.AdaptiveAvgPool2d: "GlobalAveragePool",
        nn.ZeroPad1d: "Pad",
        nn.ZeroPad2d: "Pad",
        nn.ConstantPad1d: "Pad",
        nn.ConstantPad2d: "Pad",
        nn.Flatten: "Flatten",
        nn.Unflatten: "Reshape",
        nn.Dropout: "Dropout",
        nn.Dropout1d: "Dropout",
        nn.Dropout2d: "Dropout",
        nn.Identity: "Identity",
        nn.Softmax: "Softmax",
        nn.LogSoftmax: "LogSoftmax",
    }
)

FUNCTION_KINDS: Mapping[Callable[..., Any], str] = MappingProxyType(
    {
        torch.relu: "Relu",
        torch.relu_: "Relu",
        F.relu: "Relu",
        F.relu_: "Relu",
        F.relu6: "Clip",
        F.hardtanh: "Clip",
        torch.clamp: "Clip",
        torch.clip: "Clip",
        operator.add: "Add",
        operator.iadd: "Add",
        torch.add: "Add",
        operator.mul: "Mul",
        operator.imul: "Mul",
        torch.mul: "Mul",
        torch.cat: "Concat",
        torch.concat: "Concat",
        torch.flatten: "Flatten",
        torch.reshape: "Reshape",
        torch.squeeze: "Squeeze",
        torch.unsqueeze: "Unsqueeze",
        torch.permute: "Transpose",
        torch.transpose: "Transpose",
        torch.mean: "ReduceMean",
        torch.softmax: "Softmax",
        torch.log_softmax: "LogSoftmax",
        F.softmax: "Softmax",
        F.log_softmax: "LogSoftmax",
        F.max_pool1d: "MaxPool",
        F.max_pool2d: "MaxPool",
        torch.max_pool1d: "MaxPool",
        torch.max_pool2d: "MaxPool",
        F.avg_pool1d: "AveragePool",
        F.avg_pool2d: "AveragePool",
        F.adaptive_avg_pool1d: "GlobalAveragePool",
        F.adaptive_avg_pool2d: "GlobalAveragePool",
        F.pad: "Pad",
        F.dropout: "Dropout",
        F.dropout1d: "Dropout",
        F.dropout2d: "Dropout",
    }
)

METHOD_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "relu": "Relu",
        "relu_": "Relu",
        "clamp": "Clip",
        "clip": "Clip",
        "add": "Add",
        "add_": "Add",
        "mul": "Mul",
        "mul_": "Mul",
        "mean": "ReduceMean",
        "flatten": "Flatten",
        "view": "Reshape",
        "reshape": "Reshape",
        "squeeze": "Squeeze",
        "unsqueeze": "Unsqueeze",
        "permute": "Transpose",
        "transpose": "Transpose",
        "softmax": "Softmax",
        "log_softmax": "LogSoftmax",
        "contiguous": "Identity",
        "clone": "Identity",
    }
)

_THREE_LINEARS = "use a Linear layer of its own for each part (three, for query, key and value)"
_BEFORE_SOFTMAX = (
    'put it right before a softmax over the last axis, with a mask that is a buffer and float("-inf")'
)
REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "MultiheadAttention": "compute query, key and value with a Linear layer each, split the heads by "
        "view and transpose, and call F.scaled_dot_product_attention(query, key, value, is_causal=True)",
        "TransformerEncoderLayer": "write the block with LayerNorm, Linear and "
        "F.scaled_dot_product_attention",
        "unbind": _THREE_LINEARS,
        "chunk": _THREE_LINEARS,
        "split": _THREE_LINEARS,
        "masked_fill": _BEFORE_SOFTMAX,
        "where": _BEFORE_SOFTMAX,
        "einsum": "write it as a matmul of two values",
    }
)
"""What to write instead of calls that people use in attention."""


class Constant(nn.Module):
    """A constant operand of a traced model, as a module so that it can be quantized and trained."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value.detach().to(torch.float32).clone(), requires_grad=False)

    def forward(self) -> torch.Tensor:
        """The constant, float32, of its own shape."""
        return self.value


def kind_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> str | None:
    """The ONNX operator of an FX node; None for shape arithmetic.

    Raises
    ------
    UnsupportedError: a call that no table names.
    """
    if node.op == "placeholder":
        return "Input"
    if node.op == "call_module":
        module = modules[str(node.target)]
        if isinstance(module, Constant):
            return "Constant"
        if type(module) in MODULE_KINDS:
            return MODULE_KINDS[type(module)]
    elif node.op == "call_function":
        if node.target in FUNCTION_KINDS:
            return FUNCTION_KINDS[node.target]  # type: ignore[index]
    elif node.op == "call_method" and node.target in METHOD_KINDS:
        return METHOD_KINDS[str(node.target)]
    name = call_name(node, modules)
    raise UnsupportedError(
        node=name_of(node),
        op=name,
        reason="sgsc-edge has no exact integer form of it for this target",
        remedy=REMEDIES.get(name) or f"replace it; supported modules: {', '.join(supported_modules())}",
    )


def supported_modules() -> list[str]:
    """Names of the modules that a user can write, sorted."""
    kinds = (*(kind for kind in MODULE_KINDS if kind not in OPERATORS), nn.Embedding)
    return sorted(kind.__name__ for kind in kinds)


def name_of(node: fx.Node) -> str:
    """The name under which a user knows a node: the module's path, or the traced call's name."""
    return str(node.target) if node.op == "call_module" else node.name


def call_name(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """The name of the module, function or method that a node calls."""
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__
    return str(getattr(node.target, "__name__", node.target))
