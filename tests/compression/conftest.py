from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Networks start from the same random weights whatever ran before."""
    torch.manual_seed(0)
