"""The preservation set of a language model as a picture: a row a part and criterion, its first sequences.

A last row has the must_keep sequences, where there are any. Each is the text that has labels, and under it
how many of its next tokens the float model decides rightly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sgsc_edge.pictures import png, text_of
from sgsc_edge.preservation.contact_sheet import INK, PALE, PAPER, chosen_rows, latin, sheet_title
from sgsc_edge.preservation.selection import Selection
from sgsc_edge.preservation.sets import PreservationSet, Samples
from sgsc_edge.project import Config
from sgsc_edge.project.schema import IGNORED

_COLUMNS = 10
_CHARACTERS = 18  # of a sequence that are shown
_WIDTH, _LINE, _GAP, _LEFT, _TITLE = 120, 14, 6, 96, 24  # pixels


def text_sheet(config: Config, samples: PreservationSet, selection: Selection) -> bytes:
    """PNG of the first sequences of each criterion, in the names that ``data.classes`` gives the tokens."""
    from PIL import Image, ImageDraw

    rows = chosen_rows(selection, _COLUMNS)
    places = _places(samples)
    height = 2 * _LINE + _GAP
    sheet = Image.new("RGB", (_LEFT + _COLUMNS * _WIDTH + _GAP, _TITLE + len(rows) * height + _GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), latin(sheet_title(config.project.name, selection)), fill=INK)
    for number, ((part, criterion), row) in enumerate(rows.items()):
        top = _TITLE + number * height
        draw.text((_GAP, top), part, fill=INK)
        draw.text((_GAP, top + _LINE), criterion, fill=PALE)
        for column, one in enumerate(row):
            left = _LEFT + column * _WIDTH
            draw.text((left, top), latin(_text(*places[one.hash], config.data.classes)), fill=INK)
            draw.text((left, top + _LINE), f"{one.prediction} of {one.label} right", fill=PALE)
    return png(sheet)


def _places(samples: PreservationSet) -> dict[str, tuple[Samples, int]]:
    """Which part has the sequence of a content hash, and at which index."""
    return {
        digest: (part, index) for part in samples.parts.values() for index, digest in enumerate(part.hashes)
    }


def _text(part: Samples, index: int, names: Sequence[str] | None) -> str:
    """The tokens of a sequence that have a label, cut to what a column holds."""
    tokens, following = (torch.as_tensor(one) for one in part.dataset[index])
    shown = tokens[following != IGNORED].tolist()
    known = [names[token] if names and token < len(names) else f"{token}" for token in shown]
    text = text_of(known)
    return text if len(text) <= _CHARACTERS else f"{text[: _CHARACTERS - 1]}~"
