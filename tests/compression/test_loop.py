from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compression.models import Plain, inputs, randomised
from torch.utils.data import DataLoader, TensorDataset

from sgsc_edge.compression.calibration import calibrate, re_estimate_norms
from sgsc_edge.compression.compress import Compression, Guard
from sgsc_edge.compression.control import Control
from sgsc_edge.compression.goal import Goal
from sgsc_edge.compression.loop import Recipe, Trainer, steps_per_epoch
from sgsc_edge.errors import FileFormatError, ModelError


def data(n: int = 120) -> TensorDataset:
    """Three classes told apart by which third of the image is bright."""
    x, labels = inputs(n, seed=5) * 0.3, torch.arange(n) % 3
    for index, label in enumerate(labels.tolist()):
        x[index, :, :, 3 * label : 3 * label + 2] += 0.7
    return TensorDataset(x, labels)


def compression(epochs: int = 4, learning_rate: float = 1e-2) -> Compression:
    torch.manual_seed(0)
    samples = data()
    return Compression(
        model=Plain().eval(),
        sample=samples[0][0],
        train=samples,
        watch=samples.tensors,  # type: ignore[arg-type]
        recipe=Recipe(epochs=epochs, batch_size=32, learning_rate=learning_rate, seed=0),
    )


def test_training_under_quantization_learns(tmp_path: Path) -> None:
    compression(epochs=6).run(tmp_path, "key")
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert rows[-1]["watch_accuracy"] > 0.9


class StopError(Exception):
    pass


def test_a_killed_run_ends_as_an_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = compression().run(tmp_path / "a", "key").tensors()
    save = Trainer._save

    def killed(trainer: Trainer, optimizer: torch.optim.Optimizer, rows: list[dict[str, float]]) -> None:
        save(trainer, optimizer, rows)
        if len(rows) == 2:
            raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", killed)
        with pytest.raises(StopError):
            compression().run(tmp_path / "b", "key")
    resumed = compression().run(tmp_path / "b", "key").tensors()
    assert unbroken.keys() == resumed.keys()
    for name, tensor in unbroken.items():
        assert torch.equal(tensor, resumed[name]), name
    assert (tmp_path / "a/history.jsonl").read_text() == (tmp_path / "b/history.jsonl").read_text()


def test_a_checkpoint_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    compression(epochs=1).run(tmp_path, "one")
    compression(epochs=2).run(tmp_path, "other")
    rows = (tmp_path / "history.jsonl").read_text().splitlines()
    assert len(rows) == 2


def test_a_damaged_checkpoint_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / ".compress.checkpoint.pt").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(FileFormatError, match="delete it"):
        compression().run(tmp_path, "key")


@pytest.mark.parametrize("share", [0.0, 0.25])
@pytest.mark.parametrize("samples", [2, 31, 32, 33, 48, 49, 64, 65, 97])
def test_every_sample_is_in_a_step_and_steps_are_counted_as_they_are_taken(
    tmp_path: Path, samples: int, share: float
) -> None:
    """A single sample that is left over is in the batch before it; with guide samples it is not single."""
    torch.manual_seed(0)
    sizes: list[int] = []
    seen: list[int] = []

    def objective(
        model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        sizes.append(len(inputs))
        seen.extend(indices.tolist())
        return model(inputs).square().mean()

    control = Control(compression().calibrated(), [data().tensors[0]])
    recipe = Recipe(1, 32, 1e-3, 0)
    files = {"checkpoint": tmp_path / "checkpoint", "history": tmp_path / "history"}
    Trainer(
        trained=control,
        data=data(samples),
        recipe=recipe,
        objective=objective,
        figures=dict,
        key="key",
        label="test",
        guide=[0, 1],
        guide_share=share,
        **files,
    ).run()
    assert len(sizes) == steps_per_epoch(samples, recipe.batch_size, share)
    assert set(seen) == set(range(samples))
    assert min(sizes) > 1
    assert max(sizes) <= 33
    whole = 24 if share else 32
    rest = samples % whole
    if share or rest != 1:  # as ever
        drawn = 8 if share else 0
        expected = [whole] * (samples // whole) + [rest] * (rest > 0)
        assert sizes == [size + drawn for size in expected]


def test_a_rest_of_one_sample_does_not_end_training_before_depths_settle(tmp_path: Path) -> None:
    this = replace(
        compression(),
        method="sgsc",
        goal=Goal(300, guide_weight=0.0),
        train=data(33),
        guard=Guard("loss", 9.0),
    )
    this.run(tmp_path, "key")
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 4


def test_a_diverging_loss_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lower compress\.learning_rate"):
        compression(learning_rate=1e30).run(tmp_path, "key")


def test_the_control_takes_the_same_steps_without_quantization(tmp_path: Path) -> None:
    control = compression(epochs=1).run_control(tmp_path, "key")
    assert not any(layer.enabled for _, layer in control.layers())
    assert (tmp_path / "control.jsonl").exists()


def test_norms_are_re_estimated_from_the_present_weights() -> None:
    this = compression()
    model = this.quantized()
    calibrate(model, this._calibration)
    _, layer = next(model.layers())
    assert layer.norm is not None
    with torch.no_grad():
        layer.weight.mul_(3.0)
    re_estimate_norms(model, DataLoader(this.train, 60))
    with model.evaluating(), torch.no_grad():
        x = model.module.get_submodule("activation_quantizer_0")(data().tensors[0])
        y = torch.nn.functional.conv2d(x, layer.quantizer(layer.weight), layer.bias)
    assert layer.norm.running_mean is not None
    assert torch.allclose(layer.norm.running_mean, y.mean((0, 2, 3)), atol=1e-3)
    assert layer.norm.momentum == 0.1


def test_evaluation_restores_modes_and_never_observes() -> None:
    model = randomised(Plain())
    this = Compression(
        model, inputs()[0], data(), (inputs(), torch.zeros(16, dtype=torch.int64)), Recipe(1, 32, 1e-3, 0)
    )
    quantized = this.quantized()
    quantized.module.train()
    quantized.observe(True)
    with quantized.evaluating() as module:
        assert not module.training
        module(inputs())
    assert quantized.module.training
    assert all(q.observing and int(q.batches) == 0 for q in quantized.activation_quantizers())
