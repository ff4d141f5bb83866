from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from sgsc_edge.pictures import has_pictures
from sgsc_edge.preservation.contact_sheet import contact_sheet
from sgsc_edge.preservation.selection import MustKept, SampleScores, Selected, Selection, SideCounts
from sgsc_edge.preservation.sets import PreservationSet, Samples
from sgsc_edge.project import Config

COUNTS = SideCounts(samples=9, different=9, labels={"0": 9})
SCORES = SampleScores(saliency=1.0, uncertainty=0.5, margin=0.5, entropy=0.5, cluster=0)


def sheet(
    images: torch.Tensor, prediction: int = 0, margins: tuple[float, ...] = (), **stated: Any
) -> np.ndarray:
    """RGB [H, W, 3] of a sheet with one part of these images, one criterion, in the order of ranks.

    The first images are must_keep samples of these margins.
    """
    config = Config.model_validate(
        {
            "project": {"name": "net"},
            "model": {"factory": "m:build", "input": {"shape": list(images.shape[1:]), **stated}},
            "data": {"train": "d:train", "classes": ["zéro", "one ✓ of a long name"]},
            "gate": {"max_drop": 0.1, "max_lowering_flips": 0.1},
        }
    )
    hashes = tuple(f"{index:064x}" for index in range(len(images)))
    part = Samples(TensorDataset(images, torch.zeros(len(images))), hashes)
    chosen = tuple(
        Selected(
            hash=digest,
            part="guide",
            label=0,
            prediction=prediction,
            criterion="saliency",
            reasons=("saliency",),
            ranks={"saliency": rank + 1},
            scores=SCORES,
        )
        for rank, digest in enumerate(hashes)
    )
    selection = Selection(
        method="critical",
        shares={"saliency": 1.0},
        seed=0,
        grad_cam=None,
        features="1",
        rest=COUNTS,
        pool=COUNTS,
        samples=chosen,
        must_keep=tuple(
            MustKept(
                hash=digest,
                label=0,
                prediction=prediction,
                margin=margin,
                reason="named",
                part="guide",
                trained_on=True,
            )
            for digest, margin in zip(hashes, margins, strict=False)
        ),
    )
    samples = PreservationSet(part, tuple(range(len(images))), (), {"guide": part}, None)
    data = contact_sheet(config, samples, selection)
    assert data == contact_sheet(config, samples, selection)
    return np.array(Image.open(io.BytesIO(data)))


def pixel(picture: np.ndarray, number: int = 0) -> list[int]:
    """The middle of a thumbnail."""
    return picture[24 + 28, 96 + 62 * number + 28].tolist()


def test_values_go_from_black_to_white_over_what_is_shown() -> None:
    picture = sheet(torch.stack([torch.full((1, 4, 4), value) for value in (-1.0, 0.0, 1.0)]))
    assert [pixel(picture, number) for number in range(3)] == [[0] * 3, [128] * 3, [255] * 3]


def test_a_stated_range_mean_and_deviation_give_the_raw_values_back() -> None:
    images = torch.zeros(1, 3, 4, 4)
    images[0, 0] = 1.0  # raw: 1 * 0.25 + 0.5
    picture = sheet(images, mean=[0.5, 0.0, 1.0], std=[0.25, 1.0, 1.0], range=[0.0, 1.0])
    assert pixel(picture) == [191, 0, 255]
    swapped = sheet(images, mean=[0.5, 0.0, 1.0], std=[0.25, 1.0, 1.0], range=[0.0, 1.0], color="bgr")
    assert pixel(swapped) == [255, 0, 191]


def test_must_keep_samples_have_a_row_of_their_own_lowest_margins_first() -> None:
    images = torch.stack([torch.full((1, 4, 4), value) for value in (-1.0, 0.0, 1.0)])
    without, picture = sheet(images), sheet(images, margins=(0.5, 0.25))
    assert picture.shape == (without.shape[0] + 90, *without.shape[1:])
    assert [pixel(picture[3 * 90 :], number) for number in range(2)] == [[128] * 3, [0] * 3]
    assert pixel(picture[3 * 90 :], 2) == [255] * 3  # paper


def test_wrong_decisions_are_red() -> None:
    def red(picture: np.ndarray) -> bool:
        return bool(((picture[..., 0] > 150) & (picture[..., 1] < 100)).any())

    assert not red(sheet(torch.zeros(2, 1, 4, 4)))
    assert red(sheet(torch.zeros(2, 1, 4, 4), prediction=1))


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 300, 100), (1, 56, 1000), (3, 57, 57)])
def test_sizes_of_all_kinds_fit(shape: tuple[int, ...]) -> None:
    picture = sheet(torch.rand(40, *shape, generator=torch.Generator().manual_seed(0)))
    assert picture.shape == (24 + 3 * 90 + 6, 96 + 20 * 62 + 6, 3)


@pytest.mark.parametrize(
    ("shape", "pictures"),
    [((1, 8, 8), True), ((3, 8, 8), True), ((2, 8, 8), False), ((64,), False), ((1, 1, 8), False)],
)
def test_only_images_are_shown(shape: tuple[int, ...], pictures: bool) -> None:
    assert has_pictures(shape) is pictures
