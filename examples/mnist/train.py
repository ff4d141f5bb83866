"""Trains the float checkpoint that `sgsc-edge build` starts from: `python train.py [--seed N] [--out FILE]`.

The pool is left out, so that the samples on which the compressed model is judged are new to the float
model as well (`saw_pool = false` in sgsc.toml). The test set is looked at once, after the last step.
The same seed and thread count give the same checkpoint.
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
from torch.utils.data import Subset, TensorDataset

import sgsc_edge
from sgsc_edge.artifacts import write_bytes

EPOCHS = 8
BATCH = 64
PEAK_LEARNING_RATE = 4e-3


def main() -> None:
    """Train, write the checkpoint atomically, print the test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "float.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    started = time.monotonic()
    whole = data.train()
    rest, pool = sgsc_edge.pool_split(whole)
    images, labels = part(whole, rest)
    network = train(images, labels, seed=args.seed, epochs=args.epochs)
    write_bytes(args.out, save({name: value.contiguous() for name, value in network.state_dict().items()}))
    test_images, test_labels = data.test().tensors
    right = count_right(network, test_images, test_labels)
    print(
        f"trained on {len(images)} samples ({len(pool)} left out as the pool) "
        f"in {time.monotonic() - started:.0f} s\n"
        f"test: {right} of {len(test_labels)} right ({right / len(test_labels):.2%})\n"
        f"wrote {args.out}"
    )


def part(whole: TensorDataset, subset: Subset[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Images float32 [n, 1, 28, 28] and labels int64 [n] of a subset."""
    images, labels = whole.tensors
    return images[subset.indices], labels[subset.indices]


def train(images: Tensor, labels: Tensor, *, seed: int, epochs: int) -> nn.Module:
    """AdamW under a one-cycle schedule on distorted images; returns the network in eval mode."""
    torch.manual_seed(seed)
    network = model.build().to(memory_format=torch.channels_last).train()  # a third faster on CPUs
    per_epoch = len(images) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=epochs * per_epoch
    )
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(images))[: per_epoch * BATCH].split(BATCH):
            loss = F.cross_entropy(network(data.augment(images[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / per_epoch:.4f}", flush=True)
    return network.to(memory_format=torch.contiguous_format).eval()


@torch.no_grad()
def count_right(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How many samples the network decides correctly."""
    return sum(
        int((network(x).argmax(1) == y).sum())
        for x, y in zip(images.split(1000), labels.split(1000), strict=True)
    )


if __name__ == "__main__":
    main()
