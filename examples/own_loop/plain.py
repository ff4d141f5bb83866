"""Compression in a training loop of your own: digits with SGD, a schedule and gradient accumulation.

After ``python ../digits/train.py``::

    python plain.py
    sgsc-edge build ../digits --target c-learned --budget "2 kB" --set compress.weights=own.safetensors
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Subset

import sgsc_edge

DIGITS = Path(__file__).resolve().parent.parent / "digits"
EPOCHS, BATCH, ACCUMULATED = 20, 32, 2
BUDGET = "2 kB"


def main() -> None:
    """Train, and save what a build certifies."""
    torch.manual_seed(0)
    project = sgsc_edge.own_loop(DIGITS, target="c-learned", settings=[f"compress.budget={BUDGET}"])
    loader = DataLoader(project.train, BATCH, shuffle=True, drop_last=True)
    guide = DataLoader(Subset(project.train, project.guide), BATCH, shuffle=True, drop_last=True)
    steps = EPOCHS * (len(loader) // ACCUMULATED)

    compressor = project.compressor(steps, loader)  # 1. wrap the model
    model = compressor.model
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)

    for epoch in range(EPOCHS):
        model.train()
        guides = itertools.cycle(guide)
        for number, (inputs, labels) in enumerate(loader, 1):
            loss = F.cross_entropy(model(inputs), labels)
            batch = next(guides)  # the samples that must not be forgotten
            loss = loss + compressor.guide_weight * F.cross_entropy(model(batch[0]), batch[1])
            loss = loss + compressor.penalty(loss)  # 2. add its term
            (loss / ACCUMULATED).backward()
            if number % ACCUMULATED == 0:
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                compressor.step(optimizer)  # 3. tell it of the step
            if number // ACCUMULATED == len(loader) // ACCUMULATED:
                break
        optimizer.zero_grad()
        compressor.refresh()
        compressor.record(epoch + 1)  # for `sgsc-edge explain`
        model.eval()
        with torch.no_grad():
            inputs, labels = project.watch
            right = (model(inputs).argmax(1) == labels).float().mean()
        size = compressor.figures()["learned_bytes"]  # "bytes" counts once all settles
        print(f"epoch {epoch + 1}: {size:.0f} bytes, watch accuracy {right:.4f}")
    compressor.save(DIGITS / "own.safetensors")


if __name__ == "__main__":
    main()
