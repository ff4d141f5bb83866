"""First names as tokens: int64 [32] in, the next tokens int64 [32] out, -100 behind a name's end.

A name is read as ``.emma`` and answered by ``emma.``. Its place is decided by its own hash, so that the split
is the same everywhere: one name in ten is a test sample.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

import torch
from model import LENGTH, TOKENS
from torch import Tensor
from torch.utils.data import TensorDataset

from sgsc_edge.artifacts import read_bytes
from sgsc_edge.errors import DataError

TEST_SHARE = 0.1
IGNORED = -100  # no next token: torch's cross-entropy leaves it out
_MAX_BYTES = 1 << 24
_CHARACTERS = "." + "abcdefghijklmnopqrstuvwxyz"
assert len(_CHARACTERS) == TOKENS


def train() -> TensorDataset:
    """Nine names in ten; the pool is a part of them."""
    return encode([name for name in names() if not is_test(name)])


def test() -> TensorDataset:
    """One name in ten, measured only."""
    return encode([name for name in names() if is_test(name)])


def is_test(name: str) -> bool:
    """Whether a name's SHA-256, as a fraction of its largest value, lies below ``TEST_SHARE``."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) < TEST_SHARE * 2**64


def encode(chosen: list[str]) -> TensorDataset:
    """(tokens int64 [LENGTH], next tokens int64 [LENGTH]) of each name."""
    tokens = torch.zeros(len(chosen), LENGTH, dtype=torch.int64)
    following = torch.full((len(chosen), LENGTH), IGNORED)
    for row, name in enumerate(chosen):
        numbers = torch.tensor([_CHARACTERS.index(character) for character in name])
        tokens[row, 1 : len(name) + 1] = numbers
        following[row, : len(name)] = numbers
        following[row, len(name)] = 0
    return TensorDataset(tokens, following)


def stack(dataset: torch.utils.data.Dataset[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Every sample of a data set: tokens int64 [n, LENGTH] and next tokens int64 [n, LENGTH]."""
    samples = [dataset[i] for i in range(len(dataset))]  # type: ignore[arg-type]
    tokens, following = zip(*samples, strict=True)
    return torch.stack(tokens), torch.stack(following)


@cache
def names() -> tuple[str, ...]:
    """Different names of a to z, sorted: of ``$SGSC_EDGE_DATA/names.txt``, or of the package Faker.

    Raises ``DataError`` where neither is there.
    """
    folder = os.environ.get("SGSC_EDGE_DATA")
    if folder and (path := Path(folder) / "names.txt").is_file():
        found = read_bytes(path, _MAX_BYTES).decode("ascii", "replace").split()
    else:
        found = _of_faker()
    return tuple(sorted({name for name in map(str.lower, found) if _is_plain(name)}))


def _is_plain(name: str) -> bool:
    """Whether each character has a token, and ``.`` fits in front."""
    return 2 <= len(name) < LENGTH and set(name) <= set(_CHARACTERS[1:])


def _of_faker() -> list[str]:
    try:
        from faker.providers.person.en import Provider
    except ImportError as missing:
        raise DataError(
            "there is no names.txt in $SGSC_EDGE_DATA, and Faker is not installed",
            where="names",
            remedy="put a file of names there, one a line, or: pip install 'sgsc-edge[names]'",
        ) from missing
    return list(Provider.first_names)
