"""What the float model says about each sample: decision, saliency, uncertainty, cluster.

Samples are put into the order of their content hashes, equal contents counted once, before they are cut into
batches: the figures depend neither on the data set's order nor on what else shares a sample's content.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from sgsc_edge.errors import ModelError
from sgsc_edge.preservation.diversity import MAX_CLUSTERS, clusters
from sgsc_edge.preservation.ids import sample_id
from sgsc_edge.preservation.pool import distinct
from sgsc_edge.preservation.saliency import (
    Saliency,
    grad_cam,
    gradient_times_activation,
    gradient_times_activation_by_token,
)
from sgsc_edge.preservation.sequences import Doubts, decided_logits, doubts, joined, pooled
from sgsc_edge.preservation.taps import Taps, inputs_of
from sgsc_edge.preservation.uncertainty import Uncertainty, as_logits, uncertainty
from sgsc_edge.project.schema import IGNORED

MAX_FEATURES = 1024
"""Wider features are projected at random to this width for clustering (Johnson-Lindenstrauss)."""

_BATCH = 256
_BATCH_VALUES = 2**21  # input values a batch at most: 13 images of 3x224x224
_LOG_EVERY_S = 10.0

log = logging.getLogger("sgsc_edge")


@dataclass(frozen=True, eq=False)
class Scores:
    """Samples in the order of their content hashes, with one entry each in every column.

    Parameters
    ----------
    hashes: content hashes, ascending, each once.
    index: int64 [n], positions in the data set.
    label, prediction: int64 [n]; of sequences how many next tokens have a label, and how many are right.
    saliency: float64 [n], see ``saliency``.
    uncertainty, margin, entropy: float64 [n], see ``uncertainty``; the first is 1 - max p. Of sequences
    means. cluster: int64 [n]; distance: float64 [n] to the cluster's centre; see ``diversity``.
    """

    hashes: tuple[str, ...]
    index: NDArray[np.int64]
    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    saliency: NDArray[np.float64]
    uncertainty: NDArray[np.float64]
    margin: NDArray[np.float64]
    entropy: NDArray[np.float64]
    cluster: NDArray[np.int64]
    distance: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.hashes)


@dataclass(frozen=True, eq=False)
class Decisions:
    """What the float model decides (int64 [n]) and by which margin (float64 [n]); see :class:`Scores`."""

    prediction: NDArray[np.int64]
    margin: NDArray[np.float64]


def score(
    model: nn.Module,
    dataset: Dataset[tuple[Tensor, int]],
    hashes: Sequence[str],
    labels: Sequence[int],
    *,
    taps: Taps,
    wanted: int,
    seed: int,
    name: str,
) -> Scores:
    """Score the samples of a data set with a float model in evaluation mode; nothing in it is changed.

    Parameters
    ----------
    hashes, labels: of every sample, in the data set's order; see ``distinct``.
    wanted: how many samples will be chosen; there are no more clusters than that.
    seed: of the clustering.
    name: what is scored, for progress and errors.

    Raises
    ------
    ModelError: a logit, feature or gradient is not finite, or no gradient reaches the layer.
    """
    chosen = distinct(hashes, labels)
    order, index = list(chosen), np.array(list(chosen.values()), dtype=np.int64)
    observe = _observe_text if taps.is_text else _observe
    decided, doubt, saliency, features = observe(model, dataset, index, taps, name, order)
    for values in (saliency, features):
        _check_finite(values, order, name)
    found = clusters(features, min(wanted, MAX_CLUSTERS), seed)
    return Scores(
        hashes=tuple(order),
        index=index,
        label=np.array([labels[position] for position in index], dtype=np.int64),
        prediction=decided,
        saliency=saliency.astype(np.float64),
        uncertainty=doubt.least_confidence,
        margin=doubt.margin,
        entropy=doubt.entropy,
        cluster=found.cluster,
        distance=found.distance,
    )


def decide(
    model: nn.Module, dataset: Dataset[tuple[Tensor, int]], hashes: Sequence[str], *, taps: Taps, name: str
) -> Decisions:
    """Decisions and margins of all samples of a data set, in its order; ``ModelError`` as in ``score``."""
    modules, order = dict(model.named_modules()), np.arange(len(hashes))
    outputs, found = [], []
    with torch.no_grad(), _logits_of(model, modules, taps) as (run, latest):
        for inputs, labels in _batches(dataset, order, name):
            run(inputs)
            if taps.is_text:
                found.append(_checked_doubts(latest[0], labels, name))
            else:
                outputs.append(latest[0].clone())
    if taps.is_text:
        text = joined(found)
        return Decisions(text.right, text.doubt.margin)
    logits = torch.cat(outputs).numpy()
    _check_finite(logits, hashes, name)
    return Decisions(logits.argmax(axis=1).astype(np.int64), uncertainty(as_logits(logits)).margin)


def check_outputs(
    model: nn.Module, dataset: Dataset[tuple[Tensor, int]], hashes: Sequence[str], name: str
) -> None:
    """``ModelError`` where a model in evaluation mode gives NaN or infinity for a sample of a data set."""
    with torch.no_grad():
        outputs = [model(inputs) for inputs, _ in _batches(dataset, np.arange(len(hashes)), name)]
    _check_finite(torch.cat(outputs).numpy(), hashes, name)


_Observed = tuple[NDArray[np.int64], Uncertainty, NDArray[np.float32], NDArray[np.float32]]
"""Decisions [n], doubts, saliency [n] and features [n, d]."""


def _observe(
    model: nn.Module,
    dataset: Dataset[Any],
    order: NDArray[np.int64],
    taps: Taps,
    name: str,
    hashes: Sequence[str],
) -> _Observed:
    """One forward and one partial backward pass a batch."""
    modules = dict(model.named_modules())
    columns: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    with _logits_of(model, modules, taps) as (run, latest), inputs_of(modules[taps.features]) as features:
        saliency = _saliency(run, modules, taps)
        for inputs, _ in _batches(dataset, order, name):
            columns[1].append(saliency(inputs))
            columns[0].append(latest[0].detach().clone())
            columns[2].append(_flat_features(features[0].detach(), modules[taps.features]))
    logits, intensity, penultimate = (torch.cat(column).numpy() for column in columns)
    _check_finite(logits, hashes, name)
    return logits.argmax(axis=1).astype(np.int64), uncertainty(as_logits(logits)), intensity, penultimate


def _observe_text(
    model: nn.Module,
    dataset: Dataset[Any],
    order: NDArray[np.int64],
    taps: Taps,
    name: str,
    hashes: Sequence[str],
) -> _Observed:
    """The same of sequences; logits [n, T, V] of a batch alone are ever held."""
    modules = dict(model.named_modules())
    found: list[Doubts] = []
    intensity, penultimate = [], []
    current: list[Tensor] = []
    layer = taps.features if taps.gradient is None else taps.gradient
    with _logits_of(model, modules, taps) as (run, latest), inputs_of(modules[taps.features]) as features:

        def decided(inputs: Tensor) -> Tensor:
            run(inputs)
            return decided_logits(latest[0], current[0])

        saliency = gradient_times_activation_by_token(
            decided, modules[layer], layer, at_output=taps.gradient is not None
        )
        for inputs, labels in _batches(dataset, order, name):
            current[:] = [labels]
            intensity.append(saliency(inputs) / (labels != IGNORED).sum(1))
            found.append(_checked_doubts(latest[0].detach(), labels, name))
            penultimate.append(_narrowed(pooled(features[0].detach(), labels)))
    text = joined(found)
    return text.right, text.doubt, torch.cat(intensity).numpy(), torch.cat(penultimate).numpy()


def _checked_doubts(logits: Tensor, labels: Tensor, name: str) -> Doubts:
    if not logits.isfinite().all():
        raise ModelError(
            f"the float model gives NaN or infinity for sequences of {name}",
            where="model.factory",
            remedy="train the float model again, or remove these sequences",
        )
    return doubts(logits, labels)


@contextlib.contextmanager
def _logits_of(
    model: nn.Module, modules: dict[str, nn.Module], taps: Taps
) -> Iterator[tuple[Callable[[Tensor], Tensor], list[Tensor]]]:
    """A function from inputs [n, ...] to each decision's logit [n]; the list has its last logits [n, K].

    Of text the list has logits [n, T, V], and the function gives those of the decided tokens, [n, T].
    """
    latest: list[Tensor] = []
    with contextlib.ExitStack() as stack:
        ending = None if taps.softmax is None else stack.enter_context(inputs_of(modules[taps.softmax]))

        def run(inputs: Tensor) -> Tensor:
            outputs: Tensor = model(inputs.clone())  # a model may change its input in place
            latest[:] = [outputs if ending is None else ending[0]]
            decided = latest[0].detach().argmax(-1, keepdim=True)
            return latest[0].gather(-1, decided).squeeze(-1)

        yield run, latest


def _saliency(run: Callable[[Tensor], Tensor], modules: dict[str, nn.Module], taps: Taps) -> Saliency:
    if taps.grad_cam is None:
        return gradient_times_activation(run, modules[taps.features], taps.features)
    return grad_cam(run, modules[taps.grad_cam], taps.grad_cam)


def _flat_features(features: Tensor, layer: nn.Module) -> Tensor:
    """One row a sample: the mean over positions where the layer has several, projected where too wide."""
    if isinstance(layer, nn.Linear):
        rows = features.flatten(1, -2).mean(1) if features.ndim > 2 else features
    else:
        rows = features.flatten(2).mean(2)
    return _narrowed(rows)


def _narrowed(rows: Tensor) -> Tensor:
    if rows.shape[1] > MAX_FEATURES:
        generator = torch.Generator().manual_seed(0)
        rows = rows @ (torch.randn(rows.shape[1], MAX_FEATURES, generator=generator) / MAX_FEATURES**0.5)
    return rows.clone()


def _batches(dataset: Dataset[Any], order: NDArray[np.int64], name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Stacked inputs and labels in the given order, with a line of progress now and then."""
    size = max(1, min(_BATCH, _BATCH_VALUES // max(dataset[int(order[0])][0].numel(), 1)))
    started = shown = time.monotonic()
    for start in range(0, len(order), size):
        samples = [dataset[int(index)] for index in order[start : start + size]]
        yield (
            torch.stack([one for one, _ in samples]),
            torch.stack([torch.as_tensor(two) for _, two in samples]),
        )
        now, done = time.monotonic(), min(start + size, len(order))
        if now - shown >= _LOG_EVERY_S and done < len(order):
            shown = now
            left = (now - started) / done * (len(order) - done)
            log.info("preserve: %s: %d of %d samples, %.0f s left", name, done, len(order), left)


def _check_finite(values: NDArray[np.float32], hashes: Sequence[str], name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    if len(bad):
        raise ModelError(
            f"the float model gives NaN or infinity for {len(bad)} samples of {name} "
            f"(the first has the id {sample_id(hashes[bad[0]])})",
            where="model.factory",
            remedy="train the float model again, or remove these samples",
        )
