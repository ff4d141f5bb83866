"""Language models through tracing, training in int8, folding and ONNX Runtime."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from compression.attention_networks import (
    BLOCKS,
    CHANNELS,
    FORMS,
    HEADS,
    LENGTH,
    SAMPLE,
    VOCABULARY,
    Attention,
    LanguageModel,
    loss_of,
    quantized,
    sentences,
    train,
    trained,
)
from torch import nn

from sgsc_edge.compression.folding.fold import CompressedModel, fold
from sgsc_edge.compression.folding.integers import FoldedSoftmax
from sgsc_edge.compression.layers import QuantLayer, quantize_model
from sgsc_edge.compression.tracing.operators import MaskedSoftmax, MatMul, Table
from sgsc_edge.compression.tracing.trace import trace
from sgsc_edge.errors import UnsupportedError
from sgsc_edge.export import export_onnx, output_integers
from sgsc_edge.lowering import lower
from sgsc_edge.targets import load_target

HEAD_WIDTH = CHANNELS // HEADS


@cache
def compressed(form: str) -> CompressedModel:
    model = quantized(form)
    train(model.module, 20, 1e-3)
    return fold(model)


@cache
def exported(form: str) -> onnx.ModelProto:
    return export_onnx(compressed(form), SAMPLE, name="names", metadata={})


def session(form: str) -> Callable[[torch.Tensor], np.ndarray]:
    """A compressed model in ONNX Runtime: int64 tokens [n, T] to float32 logits [n, T, V]."""
    runtime = onnxruntime.InferenceSession(exported(form).SerializeToString())
    return lambda tokens: runtime.run(None, {"input": tokens.numpy()})[0]


# --- tracing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_attention_becomes_the_same_operators(form: str) -> None:
    torch.manual_seed(0)
    blocks = BLOCKS.get(form, 1)
    model = LanguageModel(form, blocks).eval()
    traced = trace(model, SAMPLE)
    calls = [
        traced.graph_module.get_submodule(str(node.target))
        for node in traced.graph_module.graph.nodes
        if node.op == "call_module"
    ]
    kinds = Counter(type(module) for module in calls)
    heads = blocks * (HEADS if form == "heads" else 1)
    assert (kinds[MatMul], kinds[MaskedSoftmax], kinds[Table]) == (2 * heads, heads, 2)
    masks = [module.mask for module in calls if isinstance(module, MaskedSoftmax)]
    causal = ~torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    assert all(torch.equal(mask.reshape(LENGTH, LENGTH), causal) for mask in masks)
    scales = sorted(module.scale for module in calls if isinstance(module, MatMul))
    assert scales == pytest.approx([HEAD_WIDTH**-0.5] * heads + [1.0] * heads)
    assert Counter(traced.kinds.values())["LayerNormalization"] == 2 * blocks + 1
    tokens = sentences(5)[:, :-1]  # as many as the model was not traced with
    torch.testing.assert_close(traced.graph_module.eval()(tokens), model(tokens), rtol=1e-4, atol=1e-4)


def test_positions_that_no_input_reaches_are_no_part_of_the_model() -> None:
    table = trace(LanguageModel(), SAMPLE).graph_module.get_submodule("positions")
    assert isinstance(table, Table)
    assert table.weight.shape == (LENGTH, CHANNELS)


def test_the_users_model_is_left_as_it_was() -> None:
    model = LanguageModel("split").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantize_model(model, SAMPLE)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert isinstance(model.tokens, nn.Embedding)


class Call(nn.Module):
    """A function of embedded tokens."""

    def __init__(self, function: Callable[..., object], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)
        self.tokens = nn.Embedding(VOCABULARY, CHANNELS)
        self.register_buffer("tril", torch.ones(LENGTH, LENGTH).tril())
        self.register_buffer("slopes", torch.linspace(-1, 0, LENGTH).expand(LENGTH, LENGTH).clone())

    def forward(self, tokens: torch.Tensor) -> object:
        return self.function(self, self.tokens(tokens), *self.parts)


def biased(self: Call, x: torch.Tensor) -> torch.Tensor:
    mask = self.slopes.masked_fill(self.tril == 0, float("-inf"))
    return F.softmax(x @ x.transpose(1, 2) + mask, -1) @ x


def blind(self: Call, x: torch.Tensor) -> torch.Tensor:
    scores = x @ x.transpose(1, 2)
    return scores.masked_fill(self.tril.triu(1) == 0, float("-inf")).softmax(-1) @ x


@pytest.mark.parametrize(
    ("function", "modules", "message"),
    [
        (
            lambda self, x, attention: attention(x, x, x)[0],
            [nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True)],
            r"MultiheadAttention cannot be lowered.*\n.*scaled_dot_product_attention",
        ),
        (lambda self, x: x.masked_fill(x > 0, 0.0), [], r"masked_fill|gt"),
        (
            lambda self, x: x.masked_fill(self.tril[:, :1] == 0, -math.inf).relu(),
            [],
            r"masked_fill cannot be lowered.*\n.*right before a softmax",
        ),
        (lambda self, x, layer: layer(x).relu().chunk(2, 2)[1], [nn.Linear(16, 8)], "three, for query"),
        (lambda self, x, layer: layer(x).unflatten(2, (2, 4)).unbind(2)[0], [nn.Linear(16, 8)], "three, for"),
        (biased, [], "leaves some out and changes others"),
        (blind, [], "leaves out a whole row"),
        (lambda self, x, norm: norm(x), [nn.LayerNorm([LENGTH, CHANNELS])], "the last 2 axes"),
        (lambda self, x: torch.einsum("ntc,nsc->nts", x, x), [], r"einsum cannot be lowered.*\n.*matmul"),
    ],
)
def test_what_has_no_exact_form_is_refused_with_a_remedy(
    function: Callable[..., object], modules: list[nn.Module], message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        quantize_model(Call(function, *modules).eval(), SAMPLE)


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (lambda table, tokens: table(tokens + 1), "computed from the input"),
        (
            lambda table, tokens: table(tokens) + table(tokens.flip(1)),
            "computed from the input|more than once",
        ),
    ],
)
def test_embeddings_of_something_else_than_tokens_are_refused(
    embedding: Callable[[nn.Module, torch.Tensor], torch.Tensor], message: str
) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(2 * VOCABULARY, 4)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return embedding(self.table, tokens)

    with pytest.raises(UnsupportedError, match=message):
        trace(Model(), SAMPLE)


def test_a_table_whose_rows_shrink_when_they_are_read_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="max_norm"):
        trace(nn.Sequential(nn.Embedding(VOCABULARY, 4, max_norm=1.0)), SAMPLE)


# --- training -------------------------------------------------------------------------------------


def test_scores_are_quantized_before_they_are_masked() -> None:
    model = quantized("filled")
    group = model.placement.group
    scores = next(name for name, kind in model.kinds.items() if kind == "MatMul")
    assert scores in model.placement.rounds
    assert float(model.quantizer(group[scores]).low) > -100
    softmax = next(name for name, kind in model.kinds.items() if kind == "Softmax")
    assert model.placement.fixed[group[softmax]] == (1 / 256, -128)


@pytest.mark.parametrize("form", ["filled", "split", "heads"])
def test_int8_costs_little_and_training_goes_on(form: str) -> None:
    model, rows = quantized(form), sentences(256, seed=999)
    with torch.no_grad():
        float_loss = float(loss_of(trained(form)(rows[:, :-1]), rows))
        int8_loss = float(loss_of(model.module(rows[:, :-1]), rows))
    assert int8_loss < float_loss + 0.05 < math.log(VOCABULARY)
    losses = train(model.module, 60, 1e-3)
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_every_parameter_of_a_language_model_is_trained() -> None:
    model = quantized("filled")
    for _, layer in model.layers():
        layer.quantizer.bits.requires_grad_(True)
        layer.quantizer.log2_range.requires_grad_(True)
        layer.quantizer.set_bits(torch.full_like(layer.mask, 3.0))
    rows = sentences(64)
    loss_of(model.module(rows[:, :-1]), rows).backward()
    for name, layer in model.layers():
        for value in (layer.weight, layer.quantizer.log2_range, layer.quantizer.bits):
            assert value.grad is not None, name
            assert bool(value.grad.isfinite().all()), name
            assert float(value.grad.abs().max()) > 0, name
    norms = [value for name, value in model.module.named_parameters() if "norm" in name or ".first" in name]
    assert norms
    assert all(value.grad is not None and float(value.grad.abs().max()) > 0 for value in norms)


@pytest.mark.parametrize("form", ["function", "split", "heads"])
def test_the_rows_of_a_head_learn_one_depth(form: str) -> None:
    model = quantized(form)
    tied = {name: layer for name, layer in model.layers() if layer.quantizer.first is not None}
    assert len(tied) == BLOCKS.get(form, 1) * 3 * (HEADS if form == "heads" else 1)
    depths = [layer.quantizer.bits.requires_grad_(True) for _, layer in model.layers()]
    optimizer = torch.optim.Adam(depths, 0.05)
    for step in range(5):
        rows = sentences(32, seed=step)
        size = torch.cat(depths).mean()
        optimizer.zero_grad()
        (loss_of(model.module(rows[:, :-1]), rows) + 0.1 * size).backward()
        optimizer.step()
    for name, layer in tied.items():
        heads = layer.quantizer.depths().detach().reshape(-1, HEAD_WIDTH)
        assert bool((heads == heads[:, :1]).all()), name
        assert torch.equal(layer.quantizer.bits.detach().reshape(heads.shape), heads), name
        assert bool((heads < 8).all()), name
    if form != "heads":
        assert any(len(layer.quantizer.bits.unique()) == HEADS for layer in tied.values())
    others = [layer for name, layer in model.layers() if name.endswith("up")]
    assert all(len(layer.quantizer.bits.unique()) > HEADS for layer in others)


def test_bits_given_to_one_row_of_a_head_are_given_to_all() -> None:
    layer = quantized("function").module.get_submodule("blocks.0.attention.query")
    assert isinstance(layer, QuantLayer)
    bits = torch.full((CHANNELS,), 3.0)
    bits[2] = 5.0
    layer.quantizer.set_bits(bits)
    assert layer.quantizer.bits.tolist() == [5.0] * HEAD_WIDTH + [3.0] * HEAD_WIDTH


def test_a_dead_row_is_the_zero_vector() -> None:
    model = quantized("filled")
    layer = model.module.get_submodule("tokens")
    assert isinstance(layer, QuantLayer)
    mask = torch.ones(VOCABULARY)
    mask[3] = 0
    layer.set_mask(mask)
    rows = layer(torch.arange(VOCABULARY))
    assert not rows[3].any()
    assert rows[2].any()
    table = fold(model).module.get_submodule("tokens")
    assert not table(torch.tensor([[3]])).any()  # type: ignore[operator]


# --- integers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["filled", "split", "heads"])
def test_onnx_runtime_computes_what_the_compressed_model_does(form: str) -> None:
    model = compressed(form)
    tokens = sentences(200, seed=77)[:, :-1]
    with torch.no_grad():
        own = model.module(tokens).numpy()
    other = session(form)(tokens)
    step = float(model.output.scale)
    assert np.abs(own - other).max() <= 1.001 * step
    best = np.sort(own, -1)
    clear = best[..., -1] - best[..., -2] > 1.5 * step
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(own.argmax(-1)[clear], other.argmax(-1)[clear])


def test_the_compressed_model_has_learned_what_the_float_one_has() -> None:
    rows = sentences(256, seed=999)
    with torch.no_grad():
        float_loss = float(loss_of(trained("filled")(rows[:, :-1]), rows))
        loss = float(loss_of(compressed("filled").module(rows[:, :-1]), rows))
    assert loss < float_loss + 0.1


@pytest.mark.parametrize("form", ["chosen", "split", "heads"])
def test_what_comes_later_changes_nothing_before(form: str) -> None:
    model = compressed(form)
    run = session(form)
    tokens = sentences(50, seed=5)[:, :-1]
    others = tokens.clone()
    others[:, 5:] = (others[:, 5:] + torch.randint(1, VOCABULARY, (50, LENGTH - 5))) % VOCABULARY
    with torch.no_grad():
        before, after = model.module(tokens), model.module(others)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])
    np.testing.assert_array_equal(run(tokens)[:, :5], run(others)[:, :5])


def test_no_answer_depends_on_the_others_of_its_batch() -> None:
    model, tokens = compressed("filled"), sentences(33, seed=6)[:, :-1]
    together = output_integers(model, tokens.numpy())
    alone = np.concatenate([output_integers(model, row[np.newaxis]) for row in tokens.numpy()])
    assert together.shape == (33, LENGTH, VOCABULARY)
    np.testing.assert_array_equal(together, alone)


def test_what_is_masked_has_a_share_of_exactly_zero() -> None:
    mask = ~torch.ones(4, 4, dtype=torch.bool).tril()
    shares = FoldedSoftmax(mask)(torch.randn(2, 3, 4, 4) * 100)
    assert bool((shares[..., mask] == 0).all())
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 3, 4))


def test_stored_tensors_make_the_same_model_again() -> None:
    from sgsc_edge.compression.folding.fold import load_tensors

    model = compressed("filled")
    again = fold(quantize_model(LanguageModel("filled").eval(), SAMPLE))
    load_tensors(again, model.tensors())
    assert again.agrees_with(model, SAMPLE)
    assert again.input is None


def test_lowering_refuses_tokens_and_attention_by_name() -> None:
    with pytest.raises(UnsupportedError, match="not a float32 tensor"):
        lower(exported("filled"), load_target("tflite-int8"))
    model = quantize_model(
        nn.Sequential(nn.LayerNorm(CHANNELS), Attention("filled")).eval(), torch.ones(8, 16)
    )
    block = export_onnx(fold(model), torch.ones(8, 16), name="block", metadata={})
    with pytest.raises(UnsupportedError, match="LayerNormalization cannot be lowered"):
        lower(block, load_target("tflite-int8"))


def test_scores_of_a_float_model_are_multiplied_in_training_as_written() -> None:
    """A head's width is part of the model's meaning: it does not change when heads are cut."""
    attention = Attention("filled").eval()
    traced = trace(nn.Sequential(nn.Embedding(VOCABULARY, CHANNELS), attention), SAMPLE)
    assert not any(node.target == "size" for node in traced.graph_module.graph.nodes if len(node.args) > 1)
