"""The recorded samples of a build (``preservation.npz``), checked before anything is judged on them.

For each part p: ``p_inputs`` int8 [n, ...], ``p_labels`` int64 [n], ``p_ids`` text [n],
``p_float_logits`` float32 [n, K], ``p_compressed_logits`` int8 [n, K] and, where a control was trained,
``p_control_logits`` float32 [n, K]. Of a language model a sample is a sequence: inputs are tokens int64 [n,
T], labels int64 [n, T] with -100 where there is no next token, logits [n, T, K]. ``must_keep_trained_on``
bool [n] marks the samples among those that may enter a gradient. ``measured_ids`` text [m] holds the ids of
the test samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.errors import DataError, FileFormatError
from sgsc_edge.project.schema import IGNORED

CERTIFY = "certify"
MUST_KEEP = "must_keep"
REQUIRED_PARTS = ("guide", "watch", CERTIFY)
PARTS = (*REQUIRED_PARTS, MUST_KEEP)
GATED_PARTS = (CERTIFY, MUST_KEEP)
_SHOWN_IDS = 3


@dataclass(frozen=True, eq=False)
class SampleSet:
    """One part, as fed to the devices.

    ``inputs`` int8 [n, H, W, C] (device integers), ``labels`` int64 [n], ``ids`` text [n] (content-hash
    prefixes), ``float_logits`` float32 [n, K] of the user's model, ``compressed_logits`` int8 [n, K] of
    the compressed one, ``control_logits`` float32 [n, K] of the control or None, ``trained_on`` bool [n] of
    must_keep: whether compression may have trained on the sample, None for the other parts.

    Of a language model: ``inputs`` int64 [n, T], ``labels`` int64 [n, T], logits [n, T, K].
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    ids: NDArray[np.str_]
    float_logits: NDArray[np.float32]
    compressed_logits: NDArray[np.int8]
    control_logits: NDArray[np.float32] | None = None
    trained_on: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_text(self) -> bool:
        """Whether the samples are sequences of tokens, with a decision for each next token."""
        return self.labels.ndim == 2

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Which decisions are measured, in the shape of the labels; of a classifier all."""
        mask: NDArray[np.bool_] = self.labels != IGNORED
        return mask

    @property
    def decisions(self) -> int:
        """How many decisions are measured: as many as samples, or as labelled next tokens."""
        return int(self.labelled.sum())

    @property
    def sha256(self) -> str:
        """Hash of the samples themselves: ids, labels and inputs, with their shapes and types."""
        digest = hashlib.sha256()
        ids = np.char.encode(self.ids, "utf-8") if len(self) else np.empty(0, "S1")
        for array in (ids, self.labels.astype("<i8"), self.inputs):
            digest.update(f"{array.dtype.str}{list(array.shape)}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


_FIELDS: Mapping[str, tuple[str, int | None]] = MappingProxyType(
    {
        # field: (dtype kind and size, number of dimensions)
        "inputs": ("int8", None),
        "labels": ("int64", 1),
        "ids": ("text", 1),
        "float_logits": ("float32", 2),
        "compressed_logits": ("int8", 2),
    }
)
_TEXT_FIELDS = MappingProxyType(
    {
        **_FIELDS,
        "inputs": ("int64", 2),
        "labels": ("int64", 2),
        "float_logits": ("float32", 3),
        "compressed_logits": ("int8", 3),
    }
)


def read_samples(arrays: Mapping[str, NDArray[np.generic]], *, where: str) -> dict[str, SampleSet]:
    """The parts in ``arrays`` by name, checked.

    Raises FileFormatError for missing arrays, wrong types or shapes, and for must_keep samples marked
    otherwise than the part that has them says; DataError for labels out of range and for samples that are in
    two parts or among the measured ones. ``must_keep`` may overlap the other parts, not the measured ones.
    Non-finite logits pass: what needs them is then not measured.
    """
    given = any(name.startswith(f"{MUST_KEEP}_") for name in arrays)
    names = [*REQUIRED_PARTS, *([MUST_KEEP] if given else [])]
    sets = {name: _read_part(arrays, name, where) for name in names}
    _check_agreement(sets, where)
    measured = _read(arrays, "measured_ids", "text", 1, where)
    _check_overlaps(sets, {str(value) for value in measured}, where)
    if given:
        _check_marks(sets, where)
    return sets


def _read_part(arrays: Mapping[str, NDArray[np.generic]], part: str, where: str) -> SampleSet:
    inputs = arrays.get(f"{part}_inputs")
    fields = _TEXT_FIELDS if inputs is not None and inputs.dtype == np.int64 else _FIELDS
    read = {
        field: _read(arrays, f"{part}_{field}", dtype, rank, where) for field, (dtype, rank) in fields.items()
    }
    control = f"{part}_control_logits"
    if control in arrays:
        read["control_logits"] = _read(arrays, control, *fields["float_logits"], where)
    if part == MUST_KEEP:
        read["trained_on"] = _read(arrays, f"{part}_trained_on", "bool", 1, where)
    lengths = {field: len(array) for field, array in read.items()}
    if len(set(lengths.values())) != 1:
        raise FileFormatError(f"the arrays of '{part}' differ in length: {lengths}", where=where)
    samples = SampleSet(**read)  # type: ignore[arg-type]  # dtypes are checked above
    classes = samples.float_logits.shape[-1]
    shapes = {array.shape[-1] for field, array in read.items() if field.endswith("logits")}
    if shapes != {classes} or classes < 2:
        raise FileFormatError(
            f"the logits of '{part}' have {sorted(shapes)} classes, expected one number of at least 2",
            where=where,
        )
    _check_labels(samples, classes, part, where)
    if samples.is_text:
        _check_text(samples, read, part, where)
    return samples


def _check_labels(samples: SampleSet, classes: int, part: str, where: str) -> None:
    ignored = (samples.labels == IGNORED) & samples.is_text
    wrong = np.argwhere(((samples.labels < 0) | (samples.labels >= classes)) & ~ignored)
    if wrong.size:
        first = tuple(wrong[0])
        raise DataError(
            f"label {int(samples.labels[first])} of sample {samples.ids[first[0]]} ('{part}', index "
            f"{first[0]}) is not in 0..{classes - 1}",
            where=where,
        )


def _check_text(samples: SampleSet, read: Mapping[str, NDArray[np.generic]], part: str, where: str) -> None:
    """One logit row and one label for each token, and a label at least in each sequence."""
    lengths = {array.shape[1] for field, array in read.items() if field not in ("ids", "trained_on")}
    if len(lengths) != 1:
        raise FileFormatError(
            f"the sequences of '{part}' have inputs, labels and logits of lengths {sorted(lengths)}",
            where=where,
        )
    if (samples.inputs < 0).any():
        raise DataError(f"a token of '{part}' is negative", where=where)
    unlabelled = np.flatnonzero(~samples.labelled.any(axis=1))
    if unlabelled.size:
        raise DataError(
            f"no token of sample {samples.ids[unlabelled[0]]} ('{part}', index {unlabelled[0]}) has a label",
            where=where,
        )


def _read(
    arrays: Mapping[str, NDArray[np.generic]], name: str, dtype: str, rank: int | None, where: str
) -> NDArray[np.generic]:
    if name not in arrays:
        raise FileFormatError(
            f"array '{name}' is missing", where=where, remedy="build again; the file is not complete"
        )
    array = arrays[name]
    right = array.dtype.kind == "U" if dtype == "text" else array.dtype == np.dtype(dtype)
    if not right or (array.ndim != rank if rank is not None else array.ndim < 2):
        raise FileFormatError(
            f"array '{name}' is {array.dtype}{list(array.shape)}, expected {dtype} with "
            f"{rank if rank is not None else '2 or more'} dimensions",
            where=where,
        )
    return array


def _check_agreement(sets: Mapping[str, SampleSet], where: str) -> None:
    shapes = {(samples.inputs.shape[1:], samples.float_logits.shape[1:]) for samples in sets.values()}
    if len(shapes) != 1:
        raise FileFormatError(
            f"the parts differ in sample shape or classes: {sorted(map(str, shapes))}", where=where
        )


def _check_overlaps(sets: Mapping[str, SampleSet], measured: set[str], where: str) -> None:
    """DataError when a sample is twice in guide, watch and certify together, or any is in the test set."""
    groups = {name: _ids(sets[name]) for name in REQUIRED_PARTS}
    for name, distinct in groups.items():
        if len(distinct) != len(sets[name]):
            raise DataError(
                f"{name} holds {len(sets[name])} samples, but only {len(distinct)} different ones",
                where=where,
                remedy="build again; a sample counted twice would be judged twice",
            )
    groups["the test set"] = measured
    pairs = list(combinations(groups, 2))
    if MUST_KEEP in sets:
        groups[MUST_KEEP] = _ids(sets[MUST_KEEP])
        pairs.append((MUST_KEEP, "the test set"))
    for first, second in pairs:
        shared = groups[first] & groups[second]
        if shared:
            raise DataError(
                f"{len(shared)} samples are in both {first} and {second}: {_listed(shared)}",
                where=where,
                remedy="remove duplicates between the data sets and build again",
            )


def _check_marks(sets: Mapping[str, SampleSet], where: str) -> None:
    """Guide samples may enter a gradient, those of watch and certify never do."""
    kept = sets[MUST_KEEP]
    trained = {str(value) for value in kept.ids[kept.trained_on]}
    never = _ids(kept) - trained
    wrong = (_ids(sets["guide"]) & never) | ((_ids(sets["watch"]) | _ids(sets[CERTIFY])) & trained)
    if wrong:
        raise FileFormatError(
            f"'{MUST_KEEP}_trained_on' contradicts the part that has the sample: {_listed(wrong)}",
            where=where,
            remedy="build again; samples of guide are trained on, those of watch and certify are not",
        )


def _ids(samples: SampleSet) -> set[str]:
    return {str(value) for value in samples.ids}


def _listed(ids: set[str]) -> str:
    return ", ".join(sorted(ids)[:_SHOWN_IDS]) + (", ..." if len(ids) > _SHOWN_IDS else "")
