"""Attention as users write it, rewritten to a few operators with one form each.

Everything in a traced graph that follows from the input's shape alone (positions, causal masks, the scale of
scores) is computed once and becomes a constant. Then::

    Embedding                                   -> Table; of all positions without indices
    a @ b, matmul, bmm; times or by a number    -> MatMul(scale)
    masked_fill, where or + of a constant mask,
        before a Softmax over the last axis     -> MaskedSoftmax(mask)
    scaled_dot_product_attention                -> MatMul, MaskedSoftmax, Dropout, MatMul
    layer_norm, gelu                            -> LayerNorm, GELU
    a Linear whose output is split              -> one Linear for each part
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from sgsc_edge.compression.tracing.operators import MaskedSoftmax, MatMul, Table
from sgsc_edge.compression.tracing.rewriting import Rewriting, argument_of, run
from sgsc_edge.errors import UnsupportedError

_LEFT_OUT = -1e3
"""What is added to scores, or put in their place, to leave them out: at most this (its exponential is 0)."""

_MATMULS: frozenset[Any] = frozenset({torch.matmul, torch.bmm, operator.matmul, "matmul", "bmm"})
_TIMES: frozenset[Any] = frozenset({torch.mul, operator.mul, "mul"})
_BY: frozenset[Any] = frozenset({torch.div, operator.truediv, "div"})
_PLUS: frozenset[Any] = frozenset({torch.add, operator.add, "add"})
_FILLS: frozenset[Any] = frozenset({torch.masked_fill, "masked_fill"})
_SOFTMAXES: frozenset[Any] = frozenset({torch.softmax, F.softmax, "softmax"})
_SPLITS: frozenset[Any] = frozenset({torch.split, torch.chunk, "split", "chunk"})


def rewrite(graph_module: fx.GraphModule, batch: torch.Tensor) -> bool:
    """Rewrite a traced graph in place; whether anything changed.

    Parameters
    ----------
    batch: two samples of the model's input.

    Raises
    ------
    UnsupportedError: attention in a form that has no exact one.
    """
    try:
        runs = [run(graph_module, samples) for samples in (batch, torch.cat([batch, batch[:1]]))]
    except Exception:  # forward fails on a batch: the caller runs it again, and says so
        return False
    rewriting = Rewriting(graph_module, runs[0])
    rewriting.fold_constants(runs[1], numbers=not batch.is_floating_point())
    for rule in _RULES:
        for node in list(graph_module.graph.nodes):
            if node not in rewriting.erased:
                rule(rewriting, node)
    if rewriting.changed:
        graph_module.graph.eliminate_dead_code()
        graph_module.graph.lint()
        graph_module.recompile()
    return rewriting.changed


# --- one rule an operator -------------------------------------------------------------------------


def _embedding(rewriting: Rewriting, node: fx.Node) -> None:
    embedding = rewriting.called(node)
    if not isinstance(embedding, nn.Embedding):
        return
    if embedding.max_norm is not None:
        raise UnsupportedError(
            node=str(node.target),
            op="Embedding",
            reason="max_norm changes the table whenever it is read",
            remedy="leave max_norm out",
        )
    (indices,) = node.all_input_nodes
    constant = _positions(rewriting, indices)
    if constant is None and indices.op != "placeholder":
        raise UnsupportedError(
            node=str(node.target),
            op="Embedding",
            reason="its indices are computed from the input",
            remedy="look up the tokens as they come in, and positions from torch.arange or a buffer",
        )
    arguments: tuple[fx.Node, ...] = ()
    if constant is None:
        table, arguments = Table(embedding.weight), (indices,)
    else:
        rows = constant.flatten()
        whole = torch.equal(rows, torch.arange(embedding.num_embeddings))
        table = Table(embedding.weight if whole else embedding.weight.detach()[rows].clone())
    if len(rewriting.calls(node)) > 1:
        raise UnsupportedError(
            node=str(node.target),
            op="Embedding",
            reason="it is called more than once",
            remedy="give each call an Embedding of its own",
        )
    _set_module(rewriting.module, str(node.target), table)
    node.args, node.kwargs = arguments, {}
    rewriting.changed = True


def _positions(rewriting: Rewriting, indices: fx.Node) -> torch.Tensor | None:
    """Indices that are the same for every input, int64 [T] or more; None where they are not."""
    value: torch.Tensor = rewriting.values[indices]
    if indices in rewriting.depends:
        return None
    same = value.ndim > 1 and bool((value == value[:1]).all())  # expanded to the batch
    return value[0] if same else rewriting.constant_value(indices)


def _layer_norm(rewriting: Rewriting, node: fx.Node) -> None:
    if node.target is not F.layer_norm:
        return
    source = argument_of(node, 0, "input")
    weight, bias = argument_of(node, 2, "weight"), argument_of(node, 3, "bias")
    epsilon = argument_of(node, 4, "eps", 1e-5)
    shape = rewriting.values[source].shape
    norm = nn.LayerNorm(shape[-1], eps=epsilon, elementwise_affine=weight is not None, bias=bias is not None)
    parameters = {"weight": weight, "bias": bias}
    name = node.name
    for key, argument in parameters.items():
        value = rewriting.constant_value(argument)
        if argument is not None and (value is None or value.shape != shape[-1:]):
            raise UnsupportedError(
                node=node.name,
                op="layer_norm",
                reason=f"its {key} is no parameter of one value a channel",
                remedy="normalise the last axis alone, with nn.LayerNorm",
            )
        if value is not None:
            setattr(norm, key, nn.Parameter(value.clone()))
            name = str(argument.target).rpartition(".")[0].replace(".", "_") or name
    rewriting.replace(node, rewriting.call(norm, f"{name}_norm", (source,), node))


def _gelu(rewriting: Rewriting, node: fx.Node) -> None:
    if node.target is F.gelu:
        gelu = nn.GELU(argument_of(node, 1, "approximate", "none"))
        rewriting.replace(node, rewriting.call(gelu, node.name, (argument_of(node, 0, "input"),), node))


def _split(rewriting: Rewriting, node: fx.Node) -> None:
    """``c_attn(x).split(C, dim=2)``: the Linear becomes a ModuleList of its parts, named ``c_attn.0`` …"""
    if node.op not in ("call_method", "call_function") or node.target not in _SPLITS:
        return
    source: fx.Node = argument_of(node, 0, "tensor" if node.target is torch.split else "input")
    linear = rewriting.called(source)
    parts = rewriting.values[node]
    last = rewriting.rank(source) - 1
    axis = argument_of(node, 2, "dim", 0) % (last + 1)
    picks = [user for user in node.users if user.target is operator.getitem]
    if (
        not isinstance(linear, nn.Linear)
        or axis != last
        or len(source.users) > 1
        or len(rewriting.calls(source)) > 1
        or len(picks) < len(node.users)
    ):
        raise UnsupportedError(
            node=node.name,
            op=str(getattr(node.target, "__name__", node.target)),
            reason="it makes several tensors of something else than a Linear's last axis",
            remedy="use a Linear layer of its own for each part (three, for query, key and value)",
        )
    sizes = [part.shape[-1] for part in parts]
    weights = torch.split(linear.weight.detach(), sizes)
    biases = [None] * len(sizes) if linear.bias is None else torch.split(linear.bias.detach(), sizes)
    layers = nn.ModuleList(_linear(*each) for each in zip(weights, biases, strict=True))
    _set_module(rewriting.module, str(source.target), layers)
    for pick in picks:
        number = operator.index(pick.args[1]) % len(sizes)  # type: ignore[arg-type]
        with rewriting.module.graph.inserting_before(pick):
            part = rewriting.module.graph.call_module(f"{source.target}.{number}", source.args)
        rewriting.replace(pick, part)
    rewriting.erase(node)
    rewriting.erase(source)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight.clone())
    if bias is not None:
        linear.bias = nn.Parameter(bias.clone())
    return linear


def _attention(rewriting: Rewriting, node: fx.Node) -> None:
    if node.target is not F.scaled_dot_product_attention:
        return
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    query, key, value = (given[name] for name in names[:3])
    mask = rewriting.constant_value(given.get("attn_mask"))
    if given.get("enable_gqa") or (given.get("attn_mask") is not None and mask is None):
        raise UnsupportedError(
            node=node.name,
            op="scaled_dot_product_attention",
            reason="its mask depends on the input, or heads share keys",
            remedy="use is_causal=True or a mask that is a buffer, and as many heads for keys as for queries",
        )
    queries, width = rewriting.values[query].shape[-2:]
    keys = rewriting.values[key].shape[-2]
    if given.get("is_causal"):
        mask = ~torch.ones(queries, keys, dtype=torch.bool).tril()
    elif mask is not None:
        mask = ~mask if mask.dtype == torch.bool else _left_out(mask, node)
    scale = given.get("scale")
    with rewriting.module.graph.inserting_before(node):
        turned = rewriting.module.graph.call_method("transpose", (key, -2, -1))
    product = MatMul(1 / math.sqrt(width) if scale is None else float(scale))
    scores = rewriting.call(product, f"{node.name}_scores", (query, turned), node)
    shares = rewriting.call(MaskedSoftmax(mask), f"{node.name}_softmax", (scores,), node)
    if dropout := given.get("dropout_p", 0.0):
        shares = rewriting.call(nn.Dropout(float(dropout)), f"{node.name}_dropout", (shares,), node)
    rewriting.replace(node, rewriting.call(MatMul(), f"{node.name}_values", (shares, value), node))


def _product(rewriting: Rewriting, node: fx.Node) -> None:
    """A product of activations, with the number that it alone is multiplied by or divided by."""
    if node.op not in ("call_method", "call_function") or node.target not in _MATMULS:
        return
    scale, chain = 1.0, [node]
    while len(chain[-1].users) == 1:
        (user,) = chain[-1].users
        number = _factor(rewriting, user, chain[-1])
        if number is None:
            break
        scale *= number
        chain.append(user)
    operands = (argument_of(node, 0, "input"), argument_of(node, 1, "other"))
    made = rewriting.call(MatMul(scale), node.name, operands, node)
    *before, last = chain
    rewriting.replace(last, made)
    for link in reversed(before):
        rewriting.erase(link)


def _factor(rewriting: Rewriting, node: fx.Node, operand: fx.Node) -> float | None:
    """The constant that a node multiplies its operand by; None where it does something else."""
    if node.op not in ("call_method", "call_function") or node.target not in _TIMES | _BY:
        return None
    if node.kwargs or len(node.args) != 2:
        return None
    (other,) = (argument for argument in node.args if argument is not operand)
    value = rewriting.constant_value(other)
    if value is None or value.numel() != 1 or (node.target in _BY and node.args[0] is not operand):
        return None
    return float(value) if node.target in _TIMES else 1 / float(value)


def _softmax(rewriting: Rewriting, node: fx.Node) -> None:
    """A Softmax inside of sequences, with the masks right before it."""
    module = rewriting.called(node)
    if isinstance(module, nn.Softmax):
        axis = module.dim
    elif node.op in ("call_method", "call_function") and node.target in _SOFTMAXES:
        axis = argument_of(node, 1, "dim")
    else:
        return
    (scores,) = node.all_input_nodes
    rank = rewriting.rank(node)
    if rank < 3 or axis is None or axis % rank != rank - 1:
        return
    mask: torch.Tensor | None = None
    while (found := _masking(rewriting, scores)) is not None and len(scores.users) == 1:
        scores, more = found
        mask = more if mask is None else mask | more
    if mask is not None and bool(mask.all(-1).any()):
        raise UnsupportedError(
            node=node.name, op="Softmax", reason="its mask leaves out a whole row", remedy="keep one element"
        )
    rewriting.replace(node, rewriting.call(MaskedSoftmax(mask), node.name, (scores,), node))


def _masking(rewriting: Rewriting, node: fx.Node) -> tuple[fx.Node, torch.Tensor] | None:
    """What a node masks, and the mask (bool, True leaves out); None where it does something else."""
    if node.op not in ("call_method", "call_function") or node.kwargs:
        return None
    arguments: tuple[Any, ...] = node.args
    if node.target in _FILLS:
        source, mask, fill = arguments
        return _filled(rewriting, source, rewriting.constant_value(mask), fill)
    if node.target is torch.where and len(node.args) == 3:
        mask, source, fill = arguments
        keeps = rewriting.constant_value(mask)
        if keeps is None or rewriting.constant_value(source) is None:
            return _filled(rewriting, source, None if keeps is None else ~keeps.bool(), fill)
        return _filled(rewriting, fill, keeps, source)
    if node.target in _PLUS and len(node.args) == 2:
        for source, added in (arguments, arguments[::-1]):
            value = rewriting.constant_value(added)
            if value is not None and value.ndim and bool((value <= _LEFT_OUT).any()):
                return source, _left_out(value, node)
    return None


def _filled(
    rewriting: Rewriting, source: Any, mask: torch.Tensor | None, fill: Any
) -> tuple[fx.Node, torch.Tensor] | None:
    value = rewriting.constant_value(fill)
    if mask is None or value is None or not bool((value <= _LEFT_OUT).all()):
        return None
    return source, mask.bool()


def _left_out(added: torch.Tensor, node: fx.Node) -> torch.Tensor:
    """Where a number that is added to scores leaves them out, bool.

    Raises
    ------
    UnsupportedError: it changes others of them.
    """
    mask = added <= _LEFT_OUT
    if bool((added[~mask] != 0).any()):
        raise UnsupportedError(
            node=node.name,
            op="Add",
            reason="what it adds to the scores both leaves some out and changes others",
            remedy="add the bias first, and the mask of 0 and -inf in a line of its own",
        )
    return mask


def _set_module(graph_module: fx.GraphModule, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(graph_module.get_submodule(parent), leaf, module)


_RULES: tuple[Callable[[Rewriting, fx.Node], None], ...] = (
    _embedding,
    _layer_norm,
    _gelu,
    _split,
    _attention,
    _product,
    _softmax,
)
