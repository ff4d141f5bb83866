"""Trains the float checkpoint that `sgsc-edge build` starts from: `python train.py`, a few seconds."""

from __future__ import annotations

from pathlib import Path

import data
import model
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.utils.data import DataLoader

import sgsc_edge

EPOCHS = 12
PEAK_LEARNING_RATE = 1e-2
CHECKPOINT = Path(__file__).with_name("float.safetensors")


def main() -> None:
    """Train without the pool, write the checkpoint, print the test accuracy."""
    torch.manual_seed(0)
    # The pool stays out: the samples on which the result is judged are then new to the float model, too, and
    # sgsc.toml may say `saw_pool = false`.
    rest, pool = sgsc_edge.pool_split(data.train())
    network = model.build()
    batches = DataLoader(rest, batch_size=64, shuffle=True)
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, epochs=EPOCHS, steps_per_epoch=len(batches)
    )
    for _ in range(EPOCHS):
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    save_file(network.state_dict(), CHECKPOINT)
    images, labels = data.test().tensors
    with torch.no_grad():
        right = int((network(images).argmax(1) == labels).sum())
    print(f"trained on {len(rest)} samples ({len(pool)} left out as the pool); wrote {CHECKPOINT.name}")
    print(f"test: {right} of {len(labels)} right")


if __name__ == "__main__":
    main()
