"""Pictures that come with the package, for a first caption without a picture at hand.

They are drawn, so that the embedded model knows what they show.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import LlavaNbError, plain

FOLDER = Path(__file__).parent
NAMES = ("one_shape.png", "two_shapes.png", "three_shapes.png")


def example_picture(name: str = "three_shapes.png") -> Path:
    """Return the path of a bundled picture. Raises LlavaNbError, which names those there are."""
    if not isinstance(name, str) or name not in NAMES:
        raise LlavaNbError(
            f"There is no bundled picture {plain(repr(name))}; there are: {', '.join(NAMES)}."
        )
    return FOLDER / name
