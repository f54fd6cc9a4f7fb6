"""Several pictures side by side as one, for a model that was trained on one.

Covered: laying out in a row, on white, and the warning. Not covered: opening pictures
(`images.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from PIL import Image

from .images import open_image

GAP = 0.02  # of the height, between two pictures
HEIGHT = 672  # pixels, twice what LLaVA-1.5 looks at; higher pictures are made smaller


def one_picture(image: Any) -> Any:
    """Return what was given, or a list of several pictures laid side by side."""
    if not isinstance(image, list) or len(image) < 2:
        return image[0] if isinstance(image, list) and image else image
    warnings.warn(
        f"LLaVA-1.5 was trained on one picture at a time. These {len(image)} are laid side by "
        'side as one; ask about "the left picture", or chat about each on its own.',
        stacklevel=5,
    )
    return side_by_side([open_image(each) for each in image])


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return the pictures in a row, left to right, all of one height, white between them.

    The height is that of the highest, at most 672 pixels.
    """
    height = min(max(picture.height for picture in pictures), HEIGHT)
    scaled = [
        picture.resize((max(round(picture.width * height / picture.height), 1), height))
        for picture in pictures
    ]
    gap = max(round(GAP * height), 1)
    width = sum(picture.width for picture in scaled) + gap * (len(scaled) - 1)
    row = Image.new("RGB", (width, height), "white")
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row
