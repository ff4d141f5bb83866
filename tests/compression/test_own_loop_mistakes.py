"""Mistakes of training loops that are not ours: said early, in the words of who made them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compression.test_learned import trained
from compression.test_loop import compression, data
from compression.test_own_loop import BATCHES, EPOCHS, X, adamw, compressor, steps_of, watch
from torch import nn
from torch.utils.data import DataLoader

from sgsc_edge.compression.compressor import Compressor
from sgsc_edge.compression.goal import Goal
from sgsc_edge.errors import ConfigError, DataError, FileFormatError, ModelError, SgscError


def step(compressing: Compressor, optimizer: torch.optim.Optimizer, *, penalty: bool = True) -> None:
    """One step of an ordinary loop."""
    loss = F.cross_entropy(compressing.model(BATCHES[0][0]), BATCHES[0][1])
    (loss + compressing.penalty(loss) if penalty else loss).backward()
    optimizer.step()
    optimizer.zero_grad()
    compressing.step(optimizer)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "where", "reason"),
    [
        ({"budget": "many"}, "budget", "many"),
        ({"budget": 2.5}, "budget", "write a size"),
        ({"budget": 20}, "budget", "cannot be met"),
        ({"steps": 0}, "steps", "at least one step"),
        ({"steps": 2.5}, "steps", "a whole number"),
        ({"target": "c-learnt"}, "target", "did you mean 'c-learned'"),
        ({"controller": "randon"}, "controller", "did you mean 'random'"),
        ({"depths": (9.0, 8.0)}, "depths", "no range"),
    ],
    ids=str,
)
def test_errors_name_the_argument(options: dict[str, Any], where: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compressor(**options)
    assert caught.value.where == where
    assert reason in str(caught.value)
    assert_speaks_of_arguments(caught.value)


def assert_speaks_of_arguments(error: SgscError) -> None:
    for key in ("compress.", "model.factory", "model.input", "--target"):
        assert key not in str(error)


@pytest.mark.parametrize(
    ("sample", "error"), [(X[:1], ModelError), ((X[0], 1), ConfigError), (X[0, 0, 0], ModelError)]
)
def test_a_sample_that_is_none_is_named(sample: Any, error: type[SgscError]) -> None:
    with pytest.raises(error, match="without a batch dimension") as caught:
        Compressor(trained(), sample, steps=10, data=BATCHES)
    assert caught.value.where == "sample"
    assert_speaks_of_arguments(caught.value)


def test_a_model_that_forward_does_not_fit_is_named() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    with pytest.raises(ModelError, match="takes 2 inputs") as caught:
        Compressor(Two(), X[0], steps=10, data=BATCHES)
    assert caught.value.where == "model"


def test_weights_that_are_not_finite_are_named_before_anything_else() -> None:
    model = trained()
    with torch.no_grad():
        model.get_parameter("head.weight")[0, 0] = math.nan
    with pytest.raises(ModelError, match=r"model: weights are NaN or infinite: head\.weight"):
        Compressor(model, X[0], steps=10, data=BATCHES)
    with pytest.raises(ModelError, match="weights are not float32"):
        Compressor(trained().double(), X[0], steps=10, data=BATCHES)


def test_data_without_labels_or_samples_are_named() -> None:
    with pytest.raises(DataError, match="no labels"):
        Compressor(trained(), X[0], steps=10, data=[X[:32]])
    with pytest.raises(DataError, match="no samples"):
        Compressor(trained(), X[0], steps=10, data=iter(()))


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (torch.rand(8), "labels are float32"),
        (torch.zeros(8, dtype=torch.int32), "labels are int32"),
        (torch.tensor([0, 1, 2, 0, 1, 2, 0, 9]), "labels go from 0 to 9"),
        (torch.tensor([0, 1, -3, 0, 1, 2, 0, 1]), "labels go from -3 to 2"),
        (torch.zeros(8, 5, dtype=torch.int64), r"outputs are \[2, 3\] for labels \[2, 5\]"),
        (torch.full((8,), -100), "all labels are -100"),
    ],
    ids=["float", "int32", "too many", "negative", "of another shape", "none"],
)
def test_labels_that_are_no_classes_are_refused_without_a_loss(labels: torch.Tensor, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        compressor(importance=(X[:8], labels))
    assert caught.value.where == "importance"
    assert "give the loss" in str(caught.value)


def test_labels_in_a_structure_are_refused() -> None:
    with pytest.raises(DataError, match="those of data are a dict") as caught:
        Compressor(trained(), X[0], steps=10, data=[(X[:4], {"boxes": torch.zeros(4)})])
    assert caught.value.where == "importance"


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (lambda outputs: outputs.sum(1), "a tensor of shape"),
        (lambda outputs: outputs.sum().detach(), "a value without a gradient"),
        (lambda outputs: outputs.sum() / 0, "returned -?inf|returned nan"),
        (lambda outputs: 3.0, "returned a float"),
    ],
)
def test_a_loss_that_measures_nothing_is_refused(answer: Callable[..., Any], shown: str) -> None:
    with pytest.raises(ConfigError, match=shown) as caught:
        compressor(loss=lambda outputs, labels: answer(outputs))
    assert caught.value.where == "loss"


def test_a_project_s_errors_go_on_naming_its_keys() -> None:
    project = replace(compression(), method="sgsc", goal=Goal(20))
    with pytest.raises(ConfigError, match=r"model\.factory") as caught:
        project.compressor_of(10, BATCHES)
    assert caught.value.where == "compress.budget"


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (None, r"nothing \(None\)"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ("0.9", "a str"),
        (torch.tensor(math.nan), "nan"),
        (torch.ones(3), r"a tensor of shape \[3\]"),
    ],
    ids=str,
)
def test_a_watch_that_measures_nothing_is_an_error(answer: Any, shown: str) -> None:
    with pytest.raises(ConfigError, match=f"watch: returned {shown}, not one finite number") as caught:
        compressor(watch=lambda model: answer)
    assert_speaks_of_arguments(caught.value)
    answers = iter([0.9])
    compressing = compressor(watch=lambda model: next(answers, answer))
    with pytest.raises(ConfigError, match=f"watch: returned {shown}, not one finite number"):
        steps_of(compressing, adamw(compressing.model.parameters()), 2)


def test_a_watch_may_return_any_number() -> None:
    for answer in (1, True, torch.tensor(0.5), torch.ones(1, 1)):
        compressor(watch=lambda model, answer=answer: answer)


# --- optimizers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda model, own: (), "no optimizer"),
        (lambda model, own: (None,), r"not nothing \(None\)"),
        (lambda model, own: (adamw(model.parameters()),), "the AdamW holds no parameter"),
        (lambda model, own: (adamw(own.parameters()), adamw(model.parameters())), "holds no parameter"),
        (lambda model, own: (torch.optim.LBFGS(own.parameters()),), "LBFGS"),
    ],
    ids=["none", "None", "of the float model", "one of the float model", "lbfgs"],
)
def test_an_optimizer_that_cannot_be_followed_is_refused_at_the_first_step(
    make: Callable[[nn.Module, nn.Module], tuple[Any, ...]], reason: str
) -> None:
    model = trained()
    compressing = Compressor(model, X[0], steps=50, data=BATCHES, budget=280)
    with pytest.raises(ConfigError, match=f"Compressor.step: .*{reason}"):
        compressing.step(*make(model, compressing.model))
    assert compressing.done == 0
    compressing.step(adamw(compressing.model.parameters()))  # nothing was changed


# --- the device ---------------------------------------------------------------------------------------


def test_a_model_or_a_sample_that_is_not_on_the_cpu_is_refused() -> None:
    """On torch's device without memory, for want of a GPU."""
    with pytest.raises(
        ConfigError, match="is on the device meta, and compression trains on the CPU"
    ) as caught:
        Compressor(trained().to("meta"), X[0], steps=10, data=BATCHES)
    assert caught.value.where == "model"
    with pytest.raises(ConfigError, match="is on the device meta") as caught:
        Compressor(trained(), X[0].to("meta"), steps=10, data=BATCHES)
    assert caught.value.where == "sample"


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        ((X[:4].to("meta"), torch.zeros(4)), "a batch on the device meta"),
        ({"pixels": X[:4]}, "yields a dict, not a tensor"),
        ([{"pixels": X[:4]}], "yields a list that starts with a dict, not a tensor"),
        ((), "yields a tuple, not a tensor"),
        (None, r"yields nothing \(None\), not a tensor"),
    ],
    ids=["meta", "dict", "list of a dict", "empty", "None"],
)
def test_batches_of_another_form_or_device_are_refused(batch: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        Compressor(trained(), X[0], steps=10, data=[batch])
    assert caught.value.where == "data"


@pytest.mark.parametrize(
    ("convert", "reason"),
    [
        (lambda model: model.double(), "'features.0.weight' is float64 on the device cpu"),
        (lambda model: model.bfloat16(), "'features.0.weight' is bfloat16 on the device cpu"),
        (lambda model: model.double().float(), "its depths and ranges are no longer the tensors that are"),
    ],
    ids=["double", "bfloat16", "and back"],
)
@pytest.mark.parametrize("after", [0, 20, 40])
def test_a_model_that_was_converted_is_refused_at_the_next_step(
    convert: Callable[[nn.Module], nn.Module], reason: str, after: int
) -> None:
    """Before channels leave, while they do, and when depths have settled."""
    compressing = compressor(watch=None)
    optimizer = adamw(compressing.model.parameters())
    steps_of(compressing, optimizer, after // len(BATCHES))
    convert(compressing.model)
    with pytest.raises(ConfigError, match=f"Compressor.step: compressor.model was moved or .*{reason}"):
        compressing.step(optimizer)
    assert compressing.done == after


def test_conversions_that_change_nothing_are_none() -> None:
    compressing = compressor(watch=None)
    optimizer = adamw(compressing.model.parameters())
    for _ in range(EPOCHS):
        compressing.model.to("cpu").float().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        steps_of(compressing, optimizer, 1)
    assert compressing.figures()["bytes"] <= 280


# --- the loop ---------------------------------------------------------------------------------------


def test_a_right_loop_is_warned_of_nothing(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    compressing = compressor()
    steps_of(compressing, adamw(compressing.model.parameters()), 10)
    compressing.save(tmp_path / "own.safetensors")
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    "way", ["not called", "called, and left out of the loss", "called without gradients"]
)
def test_a_forgotten_penalty_is_warned_of_once_and_early(caplog: pytest.LogCaptureFixture, way: str) -> None:
    compressing = compressor(watch=None)
    optimizer = adamw(compressing.model.parameters())
    for number in range(20):
        if way == "called, and left out of the loss":
            compressing.penalty(torch.tensor(1.0))
        elif way == "called without gradients":
            with torch.no_grad():
                compressing.penalty(torch.tensor(1.0))
        step(compressing, optimizer, penalty=False)
        assert len(warnings(caplog)) == int(number >= 9)
    assert "(loss + compressor.penalty(loss)).backward()" in warnings(caplog)[0]


@pytest.mark.parametrize(
    "options", [{"gamma": 1.0, "budget": None}, {"gamma": 1.0, "budget": None, "max_drop": 0.0}]
)
def test_a_penalty_under_a_fixed_weight_is_seen(
    caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    """Where the controller holds, too, and the pressure rests."""
    steady = iter([1.0])
    compressing = compressor(watch=lambda model: next(steady, 0.5), **options)
    steps_of(compressing, adamw(compressing.model.parameters()), 10)
    assert compressing.controller.actions
    assert warnings(caplog) == []


def test_accumulated_gradients_are_no_forgotten_penalty(caplog: pytest.LogCaptureFixture) -> None:
    compressing = compressor(watch=None)
    optimizer = adamw(compressing.model.parameters())
    for number, (batch, labels) in enumerate(BATCHES * 10):
        loss = F.cross_entropy(compressing.model(batch), labels)
        ((loss + compressing.penalty(loss)) / 2).backward()
        if number % 2:
            optimizer.step()
            optimizer.zero_grad()
            compressing.step(optimizer)
    assert warnings(caplog) == []


def test_too_many_and_too_few_steps_are_warned_of(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    compressing = compressor(watch=None)
    optimizer = adamw(compressing.model.parameters())
    with pytest.raises(ConfigError, match="ended after 0 of 50 steps"):
        compressing.save(tmp_path / "own.safetensors")
    steps_of(compressing, optimizer, 8)
    compressing.save(tmp_path / "own.safetensors")
    assert warnings(caplog) == [
        "compress: saved after 40 of 50 steps: the schedules are made for all of them"
    ]
    steps_of(compressing, optimizer, 3)
    (_, late) = warnings(caplog)
    assert "step 51 of 50" in late
    compressing.save(tmp_path / "own.safetensors")
    assert len(warnings(caplog)) == 2


def test_hardly_any_steps_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    compressor(steps=3)
    assert "depths are learned in 2 of 3 steps" in warnings(caplog)[0]
    caplog.clear()
    compressor(steps=3, budget=None)  # nothing is learned
    assert warnings(caplog) == []


def test_a_loss_that_is_no_number_is_warned_of_and_leaves_the_pressure_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    compressing = compressor(watch=None)
    optimizer = adamw(compressing.model.parameters())
    for loss in (torch.tensor(math.inf), torch.tensor(math.nan)):
        assert compressing.penalty(loss) == 0
        compressing.step(optimizer)
    step(compressing, optimizer)
    assert math.isfinite(compressing._pressing.pressure.scale)
    (only,) = warnings(caplog)
    assert "the loss of step 1 is inf" in only


def test_weights_that_training_has_broken_are_not_saved(tmp_path: Path) -> None:
    compressing = compressor(watch=None)
    steps_of(compressing, adamw(compressing.model.parameters()), 10)
    with torch.no_grad():
        compressing.model.get_parameter("head.weight").fill_(math.nan)
    with pytest.raises(ModelError, match="lower the optimizer's learning rate") as caught:
        compressing.save(tmp_path / "own.safetensors")
    assert "head" in str(caught.value.where)
    assert not list(tmp_path.iterdir())


# --- states -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"steps": 80}, r"steps 50 \(here 80\)"),
        ({"budget": "250 B"}, r"budget 280 \(here 250\)"),
        ({"gamma": 0.5}, r"gamma 0\.0 \(here 0\.5\)"),
        ({"alpha": 0.5}, r"alpha 0\.0 \(here 0\.5\)"),
        ({"depths": (3, 8)}, r"depths \[2\.0, 8\.0\] \(here \[3\.0, 8\.0\]\)"),
        ({"guide_weight": 0.5}, r"guide_weight None \(here 0\.5\)"),
        ({"controller": "random"}, r"controller None \(here random\)"),
        ({"max_drop": 0.2}, r"max_drop 0\.1 \(here 0\.2\)"),
        ({"watch": None}, r"watch True \(here False\)"),
        ({"target": "c-learned"}, "another target"),
        ({"steps": 80, "budget": "250 B"}, r"steps 50 \(here 80\), budget 280 \(here 250\)"),
    ],
    ids=str,
)
def test_a_state_of_other_arguments_is_refused(options: dict[str, Any], named: str) -> None:
    state = compressor().state_dict()
    other = compressor(**options)
    with pytest.raises(FileFormatError, match=f"saved with other arguments: .*{named}"):
        other.load_state_dict(state)


def test_a_state_goes_on_only_with_the_start_that_it_had() -> None:
    first = compressor(watch=None)
    steps_of(first, adamw(first.model.parameters()), 10)
    assert first.snapshot is not None
    other = replace(first.snapshot, multiplier=first.snapshot.multiplier + 1)
    state = compressor(budget=240, start=first.snapshot).state_dict()
    compressor(budget=240, start=first.snapshot).load_state_dict(state)
    for start, named in ((None, r"start given \(here None\)"), (other, "another start")):
        with pytest.raises(FileFormatError, match=f"saved with other arguments: {named}\n") as caught:
            compressor(budget=240, start=start).load_state_dict(state)
        assert caught.value.remedy == "make the compressor with the arguments that it was saved with"
    with pytest.raises(FileFormatError, match=r"start None \(here given\)"):
        compressor(budget=240, start=first.snapshot).load_state_dict(compressor(budget=240).state_dict())


def test_a_start_of_another_network_is_refused() -> None:
    first = compressor(watch=None)
    steps_of(first, adamw(first.model.parameters()), 10)
    wider = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    options: dict[str, Any] = {"steps": 50, "data": BATCHES, "budget": 300, "start": first.snapshot}
    with pytest.raises(FileFormatError, match=r"is of another network: '.*' is missing there and") as caught:
        Compressor(wider, X[0], **options)
    assert caught.value.where == "start"
    assert first.snapshot is not None
    model = {**first.snapshot.model, "head.weight": torch.zeros(3, 7)}
    with pytest.raises(FileFormatError, match=r"'head.weight' is \[3, 7\] there and \[3, 36\] here"):
        compressor(start=replace(first.snapshot, model=model))
    for none in (first, first.state_dict()):
        with pytest.raises(ConfigError, match="not a snapshot") as wrong:
            compressor(start=none)
        assert wrong.value.where == "start"


def test_the_same_budget_in_other_words_is_no_other_argument() -> None:
    state = compressor(budget="280 B", depths=(2, 8)).state_dict()
    compressor(budget=280, depths=(2.0, 8.0)).load_state_dict(state)


def test_what_is_no_state_is_said_to_be_none() -> None:
    compressing = compressor()
    for other in (
        {},
        compressing.model.state_dict(),
        adamw(compressing.model.parameters()).state_dict(),
        None,
    ):
        with pytest.raises(FileFormatError, match="no state of a compressor"):
            compressing.load_state_dict(other)  # type: ignore[arg-type]
    with pytest.raises(FileFormatError, match="version 9, not"):
        compressing.load_state_dict({"version": 9})
    incomplete = {key: value for key, value in compressing.state_dict().items() if key != "done"}
    with pytest.raises(FileFormatError, match="no state of this model"):
        compressing.load_state_dict(incomplete)


def test_a_state_of_another_model_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    options: dict[str, Any] = {"steps": 50, "data": DataLoader(data(), 24), "watch": watch, "max_drop": 0.1}
    other = Compressor(network, X[0], **options)
    with pytest.raises(FileFormatError, match="no state of this model"):
        Compressor(trained(), X[0], **options).load_state_dict(other.state_dict())
