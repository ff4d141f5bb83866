"""A budget that no network of the architecture meets ends the build before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.conftest import CONFIG, sgsc_edge


def test_a_budget_below_the_smallest_network_is_refused(project: Callable[..., Path]) -> None:
    folder = project(config=CONFIG + 'budget = "100 B"\n')
    ran = sgsc_edge("build", folder, "--target", "tflite-int8", "--out", folder / "build")
    assert ran.code == 2
    # 3x3 channels, and 9 places of each read by 3 outputs; a channel takes 28 bytes beside its weights.
    whole, smallest = 4 * (9 + 28) + 3 * (4 * 9 + 28), (9 + 28) + 3 * (9 + 28)
    assert "compress.budget: a budget of 100 bytes cannot be met" in ran.err
    assert (
        f"{whole} bytes at its smallest widths, and {smallest} with only the channels that cannot leave"
        in ran.err
    )
    assert not (folder / "build" / "tflite-int8" / "history.jsonl").exists()
