"""Trains the float checkpoint that `sgsc-edge build` starts from: `python train.py [--seed N] [--out FILE]`.

The pool is left out, so that the names on which the compressed model is judged are new to the float model as
well (`saw_pool = false` in sgsc.toml). The test set is looked at once, after the last step.
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

STEPS = 2000
BATCH = 64
PEAK_LEARNING_RATE = 3e-3


def main() -> None:
    """Train, write the checkpoint atomically, print the loss on the test set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "float.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()

    started = time.monotonic()
    rest, pool = sgsc_edge.pool_split(data.train())
    network = train(*data.stack(rest), seed=args.seed, steps=args.steps)
    write_bytes(args.out, save(network.state_dict()))
    tokens, following = data.stack(data.test())
    print(
        f"trained on {len(rest)} names ({len(pool)} left out as the pool) "
        f"in {time.monotonic() - started:.0f} s\n"
        f"test: {mean_loss(network, tokens, following):.4f} nats a character on {len(tokens)} names\n"
        f"wrote {args.out}"
    )


def train(tokens: Tensor, following: Tensor, *, seed: int, steps: int) -> nn.Module:
    """AdamW under a one-cycle schedule; returns the network in eval mode.

    Nothing is learned behind the longest name's end, so the places there are left out.
    """
    longest = int((following != data.IGNORED).sum(1).max())
    tokens, following = tokens[:, :longest], following[:, :longest]
    torch.manual_seed(seed)
    network = model.build().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(tokens), (BATCH,))
        loss = loss_of(network(tokens[batch]), following[batch])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network.eval()


def loss_of(logits: Tensor, following: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits [n, T, V] over the next tokens [n, T] that there are."""
    return F.cross_entropy(logits.flatten(0, 1), following.flatten(), ignore_index=data.IGNORED)


@torch.no_grad()
def mean_loss(network: nn.Module, tokens: Tensor, following: Tensor) -> float:
    """Nats a character over all names."""
    logits = torch.cat([network(part) for part in tokens.split(1024)])
    return float(loss_of(logits, following))


if __name__ == "__main__":
    main()
