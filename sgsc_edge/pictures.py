"""Samples as people see them: images as RGB pixels, thumbnails and PNG, sequences of tokens as text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.project.schema import InputSection

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
"""RGB uint8 [H, W, 3]."""


def has_pictures(shape: Sequence[int]) -> bool:
    """Whether a sample's shape is that of an image: [1 or 3, H, W]."""
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 1


def text_of(tokens: Sequence[str]) -> str:
    """Named tokens in a row: characters side by side, longer names with spaces between them.

    >>> text_of(["e", "m", "m", "a"]), text_of(["to", "be"])
    ('emma', 'to be')
    """
    return ("" if all(len(token) <= 1 for token in tokens) else " ").join(tokens)


def to_pixels(inputs: Sequence[NDArray[np.float32]], stated: InputSection | None) -> list[Pixels]:
    """Pixels of inputs float32 [1 or 3, H, W], all on one scale from black to white.

    Values go from black to white over the range that ``stated`` says they have without normalization, or else
    over that of the samples given.
    """
    mean, std = (stated.mean, stated.std) if stated else (None, None)

    def per_channel(numbers: Sequence[float]) -> NDArray[np.float32]:
        return np.array(numbers, dtype=np.float32)[:, None, None]

    raw = [one * per_channel(std or (1.0,)) + per_channel(mean or (0.0,)) for one in inputs]
    low, high = (stated.range if stated else None) or (
        min((float(one.min()) for one in raw), default=0.0),
        max((float(one.max()) for one in raw), default=1.0),
    )
    scale = 255 / (high - low) if high > low else 0.0
    pixels = []
    for one in raw:
        image = np.clip(np.rint((one - low) * scale), 0, 255).astype(np.uint8)
        image = image[::-1] if stated and stated.color == "bgr" else image
        rgb = np.broadcast_to(image, (3, *image.shape[1:]))
        pixels.append(np.ascontiguousarray(rgb.transpose(1, 2, 0)))
    return pixels


def thumbnail(pixels: Pixels, side: int) -> Image:
    """At most ``side`` pixels wide and high; small images grow by whole factors."""
    from PIL import Image

    image = Image.fromarray(pixels)
    longest = max(image.size)
    if longest <= side:
        factor = side // longest
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    size = (max(image.width * side // longest, 1), max(image.height * side // longest, 1))
    return image.resize(size, Image.Resampling.BOX)


def png(image: Image) -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()
