"""The preservation set as a picture: a row a part and criterion, its first choices of every class in turn.

A last row has the must_keep samples, where there are any, lowest margins first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.pictures import png, thumbnail, to_pixels
from sgsc_edge.preservation.selection import MustKept, Selected, Selection
from sgsc_edge.preservation.sets import MUST_KEEP, PreservationSet
from sgsc_edge.project import Config

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

COLUMNS = 20
_SIDE = 56  # pixels of a thumbnail's longer side
_GAP = 6
_TEXT = 14  # height of a line
_LEFT = 96  # width of the row titles
_TITLE = 24
INK, PALE, _WRONG, PAPER = (32, 32, 32), (120, 120, 120), (190, 30, 30), (255, 255, 255)


def contact_sheet(config: Config, samples: PreservationSet, selection: Selection) -> bytes:
    """PNG of the first choices; under each its label, then the float model's decision, red where wrong.

    The samples must be images (``has_pictures``); values go from black to white over the range that
    ``model.input`` states, or else over that of the samples shown.
    """
    from PIL import Image, ImageDraw

    rows = chosen_rows(selection, COLUMNS)
    inputs = _inputs(samples, [one for row in rows.values() for one in row])
    pixels = dict(zip(inputs, to_pixels(list(inputs.values()), config.model.input), strict=True))
    columns = max((len(row) for row in rows.values()), default=1)
    step, height = _SIDE + _GAP, _SIDE + 2 * _TEXT + _GAP
    size = (_LEFT + columns * step + _GAP, _TITLE + len(rows) * height + _GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    names = config.data.classes
    draw.text((_GAP, _GAP), latin(sheet_title(config.project.name, selection)), fill=INK)
    for number, ((part, criterion), row) in enumerate(rows.items()):
        top = _TITLE + number * height
        draw.text((_GAP, top), part, fill=INK)
        draw.text((_GAP, top + _TEXT), criterion, fill=PALE)
        for column, one in enumerate(row):
            left = _LEFT + column * step
            sheet.paste(thumbnail(pixels[one.hash], _SIDE), (left, top))
            _caption(draw, (left, top + _SIDE), one, names)
    return png(sheet)


def chosen_rows(selection: Selection, columns: int) -> dict[tuple[str, str], Sequence[Selected | MustKept]]:
    """The first ``columns`` samples of each part and criterion, then of must_keep."""
    rows: dict[tuple[str, str], Sequence[Selected | MustKept]] = {
        (part, criterion): _first_choices(selection.part(part), criterion)[:columns]
        for part in ("guide", "watch", "certify")
        for criterion in selection.shares
    }
    if selection.must_keep:
        closest = sorted(selection.must_keep, key=lambda one: (one.margin, one.hash))
        rows[MUST_KEEP, "lowest margin"] = closest[:columns]
    return rows


def _first_choices(part: Sequence[Selected], criterion: str) -> list[Selected]:
    """The first choice of each class, then the second ones, and so on."""
    before: Counter[int] = Counter()
    turns = []
    for one in sorted(
        (one for one in part if one.criterion == criterion), key=lambda one: one.ranks[criterion]
    ):
        turns.append((before[one.label], one.label, one))
        before[one.label] += 1
    return [one for *_, one in sorted(turns, key=lambda turn: turn[:2])]


def _inputs(samples: PreservationSet, shown: Sequence[Selected | MustKept]) -> dict[str, NDArray[np.float32]]:
    """Inputs [C, H, W] by content hash."""
    places = {
        digest: (part, index) for part in samples.parts.values() for index, digest in enumerate(part.hashes)
    }
    found = {}
    for one in shown:
        part, index = places[one.hash]
        found[one.hash] = np.asarray(part.dataset[index][0], dtype=np.float32)
    return found


def sheet_title(name: str, selection: Selection) -> str:
    """One line: the project, how many samples each part has, and what is shown."""
    counts = {part: len(selection.part(part)) for part in ("guide", "watch", "certify")}
    if selection.must_keep:
        counts[MUST_KEEP] = len(selection.must_keep)
    parts = ", ".join(f"{count} {part}" for part, count in counts.items())
    shown = "class: label, then float decision"
    if selection.is_text:
        shown = "length: next tokens that float decides rightly"
    return f"{name}: preservation set ({parts}). First choices of each {shown}"


def _caption(
    draw: ImageDraw, corner: tuple[int, int], one: Selected | MustKept, names: Sequence[str] | None
) -> None:
    """Label and decision on two lines, cut to the thumbnail's width."""
    left, top = corner
    wrong = one.label != one.prediction
    for line, label in enumerate((one.label, one.prediction)):
        text = latin(names[label] if names else str(label))
        while len(text) > 1 and draw.textlength(text) > _SIDE:
            text = text[:-1]
        ink = INK if line == 0 else _WRONG if wrong else PALE
        draw.text((left, top + line * (_TEXT - 2)), text, fill=ink)


def latin(text: str) -> str:
    """Text for Pillow's own font, which has no more than Latin letters in some builds."""
    return text.encode("latin-1", "replace").decode("latin-1")
