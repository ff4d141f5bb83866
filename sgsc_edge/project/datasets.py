"""The user's data sets: each sample and label is checked when it is read, a few of them at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sgsc_edge.errors import ConfigError, DataError
from sgsc_edge.project.load import Part, Project
from sgsc_edge.project.schema import IGNORED
from sgsc_edge.project.user_code import call, failed, kind_of

_PROBES = 32  # samples looked at before anything is trained


@dataclass(frozen=True)
class Rules:
    """What each sample must be.

    Parameters
    ----------
    shape: of one input.
    classes: labels lie below it; None: any from 0.
    is_text: inputs are tokens int64 [T], labels the next ones int64 [T], -100 where there is none.
    tokens: inputs of text lie below it; None: any from 0.
    """

    shape: tuple[int, ...]
    classes: int | None = None
    is_text: bool = False
    tokens: int | None = None


class CheckedDataset(Dataset[tuple[Tensor, Any]]):
    """A map-style data set of (sample float32, label int), or of text (tokens int64 [T], labels int64 [T]).

    Reading a sample that breaks ``rules`` raises ``DataError`` naming its index; NumPy arrays and integer
    tensors are converted. ``where`` is the setting that named the data set.
    """

    def __init__(self, dataset: Any, rules: Rules, *, where: str, root: Path) -> None:
        self._dataset = dataset
        self._rules = rules
        self._where = where
        self._root = root

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        try:
            item = self._dataset[index]
        except Exception as failure:
            raise failed(f"sample {index}", failure, self._root, self._where, DataError) from failure
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            self._refuse(index, f"is {kind_of(item)}", "return (input, label) for each index")
        if self._rules.is_text:
            return self._tokens(index, item[0]), self._next_tokens(index, item[1])
        return self._sample(index, item[0]), self._label(index, item[1])

    def _sample(self, index: int, value: object) -> Tensor:
        sample = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        if not isinstance(sample, Tensor):
            self._refuse(index, f"has an input that is {kind_of(value)}", "convert inputs to float32 tensors")
        shape = self._rules.shape
        if sample.dtype != torch.float32 or tuple(sample.shape) != shape:
            what = f"is {_kind(sample)}; model.input says float32 {list(shape)}"
            self._refuse(index, what, _how_to_convert(sample, shape))
        if not sample.isfinite().all():
            self._refuse(index, "holds NaN or infinity", "remove or repair this sample")
        return sample

    def _label(self, index: int, value: object) -> int:
        label = value
        if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0:
            label = value.item()
        elif isinstance(value, np.integer):
            label = int(value)
        if not isinstance(label, int) or isinstance(label, bool):
            self._refuse(
                index,
                f"has the label {value!r}, which is no integer",
                "return the number of the class: labels.long(), or of one-hot rows labels.argmax(1)",
            )
        classes = self._rules.classes
        if label < 0 or (classes is not None and label >= classes):
            self._refuse(
                index, f"has the label {label}", f"{_bounds('labels', classes)}: correct the data set"
            )
        return label

    def _tokens(self, index: int, value: object) -> Tensor:
        tokens = self._sequence(index, value, "an input", "tokens")
        limit = self._rules.tokens
        wrong = tokens[(tokens < 0) | (tokens >= (limit if limit is not None else torch.inf))]
        if len(wrong):
            remedy = f"{_bounds('tokens', limit)}: correct the data set, or the embedding's size"
            self._refuse(index, f"has the token {int(wrong[0])}", remedy)
        return tokens

    def _next_tokens(self, index: int, value: object) -> Tensor:
        labels = self._sequence(index, value, "a label", "next tokens")
        classes = self._rules.classes
        labelled = labels[labels != IGNORED]
        if not len(labelled):
            remedy = f"remove it: a sequence needs a label that is not {IGNORED}"
            self._refuse(index, "has no next token to predict", remedy)
        wrong = labelled[(labelled < 0) | (labelled >= (classes if classes is not None else torch.inf))]
        if len(wrong):
            remedy = f"{_bounds('labels', classes)}, or are {IGNORED} where there is no next token"
            self._refuse(index, f"has the label {int(wrong[0])}", remedy)
        return labels

    def _sequence(self, index: int, value: object, which: str, what: str) -> Tensor:
        """An input or label as int64 [T]."""
        found = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        (length,) = self._rules.shape
        remedy = f"return {what} as a tensor int64 [{length}]"
        if not isinstance(found, Tensor):
            self._refuse(index, f"has {which} that is {kind_of(value)}", remedy)
        if found.dtype != torch.int64 or tuple(found.shape) != (length,):
            self._refuse(index, f"has {which} that is {_kind(found)}; expected int64 [{length}]", remedy)
        return found

    def _refuse(self, index: int, what: str, remedy: str) -> NoReturn:
        raise DataError(f"sample {index} {what}", where=self._where, remedy=remedy)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _bounds(what: str, limit: int | None) -> str:
    return f"{what} start at 0" if limit is None else f"{what} lie in 0 to {limit - 1}"


def _how_to_convert(sample: Tensor, shape: tuple[int, ...]) -> str:
    """What to do with an input of another dtype or shape."""
    if tuple(sample.shape) == shape:
        return "convert it to float32, as it is trained on: images often as image.float() / 255"
    if sorted(sample.shape) == sorted(shape):
        return "order its dimensions as model.input.shape does, channels first: sample.permute(2, 0, 1)"
    return "correct the data set or model.input"


def load_dataset(project: Project, part: Part, num_classes: int | None, tokens: int | None) -> CheckedDataset:
    """Make the data set of ``part``, check its size, some samples and, for ``train``, that classes differ."""
    section = "preservation" if part == "must_keep" else "data"
    spec = project.dataset_spec(part)
    if spec is None:
        raise ConfigError(
            f"no data set '{part}' is configured",
            where=project.where(section),
            remedy=f"set {section}.{part}",
        )
    where = project.where(section, part)
    dataset = make_dataset(project.root, spec, project.config.compress.seed, where)
    names = project.config.data.classes
    if num_classes is None and names is not None:
        num_classes = len(names)
    model = project.config.model
    rules = Rules(model.input.shape, num_classes, model.is_text, tokens)
    checked = CheckedDataset(dataset, rules, where=where, root=project.root)
    _probe(checked, where, classes_differ=part == "train" and not model.is_text)
    return checked


def make_dataset(root: Path, spec: str, seed: int, where: str) -> Any:
    """What the user's ``module:function`` returns: something with a length and items, or ``DataError``."""
    dataset = call(root, spec, seed=seed, where=where, error=DataError)
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"'{spec}' returned {kind_of(dataset)}, not a data set with a length and items",
            where=where,
            remedy="return a map-style torch Dataset, such as TensorDataset; a DataLoader is none",
        )
    return dataset


def sample_shape(dataset: Any, where: str, root: Path) -> tuple[int, ...]:
    """The shape of a user's samples; ``DataError`` where some are none, or of another shape."""
    shape: tuple[int, ...] = ()
    with contextlib.suppress(Exception):  # what is wrong with the first sample is said below
        shape = tuple(dataset[0][0].shape)
    checked = CheckedDataset(dataset, Rules(shape), where=where, root=root)
    _probe(checked, where, classes_differ=False)
    return shape


def load_augment(project: Project) -> Callable[[Tensor, int], Tensor] | None:
    """See :meth:`Project.augment`; the user's function is seeded for every batch, so runs can be repeated."""
    spec = project.config.data.augment
    if spec is None:
        return None
    where = project.where("data", "augment")

    def augment(inputs: Tensor, seed: int) -> Tensor:
        made = call(project.root, spec, inputs.clone(), seed=seed, where=where, error=DataError)
        if not isinstance(made, Tensor) or made.shape != inputs.shape or made.dtype != inputs.dtype:
            given = f"{made.dtype} {list(made.shape)}" if isinstance(made, Tensor) else kind_of(made)
            raise DataError(
                f"'{spec}' made {given} of a batch of {inputs.dtype} {list(inputs.shape)}",
                where=where,
                remedy="return a tensor like the one that is given",
            )
        if not made.isfinite().all():
            raise DataError(f"'{spec}' made NaN or infinity", where=where, remedy="correct the function")
        return made

    return augment


def _probe(dataset: CheckedDataset, where: str, *, classes_differ: bool) -> None:
    """Read a few samples, spread evenly; for training data, read on until two classes are seen."""
    size = len(dataset)
    if size == 0:
        raise DataError("the data set is empty", where=where, remedy="return at least one sample")
    positions = np.linspace(0, size - 1, min(size, _PROBES)).round().astype(int).tolist()
    found = [dataset[index][1] for index in positions]
    if not classes_differ or len(labels := set(found)) > 1:
        return
    for _, label in dataset:
        if label not in labels:
            return
    raise DataError(
        f"all {size} training samples have the label {labels.pop()}",
        where=where,
        remedy="a classifier needs samples of at least two classes",
    )
