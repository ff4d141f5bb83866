"""Compression as a callback of Lightning: the digits example (``pip install lightning``).

After ``python ../digits/train.py``::

    python with_lightning.py
    sgsc-edge build ../digits --target c-learned --budget "2 kB" --set compress.weights=own.safetensors

It leaves guide samples out; ``plain.py`` shows them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import sgsc_edge

DIGITS = Path(__file__).resolve().parent.parent / "digits"
EPOCHS, BATCH = 20, 32
BUDGET = "2 kB"


class Digits(lightning.LightningModule):
    """An ordinary module; its loss has one term more."""

    def __init__(self, compressor: sgsc_edge.Compressor) -> None:
        super().__init__()
        self.model, self.compressor = compressor.model, compressor

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        """Cross-entropy, and the term that presses on the size."""
        inputs, labels = batch
        loss = F.cross_entropy(self.model(inputs), labels)
        loss = loss + self.compressor.penalty(loss)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Any optimizer."""
        return torch.optim.AdamW(self.model.parameters(), 2e-3)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The weights alone do not tell which channels they belong to."""
        checkpoint["compressor"] = self.compressor.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Before Lightning loads weights and optimizers, the model has their sizes."""
        self.compressor.load_state_dict(checkpoint["compressor"])


class Compression(lightning.Callback):
    """Calls the compressor after every optimizer step."""

    def __init__(self, compressor: sgsc_edge.Compressor) -> None:
        self.compressor = compressor

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """With accumulated gradients, not every batch is a step."""
        if trainer.global_step > self.compressor.done:
            self.compressor.step(*trainer.optimizers)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """What is validated next has fresh statistics."""
        self.compressor.refresh()
        self.compressor.record(trainer.current_epoch + 1)  # for `sgsc-edge explain`
        size = self.compressor.figures()["learned_bytes"]  # each channel in its own depth
        module.log("kB", size / 1000, prog_bar=True)  # the bar shows three digits


def main() -> None:
    """Train, and save what a build certifies."""
    lightning.seed_everything(0)
    project = sgsc_edge.own_loop(DIGITS, target="c-learned", settings=[f"compress.budget={BUDGET}"])
    loader = DataLoader(project.train, BATCH, shuffle=True, drop_last=True)
    compressor = project.compressor(EPOCHS * len(loader), loader)
    compressor.model.train()  # Lightning trains modules in the mode in which it finds them
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[Compression(compressor)],
        enable_checkpointing=False,
        logger=False,
    )
    trainer.fit(Digits(compressor), loader)
    compressor.save(DIGITS / "own.safetensors")


if __name__ == "__main__":
    main()
