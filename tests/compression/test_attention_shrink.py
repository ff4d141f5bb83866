"""Heads, hidden units and rows of tables: what they cost, and what leaves the model with them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime
import pytest
import torch
from compression.attention_networks import (
    CHANNELS,
    HEADS,
    LENGTH,
    SAMPLE,
    VOCABULARY,
    quantized,
    sentences,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgsc_edge.compression.channels import follow, living_masks, set_masks
from sgsc_edge.compression.fit import Masks, fit, smallest_bytes, stored_bytes
from sgsc_edge.compression.folding.fold import CompressedModel, FoldedConstant, FoldedLayer, fold
from sgsc_edge.compression.folding.integers import FoldedMatMul, FoldedNorm, FoldedTable
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.ledger import Ledger
from sgsc_edge.compression.shrink import shrink
from sgsc_edge.compression.widths.snapping import layer_bytes, living
from sgsc_edge.export import export_onnx
from sgsc_edge.numerics import FILTER_HEADER_BITS
from sgsc_edge.size import BIAS_BYTES, RESCALING_BYTES, SCALE_BYTES

TOKENS = sentences(40, seed=3)[:, :-1]
WIDTH = CHANNELS // HEADS


def bytes_in_8_bits(model: CompressedModel) -> int:
    """What the tensors of a model take in a ``.tflite``."""
    total = 0
    for module in model.module.modules():
        if isinstance(module, FoldedLayer):
            total += module.weight.numel() + len(module.weight) * (BIAS_BYTES + 2 * SCALE_BYTES)
        elif isinstance(module, FoldedTable):
            total += module.weight.numel() + SCALE_BYTES
        elif isinstance(module, FoldedNorm):
            total += sum(value.numel() + SCALE_BYTES for value in module.parameters_in_int8().values())
        elif isinstance(module, FoldedConstant):
            total += module.value.numel() + SCALE_BYTES
    return total


def bits_when_packed(model: CompressedModel, widths: Mapping[str, list[int]]) -> int:
    """What they take where every channel is packed at its own width; tables keep a place for every row."""
    total = 0
    for name, module in model.module.named_modules():
        if isinstance(module, FoldedLayer | FoldedTable):
            rows = [bits for bits in widths[name] if bits or isinstance(module, FoldedTable)]
            bias = BIAS_BYTES if isinstance(module, FoldedLayer) else 0
            assert len(rows) == len(module.weight)
            total += sum(rows) * module.weight.shape[1]
            total += len(rows) * (FILTER_HEADER_BITS + 8 * (bias + RESCALING_BYTES))
        elif isinstance(module, FoldedNorm):
            total += 8 * sum(value.numel() for value in module.parameters_in_int8().values())
        elif isinstance(module, FoldedConstant):
            total += 8 * module.value.numel()
    return total


def kill(model: QuantizedModel, chosen: Mapping[str, list[int]]) -> Masks:
    """Remove channels with all that belongs to them."""
    ledger, masks = Ledger.of(model), living_masks(model)
    dead = {int(ledger.members[name][channel]) for name, channels in chosen.items() for channel in channels}
    for name, classes in ledger.members.items():
        masks[name][np.isin(classes, list(dead))] = 0
    set_masks(model, masks)
    return masks


@st.composite
def choices(draw: st.DrawFn) -> tuple[str, dict[str, list[int]]]:
    """A form of attention, and channels to remove from it: heads and hidden units."""
    form = draw(st.sampled_from(["function", "heads"]))
    chosen: dict[str, list[int]] = {}
    for block in range(2):
        units = draw(st.sets(st.integers(0, 4 * CHANNELS - 1), max_size=4 * CHANNELS - 1))
        chosen[f"blocks.{block}.up"] = sorted(units)
        if form == "function":
            heads = draw(st.sets(st.integers(0, HEADS - 1), max_size=HEADS - 1))
            chosen[f"blocks.{block}.attention.query"] = [WIDTH * head for head in heads]
        else:
            rows = draw(st.sets(st.integers(0, WIDTH - 1), max_size=WIDTH - 1))
            chosen[f"blocks.{block}.attention.heads.0.value"] = sorted(rows)
    return form, chosen


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(choices())
def test_what_is_removed_leaves_and_no_output_changes(choice: tuple[str, dict[str, list[int]]]) -> None:
    form, chosen = choice
    model = quantized(form)
    masks = kill(model, chosen)
    whole = fold(model)
    smaller = shrink(whole, SAMPLE).model
    with torch.no_grad():
        assert torch.equal(whole.module(TOKENS), smaller.module(TOKENS))
    assert stored_bytes(model, masks) == bytes_in_8_bits(smaller)
    assert layer_bytes(model, masks) <= stored_bytes(model, masks)
    for use in follow(model, masks):  # what training reckons with is what is stored
        left = smaller.module.get_submodule(use.name).weight
        assert tuple(left.shape) == (  # type: ignore[union-attr]
            (len(use.outputs), CHANNELS) if use.layer.is_table else (use.outputs.sum(), use.inputs.sum())
        ), use.name


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(choices(), st.sets(st.integers(0, VOCABULARY - 2)), st.integers(0, 1000))
def test_packed_bytes_are_those_of_each_channel_at_its_width(
    choice: tuple[str, dict[str, list[int]]], rows: set[int], seed: int
) -> None:
    form, chosen = choice
    model = quantized(form)
    generator = torch.Generator().manual_seed(seed)
    for _, layer in model.layers():
        widths = torch.randint(1, 9, (len(layer.mask),), generator=generator)
        layer.snap_to(layer.packed(widths.tolist()))
    masks = kill(model, chosen | {"tokens": sorted(rows)})
    smaller = shrink(fold(model), SAMPLE).model
    left = {name: living(layer.storage, masks[name]).packed for name, layer in model.layers()}
    stored = bits_when_packed(smaller, {name: list(widths) for name, widths in left.items()})
    unused = 8 * stored_bytes(model, masks) - stored  # the last byte of each layer is filled up
    assert 0 <= unused <= 8 * (len(left) + 1)
    for name, layer in model.layers():
        table = smaller.module.get_submodule(name)
        if layer.is_table:
            assert len(table.weight) == len(layer.mask)  # type: ignore[union-attr,arg-type]


def test_a_head_goes_with_its_rows_and_with_the_columns_that_read_it() -> None:
    model = quantized("function")
    kill(model, {"blocks.0.attention.value": [3]})
    attention = "blocks.0.attention"
    masks = living_masks(model)
    for name in ("query", "key", "value"):
        assert masks[f"{attention}.{name}"].tolist() == [0.0] * WIDTH + [1.0] * WIDTH
    shrunk = shrink(fold(model), SAMPLE)
    shapes = {name: tuple(layer.weight.shape) for name, layer in shrunk.model.layers().items()}
    assert shapes[f"{attention}.query"] == shapes[f"{attention}.key"] == (WIDTH, CHANNELS)
    assert shapes[f"{attention}.proj"] == (CHANNELS, WIDTH)
    assert shapes["blocks.1.attention.query"] == (CHANNELS, CHANNELS)
    change = next(layer for layer in shrunk.report.layers if layer.name == f"{attention}.value")
    assert change.removed == tuple(range(WIDTH))
    exported = export_onnx(shrunk.model, SAMPLE, name="names", metadata={})
    with torch.no_grad():
        own = shrunk.model.module(TOKENS).numpy()
    runtime = onnxruntime.InferenceSession(exported.SerializeToString())
    other = runtime.run(None, {"input": TOKENS.numpy()})[0]
    assert np.abs(own - other).max() <= 1.001 * float(shrunk.model.output.scale)


def test_attention_without_values_leaves_as_a_whole() -> None:
    model = quantized("function")
    masks = living_masks(model)
    for name in ("query", "key", "value"):
        masks[f"blocks.1.attention.{name}"][:] = 0
    set_masks(model, masks)
    whole = fold(model)
    shrunk = shrink(whole, SAMPLE)
    assert not any(name.startswith("blocks.1.attention") for name in shrunk.model.layers())
    products = [module for module in shrunk.model.module.modules() if isinstance(module, FoldedMatMul)]
    assert len(products) == 2
    assert shrunk.report.constant_operands
    with torch.no_grad():
        assert torch.equal(whole.module(TOKENS), shrunk.model.module(TOKENS))


def test_a_head_of_its_own_layers_leaves_with_its_last_value() -> None:
    model = quantized("heads")
    kill(model, {"blocks.0.attention.heads.0.value": list(range(WIDTH))})
    whole = fold(model)
    shrunk = shrink(whole, SAMPLE)
    assert not any(name.startswith("blocks.0.attention.heads.0") for name in shrunk.model.layers())
    with torch.no_grad():
        assert torch.equal(whole.module(TOKENS), shrunk.model.module(TOKENS))


def test_what_every_position_needs_stays() -> None:
    model = quantized("function")
    ledger = Ledger.of(model)
    removable = {
        name: bool(ledger.removable[ledger.kinds[classes]].any()) for name, classes in ledger.members.items()
    }
    assert not any(removable[name] for name in ("tokens", "positions", "head", "blocks.0.down"))
    assert all(removable[f"blocks.1.attention.{name}"] for name in ("query", "key", "value"))
    assert removable["blocks.0.up"]
    assert not removable["blocks.0.attention.proj"]  # LayerNorm reads the stream


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_a_budget_is_met_with_whole_heads(share: float) -> None:
    model = quantized("function")
    masks = living_masks(model)
    generator = torch.Generator().manual_seed(1)
    scores = {name: torch.rand(len(mask), generator=generator) for name, mask in masks.items()}
    budget = round(share * stored_bytes(model, masks))
    kept = fit(model, masks, scores, budget)
    set_masks(model, kept)
    smaller = shrink(fold(model), SAMPLE).model
    assert 0.95 * budget <= bytes_in_8_bits(smaller) <= budget
    assert smallest_bytes(model) < budget
    for block in range(2):
        own = [kept[f"blocks.{block}.attention.{name}"] for name in ("query", "key", "value")]
        assert all(torch.equal(mask, own[0]) for mask in own)
        assert all(len(head.unique()) == 1 for head in own[0].split(WIDTH))


def test_bytes_of_tables_and_norms() -> None:
    model = quantized("function")
    whole = stored_bytes(model, living_masks(model))
    rows = VOCABULARY + LENGTH
    tables = rows * CHANNELS + 2 * SCALE_BYTES
    norms = 5 * 2 * (CHANNELS + SCALE_BYTES)
    layers = [layer for _, layer in model.layers() if not layer.is_table]
    dense = sum(layer.weight.numel() + len(layer.mask) * (BIAS_BYTES + 2 * SCALE_BYTES) for layer in layers)
    assert whole == tables + norms + dense
