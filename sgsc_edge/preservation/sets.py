"""From a project's data sets to its preservation set: who is trained on, looked at, judged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.utils.data import Dataset, Subset

from sgsc_edge.artifacts import content_key
from sgsc_edge.errors import FileFormatError, ModelError, SgscError
from sgsc_edge.preservation import must_keep
from sgsc_edge.preservation.ids import sample_id
from sgsc_edge.preservation.pool import content_hashes, distinct, pool_indices
from sgsc_edge.preservation.scores import Decisions, Scores, check_outputs, decide, score
from sgsc_edge.preservation.select import Chosen, select
from sgsc_edge.preservation.selection import MustKept, SampleScores, Selected, Selection, SideCounts
from sgsc_edge.preservation.split import Sizes, check_disjoint, part_sizes
from sgsc_edge.preservation.taps import find_taps, find_text_taps
from sgsc_edge.project import Part, Project
from sgsc_edge.project.schema import IGNORED
from sgsc_edge.project.user_code import failed, user_code

MUST_KEEP: Literal["must_keep"] = "must_keep"
TEST: Literal["test"] = "test"
_MAY_OVERLAP = frozenset(frozenset({MUST_KEEP, other}) for other in ("guide", "watch", "certify"))


@dataclass(frozen=True, eq=False)
class Samples:
    """Named samples: a data set of (input, label), and each input's content hash.

    Of a language model an input is tokens int64 [T], and a label the next tokens int64 [T].

    ``trained_on`` says of each must_keep sample whether its content is among what may enter a gradient; None
    for other samples.
    """

    dataset: Dataset[Any]
    hashes: tuple[str, ...]
    trained_on: tuple[bool, ...] | None = None

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def ids(self) -> tuple[str, ...]:
        """The hashes' prefixes that reports use."""
        return tuple(map(sample_id, self.hashes))

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """The class of each sample, in order; of a sequence, how many of its next tokens have a label.

        Each class gives its part of a preservation set: of text, each length does.
        """
        return tuple(class_of(self.dataset[index][1]) for index in range(len(self)))

    def take(self, indices: Sequence[int]) -> Samples:
        """Some of the samples, in the given order."""
        return Samples(Subset(self.dataset, list(indices)), tuple(self.hashes[index] for index in indices))

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(inputs float32 [n, ...], labels int64 [n]); of text both int64 [n, T]."""
        samples = [self.dataset[index] for index in range(len(self))]
        inputs = torch.stack([torch.as_tensor(one) for one, _ in samples])
        return inputs, torch.stack([torch.as_tensor(label, dtype=torch.int64) for _, label in samples])

    def key(self) -> str:
        """Hash of the samples and their labels, in order."""
        labels = (torch.as_tensor(self.dataset[index][1]) for index in range(len(self)))
        return content_key(list(self.hashes), [one.tolist() for one in labels])


@dataclass(frozen=True, eq=False)
class Data:
    """A project's data sets before anything is chosen.

    Parameters
    ----------
    rest: training samples that may enter a gradient.
    pool: samples for watch and certify, different from all of rest.
    must_keep: the samples that the user's callable names; None without one.
    test: None where the project names none.
    """

    rest: Samples
    pool: Samples
    must_keep: Samples | None
    test: Samples | None


@dataclass(frozen=True, eq=False)
class PreservationSet:
    """A project's samples, by what they may be used for.

    Parameters
    ----------
    train: everything that may enter a gradient (guide is among it).
    guide: indices into ``train`` of the guide part.
    must_keep: indices into ``train`` of the must_keep samples that are trained on; some are in ``guide``.
    parts: guide, watch, certify and, where the user wants such samples, must_keep.
    test: measured only; None where the project names none.
    """

    train: Samples
    guide: tuple[int, ...]
    must_keep: tuple[int, ...]
    parts: Mapping[str, Samples]
    test: Samples | None


def class_of(label: object) -> int:
    """The class of a sample's label; of next tokens int64 [T], how many there are."""
    if isinstance(label, torch.Tensor) and label.ndim:
        return int((label != IGNORED).sum())
    return int(cast("int", label))


def load_data(project: Project, num_classes: int, tokens: int | None = None) -> Data:
    """Load a project's data sets and set the pool apart.

    Parameters
    ----------
    num_classes, tokens: what labels, and the inputs of a language model, lie below.

    Raises
    ------
    DataError: a data set is empty, random or malformed; training data and pool share samples.
    """

    def load(part: Part) -> Samples:
        dataset = project.load_dataset(part, num_classes, tokens)
        return Samples(dataset, tuple(content_hashes(dataset, f"data.{part}")))

    rest = load("train")
    if project.has_dataset("pool"):
        pool = load("pool")
        check_disjoint({"data.train": rest.hashes, "data.pool": pool.hashes}, frozenset())
    else:
        outside, inside = pool_indices(rest.hashes, project.config.preservation.pool_fraction)
        rest, pool = rest.take(outside), rest.take(inside)
    must_keep = load(MUST_KEEP) if project.has_dataset(MUST_KEEP) else None
    return Data(rest, pool, must_keep, load(TEST) if project.has_dataset(TEST) else None)


def preservation_sizes(project: Project, data: Data) -> Sizes:
    """How many samples each part gets; raises ``DataError`` where one would be empty."""
    total = round(project.config.preservation.fraction * (len(data.rest) + len(data.pool)))
    return part_sizes(len(set(data.rest.hashes)), len(set(data.pool.hashes)), total)


def choose(project: Project, model: nn.Module, data: Data) -> Selection:
    """Score the samples with the float model (in evaluation mode) and choose the preservation set.

    Raises
    ------
    ConfigError: preservation.layer does not fit the model; fewer than preservation.must_keep guide samples
        are decided rightly.
    DataError: a part would be empty; a chosen sample is in the test set.
    ModelError: the model fails on a sample, or gives NaN or infinity.
    """
    settings, seed = project.config.preservation, project.config.compress.seed
    sizes = preservation_sizes(project, data)
    where = project.where("preservation", "layer")
    shares = settings.criteria()
    with _running(project):
        find = find_text_taps if project.config.model.is_text else find_taps
        taps = find(model, data.rest.dataset[0][0], settings.layer, where)

        def scored(side: Samples, wanted: int, name: str) -> Scores:
            samples = (side.dataset, side.hashes, side.labels)
            return score(model, *samples, taps=taps, wanted=wanted, seed=seed, name=name)

        rest = scored(data.rest, sizes.guide, "training data")
        pool = scored(data.pool, sizes.watch + sizes.certify, "pool")
        decided = None
        if (keep := data.must_keep) is not None:
            decided = decide(model, keep.dataset, keep.hashes, taps=taps, name="the must_keep samples")
    guide = select(rest, {"guide": sizes.guide}, shares, seed)
    others = select(pool, {"watch": sizes.watch, "certify": sizes.certify}, shares, seed)
    samples = (
        *(_selected(rest, one) for one in guide),
        *(_selected(pool, one) for part in ("watch", "certify") for one in others if one.part == part),
    )
    selection = Selection(
        task="language-model" if project.config.model.is_text else "classification",
        method=settings.method,
        shares=shares,
        seed=seed,
        grad_cam=taps.grad_cam,
        features=taps.features,
        gradient=taps.gradient,
        rest=_counts(data.rest, rest),
        pool=_counts(data.pool, pool),
        samples=samples,
        must_keep=_must_kept(project, data, rest, [one.position for one in guide], samples, decided),
    )
    divide(data, selection)
    return selection


def _must_kept(
    project: Project,
    data: Data,
    rest: Scores,
    guide: Sequence[int],
    samples: Sequence[Selected],
    decided: Decisions | None,
) -> tuple[MustKept, ...]:
    """What ``preservation.must_keep`` asks for: a number of guide samples, or what a callable names."""
    wanted = project.config.preservation.must_keep
    if isinstance(wanted, int):
        where = project.where("preservation", MUST_KEEP)
        return must_keep.lowest_margins(rest, guide, wanted, where=where)
    if data.must_keep is None or decided is None:
        return ()
    parts = {one.hash: one.part for one in samples}
    trained = frozenset(data.rest.hashes)
    return must_keep.named(
        data.must_keep.hashes, data.must_keep.labels, decided, parts=parts, trained=trained
    )


def check_model(project: Project, model: nn.Module, data: Data, samples: int) -> None:
    """Try the float model on about as many evenly spaced training samples as ``samples`` says.

    Raises
    ------
    ModelError: the model fails on a sample, or gives NaN or infinity.
    """
    tried = data.rest.take(range(0, len(data.rest), max(len(data.rest) // samples, 1)))
    with _running(project):
        check_outputs(model, tried.dataset, tried.hashes, "training data")


@contextlib.contextmanager
def _running(project: Project) -> Iterator[None]:
    """Run the user's model: seeded, and whatever its forward pass raises is a ``ModelError``."""
    try:
        with user_code(project.root, project.config.compress.seed):
            yield
    except SgscError:
        raise
    except Exception as failure:
        what, place = "the model, given training samples,", project.where("model", "factory")
        raise failed(what, failure, project.root, place, ModelError) from failure


def divide(data: Data, selection: Selection) -> PreservationSet:
    """A project's samples by use, as a selection has it.

    Raises
    ------
    DataError: two parts share samples.
    FileFormatError: the selection is of other data.
    """
    guide = _indices(data.rest, selection.part("guide"), "guide")
    parts = {
        "guide": data.rest.take(guide),
        "watch": data.pool.take(_indices(data.pool, selection.part("watch"), "watch")),
        "certify": data.pool.take(_indices(data.pool, selection.part("certify"), "certify")),
    }
    kept = data.must_keep
    if kept is None and selection.must_keep:
        kept = parts["guide"].take(_indices(parts["guide"], selection.must_keep, MUST_KEEP))
    if kept is not None:
        trained = frozenset(data.rest.hashes)
        kept = replace(kept, trained_on=tuple(digest in trained for digest in kept.hashes))
        parts[MUST_KEEP] = kept
    groups = {name: samples.hashes for name, samples in parts.items()}
    check_disjoint({**groups, TEST: data.test.hashes if data.test else ()}, _MAY_OVERLAP)
    _check_must_keep(kept, selection.must_keep)
    return PreservationSet(data.rest, guide, _trained_on(data.rest, kept), parts, data.test)


def _indices(side: Samples, wanted: Sequence[Selected | MustKept], part: str) -> tuple[int, ...]:
    known = distinct(side.hashes, side.labels)
    if not all(one.hash in known and side.labels[known[one.hash]] == one.label for one in wanted):
        raise _of_other_data(part)
    return tuple(known[one.hash] for one in wanted)


def _trained_on(rest: Samples, kept: Samples | None) -> tuple[int, ...]:
    """Indices of the must_keep samples that training has, with the same label."""
    if kept is None:
        return ()
    known: dict[tuple[str, int], int] = {}
    for index, sample in enumerate(zip(rest.hashes, rest.labels, strict=True)):
        known.setdefault(sample, index)
    wanted = dict.fromkeys(zip(kept.hashes, kept.labels, strict=True))
    return tuple(known[one] for one in wanted if one in known)


def _check_must_keep(kept: Samples | None, listed: Sequence[MustKept]) -> None:
    """A list of other samples, or one that calls a trained sample unseen, is of other data."""
    found = [] if kept is None else list(zip(kept.hashes, kept.labels, kept.trained_on or (), strict=True))
    if found != [(one.hash, one.label, one.trained_on) for one in listed]:
        raise _of_other_data(MUST_KEEP)


def _of_other_data(part: str) -> FileFormatError:
    return FileFormatError(
        f"the {part} part lists samples that the data sets do not have",
        where="preservation.json",
        remedy="run preserve again",
    )


def _counts(side: Samples, scores: Scores) -> SideCounts:
    labels = scores.label.tolist()
    return SideCounts(
        samples=len(side),
        different=len(scores),
        labels={str(label): labels.count(label) for label in sorted(set(labels))},
    )


def _selected(scores: Scores, chosen: Chosen) -> Selected:
    at = chosen.position
    return Selected(
        hash=scores.hashes[at],
        part=chosen.part,
        label=int(scores.label[at]),
        prediction=int(scores.prediction[at]),
        criterion=chosen.criterion,
        reasons=chosen.reasons,
        ranks=dict(chosen.ranks),
        scores=SampleScores(
            saliency=float(scores.saliency[at]),
            uncertainty=float(scores.uncertainty[at]),
            margin=float(scores.margin[at]),
            entropy=float(scores.entropy[at]),
            cluster=int(scores.cluster[at]),
        ),
    )
