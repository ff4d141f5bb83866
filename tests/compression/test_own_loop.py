"""Compression in training loops that are not ours."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compression.models import inputs
from compression.test_learned import trained
from compression.test_loop import data
from torch import nn

from sgsc_edge.compression.compressor import Compressor
from sgsc_edge.compression.fit import stored_bytes

BUDGET, EPOCHS, BATCH = 280, 10, 24
X, LABELS = data().tensors
BATCHES = list(zip(torch.split(X, BATCH), torch.split(LABELS, BATCH), strict=True))

Optimizers = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, 3e-3)


def watch(model: nn.Module) -> float:
    return float((model(X).argmax(1) == LABELS).float().mean())


def compressor(steps: int = EPOCHS * len(BATCHES), **options: Any) -> Compressor:
    torch.manual_seed(0)
    options = {"budget": f"{BUDGET} B", "watch": watch, "max_drop": 0.1, **options}
    return Compressor(trained(), X[0], steps=steps, data=BATCHES, **options)


def steps_of(
    compressing: Compressor, optimizer: torch.optim.Optimizer, epochs: int, model: nn.Module | None = None
) -> None:
    """An ordinary loop."""
    model = compressing.model if model is None else model
    for _ in range(epochs):
        model.train()
        for batch, labels in BATCHES:
            loss = F.cross_entropy(model(batch), labels)
            (loss + compressing.penalty(loss)).backward()
            optimizer.step()
            optimizer.zero_grad()
            compressing.step(optimizer)


def check(compressing: Compressor) -> None:
    """The budget is met by channels that have left, and the task still learned."""
    compressing.refresh()
    compressing.model.eval()
    figures = compressing.figures()
    assert figures["bytes"] <= BUDGET
    assert compressing.done == compressing.steps
    assert compressing.model.get_submodule("features.0").weight.shape[0] < 4  # type: ignore[union-attr]
    assert watch(compressing.model) > 0.9
    folded = compressing.finish().module.eval()
    with torch.no_grad():
        assert (folded(X).argmax(1) == compressing.model(X).argmax(1)).float().mean() > 0.98


@pytest.mark.parametrize(
    "optimizer",
    [
        adamw,
        lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9),
        lambda parameters: torch.optim.RMSprop(parameters, 1e-3),
        lambda parameters: torch.optim.Adafactor(parameters, 1e-2),
    ],
    ids=["adamw", "sgd", "rmsprop", "adafactor"],
)
def test_any_optimizer(optimizer: Optimizers) -> None:
    compressing = compressor()
    steps_of(compressing, optimizer(compressing.model.parameters()), EPOCHS)
    check(compressing)


def test_two_optimizers_with_schedules_and_clipping() -> None:
    compressing = compressor()
    model = compressing.model
    head = [p for name, p in model.named_parameters() if name.startswith("head")]
    body = [p for name, p in model.named_parameters() if not name.startswith("head")]
    optimizers = [torch.optim.AdamW(body, 3e-3), torch.optim.SGD(head, 0.05, momentum=0.9)]
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, compressing.steps) for o in optimizers]
    for _ in range(EPOCHS):
        for batch, labels in BATCHES:
            loss = F.cross_entropy(model(batch), labels)
            (loss + compressing.penalty(loss)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            compressing.step(*optimizers)
    check(compressing)


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    """Of weights, ranges and depths, when all terms are in."""
    found = []
    for parts in (1, 2):
        compressing = compressor(watch=None, gamma=1.0, budget=None)
        compressing.model.eval()  # batch statistics are of the parts
        batch, labels = BATCHES[0]
        for half, own in zip(torch.chunk(batch, parts), torch.chunk(labels, parts), strict=True):
            loss = F.cross_entropy(compressing.model(half), own)
            ((loss + compressing.penalty(loss)) / parts).backward()
        tensors = [*compressing.model.parameters(), *compressing.model.buffers()]
        found.append([tensor.grad for tensor in tensors if tensor.grad is not None])
    assert len(found[0]) > 6
    for whole, accumulated in zip(*found, strict=True):
        torch.testing.assert_close(accumulated, whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype: torch.dtype) -> None:
    compressing = compressor()
    model = compressing.model
    optimizer = adamw(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=dtype == torch.float16)
    for _ in range(EPOCHS):
        for batch, labels in BATCHES:
            with torch.autocast("cpu", dtype):
                loss = F.cross_entropy(model(batch), labels)
                loss = loss + compressing.penalty(loss)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            compressing.step(optimizer, grad_scale=scaler.get_scale())
            scaler.update()
            optimizer.zero_grad()
    check(compressing)


def test_gradients_that_overflow_move_no_depth() -> None:
    compressing = compressor(watch=None)
    before = compressing.state_dict()["model"]["features.0.quantizer.bits"].clone()
    loss = F.cross_entropy(compressing.model(BATCHES[0][0]), BATCHES[0][1])
    (loss * float("inf")).backward()
    compressing.step(adamw(compressing.model.parameters()), grad_scale=2.0**16)
    assert torch.equal(compressing.state_dict()["model"]["features.0.quantizer.bits"], before)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch itself
def test_a_compiled_model_has_one_graph_and_learns_the_same() -> None:
    torch._dynamo.reset()
    ends = []
    for compiled in (False, True):
        compressing = compressor(steps=4 * len(BATCHES))
        model = compressing.model
        run = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
        steps_of(compressing, adamw(model.parameters()), 4, run)  # type: ignore[arg-type]
        ends.append(compressing.finish().tensors())
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch itself
def test_a_model_that_is_compiled_after_learning_has_two_graphs() -> None:
    """One while ranges follow the data, one when they are frozen."""
    torch._dynamo.reset()
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compressing = compressor(watch=None)
    optimizer = adamw(compressing.model.parameters())
    steps_of(compressing, optimizer, 6)
    assert compressing.plan is not None
    assert compressing.done == compressing.learning_share * compressing.steps
    compiled: Any = torch.compile(compressing.model, backend=backend, fullgraph=True)
    steps_of(compressing, optimizer, EPOCHS - 6, compiled)
    assert len(graphs) == 2
    check(compressing)


@pytest.mark.parametrize("budget", [f"{BUDGET} B", None], ids=["budget", "gamma"])
def test_a_state_that_was_saved_and_loaded_goes_on_bit_for_bit(budget: str | None) -> None:
    """At any epoch, into objects made anew, channels gone or not."""
    options: dict[str, Any] = {"budget": budget, "gamma": 0.0 if budget else 1.0}
    unbroken = compressor(**options)
    optimizer = adamw(unbroken.model.parameters())
    saved = []
    for _ in range(EPOCHS):
        buffer = io.BytesIO()
        torch.save({"compressor": unbroken.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
        saved.append(buffer.getvalue())
        steps_of(unbroken, optimizer, 1)
    end = unbroken.finish().tensors()
    for epoch in (0, 3, 5, 7, 9):
        state = torch.load(io.BytesIO(saved[epoch]), weights_only=True)
        again = compressor(**options)
        optimizer = adamw(again.model.parameters())
        again.load_state_dict(state["compressor"])
        optimizer.load_state_dict(state["optimizer"])
        steps_of(again, optimizer, EPOCHS - epoch)
        assert all(torch.equal(tensor, end[name]) for name, tensor in again.finish().tensors().items())


@pytest.mark.parametrize(
    "options", [{}, {"target": "tflite-int4"}, {"target": "c-learned", "budget": "150 B"}], ids=str
)
def test_an_earlier_state_is_gone_back_to_bit_for_bit(options: dict[str, Any]) -> None:
    """In the same objects, after they have settled, to before that and after it; to one of them twice."""
    compressing = compressor(**options)
    optimizer = adamw(compressing.model.parameters())
    saved = []
    for _ in range(EPOCHS):
        saved.append(copy.deepcopy((compressing.state_dict(), optimizer.state_dict())))
        steps_of(compressing, optimizer, 1)
    assert compressing.plan is not None
    end, plan = compressing.finish().tensors(), compressing.plan
    actions = list(compressing.controller.actions)
    assert saved[5][0]["plan"] is None
    assert saved[7][0]["plan"] is not None
    for epoch in (7, 5, 0, 5):
        state, moments = saved[epoch]
        compressing.load_state_dict(state)
        optimizer.load_state_dict(copy.deepcopy(moments))  # it would go on in the moments themselves
        assert (compressing.plan is None) == (epoch < 6)
        steps_of(compressing, optimizer, EPOCHS - epoch)
        assert all(torch.equal(tensor, end[name]) for name, tensor in compressing.finish().tensors().items())
        assert compressing.plan == plan
        assert compressing.controller.actions == actions


def test_evaluating_between_steps_changes_nothing() -> None:
    ends = []
    for evaluates in (False, True):
        compressing = compressor()
        optimizer = adamw(compressing.model.parameters())
        for _ in range(EPOCHS):
            steps_of(compressing, optimizer, 1)
            if evaluates:
                compressing.model.eval()
                compressing.model(inputs(32, 9) * 5)  # far outside of the ranges
                compressing.figures()
        ends.append(compressing.finish().tensors())
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_parts_that_a_loop_has_put_in_evaluation_mode_stay_there() -> None:
    """A frozen dropout and BatchNorm, through every look, removal, refresh and the choice of widths."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(6, 6, 3)),
        *(nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)),
    )
    compressing = Compressor(network, X[0], steps=40, data=BATCHES, budget=700, watch=watch)
    model, optimizer = compressing.model, adamw(compressing.model.parameters())
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    frozen = [norms[0], *(module for module in model.modules() if isinstance(module, nn.Dropout))]
    assert len(frozen) == len(norms) == 2
    for module in frozen:
        module.eval()
    for number in range(40):
        batch, labels = BATCHES[number % len(BATCHES)]
        loss = F.cross_entropy(model(batch), labels)
        (loss + compressing.penalty(loss)).backward()
        optimizer.step()
        optimizer.zero_grad()
        compressing.step(optimizer)
        compressing.refresh()
        modes = {module: module.training for module in model.modules()}
        assert [module for module, training in modes.items() if not training] == frozen, number
    assert compressing.plan is not None


def test_channels_come_back_with_the_values_that_they_left_with() -> None:
    compressing = compressor(watch=None)
    layer = compressing._layers["features.0"]
    whole = layer.weight.detach().clone()
    own: Any = compressing.model.get_submodule("features.0")
    compressing._decide(lambda: layer.set_mask(torch.tensor([1.0, 0.0, 1.0, 0.0])))
    assert own.weight.shape[0] == 2
    with torch.no_grad():
        own.weight.add_(1.0)
    compressing._decide(lambda: layer.set_mask(torch.ones(4)))
    expected = whole + torch.tensor([1.0, 0.0, 1.0, 0.0]).reshape(-1, 1, 1, 1)
    assert torch.equal(own.weight, expected)


def test_the_users_model_stays_as_it_was() -> None:
    model = trained()
    before = copy.deepcopy(model.state_dict())
    compressing = Compressor(model, X[0], steps=10, data=BATCHES, budget=f"{BUDGET} B")
    steps_of(compressing, adamw(compressing.model.parameters()), 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_ratio_is_of_the_float_bytes() -> None:
    compressing = compressor(budget="0.45x")
    steps_of(compressing, adamw(compressing.model.parameters()), EPOCHS)
    limit = int(0.45 * 4 * sum(p.numel() for p in trained().parameters()))
    assert compressing.figures()["bytes"] <= limit
    full = compressing._full
    assert stored_bytes(full, {name: layer.mask for name, layer in full.layers()}) <= limit


# --- other tasks ------------------------------------------------------------------------------------


def test_a_loss_of_the_user_s_own_says_what_matters() -> None:
    """Given cross-entropy, it is what happens anyway."""
    ways = []
    for loss in (None, F.cross_entropy):
        compressing = compressor(loss=loss)
        steps_of(compressing, adamw(compressing.model.parameters()), EPOCHS)
        ways.append(compressing)
    plain, own = (way.finish().tensors() for way in ways)
    assert plain.keys() == own.keys()
    assert all(torch.equal(plain[name], own[name]) for name in plain)


def test_a_regression_is_compressed_by_its_own_loss() -> None:
    """The first output is the one that counts; what only the others need leaves."""
    targets = trained()(X).detach()[:, :1]
    batches = list(zip(torch.split(X, BATCH), torch.split(targets, BATCH), strict=True))

    def loss(outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(outputs[:, :1], wanted)

    def fit(model: nn.Module) -> float:
        return -float(loss(model(X), targets))

    torch.manual_seed(0)
    compressing = Compressor(
        trained(), X[0], steps=EPOCHS * len(batches), data=batches, budget=BUDGET, watch=fit, loss=loss
    )
    optimizer = adamw(compressing.model.parameters())
    for _ in range(EPOCHS):
        compressing.model.train()
        for inputs_, wanted in batches:
            term = loss(compressing.model(inputs_), wanted)
            (term + compressing.penalty(term)).backward()
            optimizer.step()
            optimizer.zero_grad()
            compressing.step(optimizer)
    compressing.refresh()
    compressing.model.eval()
    with torch.no_grad():
        error = loss(compressing.model(X), targets)
    assert compressing.figures()["bytes"] <= BUDGET
    assert error < 0.1 * targets.var()
