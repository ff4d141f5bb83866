"""The end of learning as a file, and compressions that go on from there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compression.test_learned import history, killed_after, learning

from sgsc_edge.compression.channels import living_masks
from sgsc_edge.compression.compress import Method
from sgsc_edge.compression.fit import stored_bytes
from sgsc_edge.compression.goal import Goal
from sgsc_edge.compression.snapshot import SNAPSHOT, Snapshot, read_snapshot, write_snapshot
from sgsc_edge.errors import FileFormatError

FIRST, SECOND = 280, 210


def test_a_smaller_budget_goes_on_where_learning_ended(tmp_path: Path) -> None:
    whole = learning(FIRST)
    whole.run(tmp_path / "first", "key")
    start = read_snapshot(tmp_path / "first" / SNAPSHOT)
    model = whole.quantized()
    start.put_into(model)
    size = stored_bytes(model, living_masks(model))
    rows = history(tmp_path / "first")
    assert rows[-1]["bytes"] <= size <= rows[6]["bytes"]  # learning ends in the eighth epoch
    depths = torch.cat([layer.quantizer.bits for _, layer in model.layers()])
    assert not torch.equal(depths, depths.round())  # nothing had settled

    later = replace(whole, goal=Goal(SECOND)).going_on(start)
    assert later.recipe.epochs == 6
    unbroken = later.run(tmp_path / "second", "key").tensors()
    rows = history(tmp_path / "second")
    assert rows[0]["bytes"] <= size  # not back at the whole network
    assert rows[-1]["bytes"] <= SECOND
    assert rows[-1]["watch_accuracy"] > 0.9
    other = replace(whole, goal=Goal(SECOND)).run(tmp_path / "alone", "key").tensors()
    assert any(not torch.equal(tensor, other[name]) for name, tensor in unbroken.items())


@pytest.mark.parametrize("epoch", [2, 4])
def test_killed_while_it_goes_on_it_ends_as_unbroken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """Killed while learning and while settling: what the next point starts from is the same, too."""
    learning(FIRST).run(tmp_path / "first", "key")
    start = read_snapshot(tmp_path / "first" / SNAPSHOT)
    this = learning(SECOND).going_on(start)
    unbroken = this.run(tmp_path / "a", "key").tensors()
    with killed_after(epoch, monkeypatch):
        this.run(tmp_path / "b", "key")
    resumed = this.run(tmp_path / "b", "key").tensors()
    for name, tensor in unbroken.items():
        assert torch.equal(tensor, resumed[name]), name
    assert (tmp_path / "a" / SNAPSHOT).read_bytes() == (tmp_path / "b" / SNAPSHOT).read_bytes()


def test_it_is_written_and_read_as_it_was(tmp_path: Path) -> None:
    model = learning(FIRST).calibrated()
    wrote = Snapshot.of(model, multiplier=2.5, scale=0.1, guide_weight=1.7)
    write_snapshot(tmp_path / SNAPSHOT, wrote)
    for parameter in model.module.parameters():
        parameter.data.zero_()  # a copy does not follow
    read = read_snapshot(tmp_path / SNAPSHOT)
    assert (read.multiplier, read.scale, read.guide_weight) == (2.5, 0.1, 1.7)
    assert read.model.keys() == model.module.state_dict().keys()
    for name, tensor in read.model.items():
        assert torch.equal(tensor, wrote.model[name])
    assert any(bool(tensor.any()) for name, tensor in read.model.items() if name.endswith("weight"))


@pytest.mark.parametrize("method", ["mixed", "qat8", "ptq"])
def test_methods_that_learn_no_depths_leave_a_file_that_nothing_starts_from(
    tmp_path: Path, method: Method
) -> None:
    replace(learning(None), method=method).run(tmp_path, "key")
    with pytest.raises(FileFormatError, match="holds no model that compression can go on from"):
        read_snapshot(tmp_path / SNAPSHOT)


def test_one_of_another_network_is_refused_by_the_name_of_its_file(tmp_path: Path) -> None:
    this = learning(FIRST)
    state = dict(this.calibrated().module.state_dict())
    (name, *_) = state
    del state[name]
    write_snapshot(tmp_path / SNAPSHOT, Snapshot(state, 1.0, 1.0, 1.0))
    with pytest.raises(FileFormatError, match=f"{SNAPSHOT}: is of another network: '{name}'"):
        this.going_on(read_snapshot(tmp_path / SNAPSHOT)).run(tmp_path, "key")


@pytest.mark.parametrize("damage", [b"", b"none", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / SNAPSHOT).write_bytes(damage)
    with pytest.raises(FileFormatError):
        read_snapshot(tmp_path / SNAPSHOT)


def test_the_span_is_from_every_channel_in_8_bits_to_one_a_layer() -> None:
    whole, smallest = learning(FIRST).span()
    model = learning(FIRST).quantized()
    assert whole == stored_bytes(model, living_masks(model))
    assert 0 < smallest < SECOND < FIRST < whole
