"""Trains the float checkpoint that `sgsc-edge build` starts from: `python train.py [--seed N] [--out FILE]`.

The pool is left out, so that the samples on which the compressed model is judged are new to the float
model as well (`saw_pool = false` in sgsc.toml). The test set is looked at once, after the last step.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import data
import model
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

import sgsc_edge
from sgsc_edge.artifacts import write_bytes

EPOCHS = 40
BATCH = 64
PEAK_LEARNING_RATE = 5e-3


def main() -> None:
    """Train, write the checkpoint atomically, print the test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "float.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args()

    started = time.monotonic()
    rest, pool = sgsc_edge.pool_split(data.train())
    network = train(*stack(rest), seed=args.seed, epochs=args.epochs)
    write_bytes(args.out, save(network.state_dict()))
    images, labels = stack(data.test())
    right = count_right(network, images, labels)
    print(
        f"trained on {len(rest)} samples ({len(pool)} left out as the pool) "
        f"in {time.monotonic() - started:.0f} s\n"
        f"test: {right} of {len(labels)} right ({right / len(labels):.2%})\n"
        f"wrote {args.out}"
    )


def stack(dataset: torch.utils.data.Dataset[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Every sample of a data set: images float32 [n, 1, 8, 8] and labels int64 [n]."""
    samples = [dataset[i] for i in range(len(dataset))]  # type: ignore[arg-type]
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.stack([torch.as_tensor(label) for label in labels])


def train(images: Tensor, labels: Tensor, *, seed: int, epochs: int) -> nn.Module:
    """AdamW under a one-cycle schedule, with shifts by one pixel; returns the network in eval mode."""
    torch.manual_seed(seed)
    network = model.build().train()
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(network(shift(images[batch])), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def shift(images: Tensor) -> Tensor:
    """Each image [n, 1, 8, 8] moved sideways by -1, 0 or 1 pixel at random; the gap is black."""
    padded = F.pad(images, (1, 1, 0, 0))
    starts = torch.randint(3, (len(images), 1)) + torch.arange(images.shape[-1])
    return padded.gather(-1, starts[:, None, None, :].expand(-1, 1, images.shape[-2], -1))


@torch.no_grad()
def count_right(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How many samples the network decides correctly."""
    return int((network(images).argmax(1) == labels).sum())


if __name__ == "__main__":
    main()
