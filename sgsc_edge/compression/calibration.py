"""What follows from passing some samples through a model: activation ranges, and BatchNorm's statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from sgsc_edge.compression.layers import BATCH_NORMS, QuantizedModel
from sgsc_edge.errors import DataError
from sgsc_edge.project.user_code import kind_of

CALIBRATION_SAMPLES = 1024

_FEWEST = 32
"""Samples of a batch: extremes and variances of fewer say little, and of one there is no variance."""

Batches = Iterable[Any]
"""Batches of inputs, or tuples that start with them; iterated anew each time."""


def calibrate(model: QuantizedModel, data: Batches) -> None:
    """Set every activation range from the float model's values on :data:`CALIBRATION_SAMPLES` samples."""
    training = model.module.training
    model.module.eval()
    for quantizer in model.activation_quantizers():
        quantizer.train()
    model.enable(False)
    model.observe(True)
    with torch.no_grad():
        for inputs in _first(data):
            model.module(inputs)
    model.observe(False)
    model.enable(True)
    model.module.train(training)


def re_estimate_norms(model: QuantizedModel, data: Batches) -> None:
    """Replace every BatchNorm's running statistics by those of the present weights.

    While weights move, the running averages lag behind; whatever is decided by evaluation needs them fresh.
    """
    norms = [module for module in model.module.modules() if isinstance(module, BATCH_NORMS)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with model.evaluating() as module:
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        seen = 0
        for inputs in _first(data):
            seen += len(inputs)
            for norm in norms:
                norm.momentum = len(inputs) / seen  # the mean over all samples
            module(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _first(data: Batches) -> Iterator[torch.Tensor]:
    """The first samples' inputs, in batches of :data:`_FEWEST` at least where there are as many.

    Raises
    ------
    DataError: there is none, or a batch is none of :data:`Batches`.
    """
    seen, ready, pending = 0, None, []
    for batch in data:
        inputs = inputs_of(batch)
        pending.append(inputs)
        seen += len(inputs)
        if sum(map(len, pending)) >= _FEWEST:
            if ready is not None:
                yield ready
            ready, pending = torch.cat(pending), []
        if seen >= CALIBRATION_SAMPLES:
            break
    rest = [part for part in (ready, *pending) if part is not None and len(part)]
    if not rest:
        raise DataError(
            "there are no samples to calibrate on",
            where="data",
            remedy="give something that yields batches each time that it is iterated (a DataLoader, a list)",
        )
    yield torch.cat(rest)


def inputs_of(batch: Any) -> torch.Tensor:
    """What a batch passes to the model.

    Raises
    ------
    DataError: the batch holds something else, or lies on another device.
    """
    inputs = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
    if not isinstance(inputs, torch.Tensor):
        within = "" if inputs is batch else f" that starts with {kind_of(inputs)}"
        raise DataError(
            f"yields {kind_of(batch)}{within}, not a tensor of inputs or a tuple that starts with one",
            where="data",
            remedy="let it yield (inputs, labels); a DataLoader's collate_fn can make them of a dictionary",
        )
    if inputs.device.type != "cpu":
        raise DataError(
            f"yields a batch on the device {inputs.device}, and compression trains on the CPU",
            where="data",
            remedy="let it yield tensors on the CPU: inputs.cpu(), labels.cpu()",
        )
    return inputs
