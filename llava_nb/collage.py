"""Several pictures side by side as one, for a model that was trained on one.

Covered: laying out in a row, on white, and the warning. Not covered: opening pictures
(`images.py`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image

from .errors import ImageError, PromptError
from .images import open_image

GAP = 0.02  # of the height, between two pictures
HEIGHT = 672  # pixels, twice what LLaVA-1.5 looks at; higher pictures are made smaller
WIDTH = 16_384  # pixels of the row: 42 MiB at that height, whatever the pictures' shapes


def one_picture(image: Any) -> Any:
    """Return what was given, or a list of several pictures laid side by side."""
    images = several(image)
    if images is None:
        return image
    if not images:
        raise ImageError(
            "There is no picture in what was given: chat(image) takes a picture, a list of them, "
            "or None."
        )
    if len(images) == 1:
        return images[0]
    warnings.warn(
        f"LLaVA-1.5 was trained on one picture at a time. These {len(images)} are laid side by "
        'side as one; ask about "the left picture", or chat about each on its own.',
        stacklevel=5,
    )
    # One after the other, each made small before the next is opened.
    return side_by_side(_small(open_image(each)) for each in images)


def several(images: Any) -> list[Any] | None:
    """Return what was given as a list, or None where it is one picture or none at all.

    Several are a list, a generator, a column of pandas, an array of pictures; a text is the path
    of one. Raises PromptError for what has no order.
    """
    kind = type(images).__name__
    if isinstance(images, set | frozenset) or kind == "DataFrame":
        how = 'one column, table["image"]' if kind == "DataFrame" else "a list, sorted(images)"
        raise PromptError(f"The pictures are a {kind}, which has no order of pictures: give {how}.")
    if isinstance(images, _ONE) or hasattr(images, "read") or not hasattr(images, "__iter__"):
        return None
    if kind == "Tensor" or (kind == "ndarray" and _is_one_picture(images)):
        return None
    return list(images)


_ONE = (str, bytes, bytearray, memoryview, os.PathLike, Mapping, Image.Image)


def _is_one_picture(array: Any) -> bool:
    """Whether an array is a picture: (height, width), perhaps with 1, 3 or 4 channels."""
    if array.dtype.kind not in "buif":  # paths, or pictures as objects
        return array.ndim == 0
    return array.ndim < 3 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4))


def side_by_side(pictures: Iterable[Image.Image]) -> Image.Image:
    """Return the pictures in a row, left to right, all of one height, white between them.

    The height is that of the highest, at most 672 pixels, and less where the row would be wider
    than 16,384 pixels.
    """
    pictures = list(pictures)
    height = min(max(picture.height for picture in pictures), HEIGHT)
    shape = sum(picture.width / picture.height for picture in pictures)
    height = max(min(height, int(WIDTH / shape)), 1)
    scaled = [picture.resize((_width_at(height, picture), height)) for picture in pictures]
    gap = max(round(GAP * height), 1)
    width = sum(picture.width for picture in scaled) + gap * (len(scaled) - 1)
    row = Image.new("RGB", (width, height), "white")
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def _width_at(height: int, picture: Image.Image) -> int:
    """The width of a picture that is made so high."""
    return min(max(round(picture.width * height / picture.height), 1), WIDTH)


def _small(picture: Image.Image) -> Image.Image:
    """Return the picture no higher and no wider than it can be in a row."""
    width, height = picture.size
    small = min(1, HEIGHT / height, WIDTH / width)
    if small == 1:
        return picture
    return picture.resize((max(round(width * small), 1), max(round(height * small), 1)))
